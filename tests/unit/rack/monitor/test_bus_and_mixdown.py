"""What a listener hears of which channel: the pan law, gains, limits; compared with plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox_rack.audio.channel_map import Channel, ChannelMap
from stagebox_rack.monitor.bus import BusPlan
from stagebox_rack.monitor.mixdown import Mixdown


def stage() -> ChannelMap:
    return ChannelMap(
        [Channel(0, "vox-l", "vox", -1.0), Channel(1, "vox-r", "vox", 1.0), Channel(2, "kick", "drums", 0.0)]
    )


def test_the_bus_of_an_unmapped_stereo_source_is_that_source_bit_for_bit() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (480, 2)).astype(np.float32)
    mapped = ChannelMap.identity(2)
    mix = BusPlan("main", "main").mix(mapped)
    assert mix.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    np.testing.assert_array_equal(Mixdown(mapped, mix).process(samples), samples)


def test_of_an_unmapped_interface_the_first_pair_is_heard_and_of_a_mapped_one_everything() -> None:
    assert np.count_nonzero(BusPlan("main", "main").mix(ChannelMap.identity(8)).any(axis=1)) == 2
    assert BusPlan("main", "main").mix(stage()).any(axis=1).all()


def test_a_mono_source_has_a_mono_bus_at_its_own_level() -> None:
    assert BusPlan("main", "main").mix(ChannelMap.identity(1)).tolist() == [[1.0]]


@given(pan=st.floats(-1.0, 1.0))
def test_panning_keeps_the_power(pan: float) -> None:
    mix = BusPlan("b", "main", ("kick",), pans={"kick": pan}).mix(stage())
    assert float((mix[2] ** 2).sum()) == pytest.approx(1.0, abs=1e-6)
    assert not mix[:2].any()


def test_a_mono_bus_keeps_the_power_of_unrelated_channels() -> None:
    mix = BusPlan("b", "main", ("vox", "kick"), {"kick": -6.0}, mode="mono").mix(stage())
    assert mix[:, 0] == pytest.approx([3**-0.5, 3**-0.5, 3**-0.5 * 10 ** (-6 / 20)])


@given(seed=st.integers(0, 99), gain=st.floats(-40, 20))
def test_a_mix_is_the_weighted_sum_of_its_channels(seed: int, gain: float) -> None:
    samples = np.random.default_rng(seed).uniform(-0.05, 0.05, (96, 3)).astype(np.float32)
    plan = BusPlan("b", "main", ("vox", "kick"), {"kick": gain}, {"kick": 0.5})
    mixed = Mixdown(stage(), plan.mix(stage())).process(samples)
    kick = samples[:, 2].astype(np.float64) * 10 ** (gain / 20)
    angle = 1.5 * np.pi / 4
    expected = np.stack((samples[:, 0] + np.cos(angle) * kick, samples[:, 1] + np.sin(angle) * kick), axis=1)
    np.testing.assert_allclose(mixed, np.clip(expected, -1, 1), atol=1e-6)


def test_what_is_too_loud_is_limited_and_counted_never_wrapped() -> None:
    mapped = ChannelMap.identity(2)
    mixdown = Mixdown(mapped, BusPlan("b", "main", gains_db={"1": 20.0}).mix(mapped))
    mixed = mixdown.process(np.full((10, 2), 0.5, dtype=np.float32))
    assert mixed[:, 0].tolist() == [1.0] * 10
    assert mixed[:, 1].tolist() == [0.5] * 10
    assert mixdown.clipped == 10


def test_what_is_no_number_is_silent_and_counted_and_integers_need_no_looking() -> None:
    mapped = ChannelMap.identity(2)
    mixdown = Mixdown(mapped, BusPlan("b", "main").mix(mapped))
    samples = np.full((4, 2), 0.25, dtype=np.float32)
    samples[1, 0], samples[2, 1] = np.nan, -np.inf
    mixed = mixdown.process(samples)
    assert (mixed[1, 0], mixed[2, 1], mixdown.nonfinite) == (0.0, 0.0, 2)
    assert np.isfinite(mixed).all()
    whole = mixdown.process(np.full((4, 2), -32_768, dtype=np.int16))
    assert whole.tolist() == [[-1.0, -1.0]] * 4
