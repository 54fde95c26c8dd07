"""A channel map selects, orders, trims and flips; it converts every sample type without changing a sample."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.errors import ConfigError
from stagebox_rack.audio.channel_map import Channel, ChannelMap


def native(dtype: npt.DTypeLike, frames: int, inputs: int) -> npt.NDArray[np.generic]:
    rng = np.random.default_rng(7)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.uniform(-1, 1, (frames, inputs)).astype(kind)
    info = np.iinfo(kind)
    return rng.integers(info.min, info.max, (frames, inputs), dtype=kind, endpoint=True)


def test_16_bit_samples_convert_exactly() -> None:
    every = np.arange(-32_768, 32_768, dtype=np.int16)[:, np.newaxis]
    out = ChannelMap.identity(1).apply(every)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out * 32_768, every)


def test_24_bit_samples_convert_exactly() -> None:
    samples = np.array([-(1 << 23), -(1 << 23) + 1, -1, 0, 1, 8_388_607, 123_457], dtype=np.int32)[
        :, np.newaxis
    ]
    out = ChannelMap.identity(1).apply(samples << 8)
    np.testing.assert_array_equal(out.astype(np.float64) * (1 << 23), samples)


def test_float_samples_pass_untouched_nan_and_infinity_too() -> None:
    samples = np.array([[0.1, np.nan], [-1.5, np.inf]], dtype=np.float32)
    np.testing.assert_array_equal(ChannelMap.identity(2).apply(samples), samples)


@given(
    order=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    dtype=st.sampled_from([np.int16, np.int32, np.float32]),
    data=st.data(),
)
def test_it_is_selection_times_gain_times_polarity(
    order: list[int], dtype: type, data: st.DataObject
) -> None:
    gains = data.draw(st.lists(st.floats(-60, 40), min_size=len(order), max_size=len(order)))
    flips = data.draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order)))
    channels = [
        Channel(source, f"c{n}", gain_db=gain, inverted=flip)
        for n, (source, gain, flip) in enumerate(zip(order, gains, flips, strict=True))
    ]
    samples = native(dtype, 5, 6)
    full = 1.0 if dtype is np.float32 else float(-np.iinfo(dtype).min)
    expected = (
        samples[:, order].astype(np.float64) / full * 10 ** (np.array(gains) / 20) * np.where(flips, -1, 1)
    )
    np.testing.assert_allclose(ChannelMap(channels).apply(samples), expected, rtol=3e-7, atol=1e-12)


def test_the_native_block_is_not_changed() -> None:
    samples = native(np.float32, 10, 2)
    before = samples.copy()
    ChannelMap([Channel(1, "b", inverted=True), Channel(0, "a")]).apply(samples)
    np.testing.assert_array_equal(samples, before)


def test_unmapped_neighbours_are_left_and_right_and_a_single_one_is_in_the_middle() -> None:
    assert [c.pan for c in ChannelMap.identity(1).channels] == [0.0]
    assert [c.pan for c in ChannelMap.identity(5).channels] == [-1.0, 1.0, -1.0, 1.0, 0.0]
    assert ChannelMap.identity(3).names == ("1", "2", "3")


def test_names_and_groups_select_channels_in_map_order() -> None:
    mapped = ChannelMap([Channel(0, "kick", "drums"), Channel(1, "vox"), Channel(2, "snare", "drums")])
    assert mapped.select(["vox"], setting="x") == (1,)
    assert mapped.select(["vox", "drums"], setting="x") == (0, 1, 2)
    with pytest.raises(
        ConfigError, match=r"rack\.buses\.main: there is no channel or group 'bass'"
    ) as refused:
        mapped.select(["bass"], setting="rack.buses.main")
    assert refused.value.remedy == "there are kick, vox, snare, drums"


def test_two_channels_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"rack\.channels\.main: two channels are named 'vox'"):
        ChannelMap([Channel(0, "vox"), Channel(1, "vox")], setting="rack.channels.main")


def test_an_input_the_source_does_not_have_is_refused_by_its_number_on_the_panel() -> None:
    mapped = ChannelMap([Channel(0, "a"), Channel(8, "b")], setting="rack.channels.main")
    mapped.require_inputs(9)
    with pytest.raises(ConfigError, match=r"channel 'b' is input 9, but the source has 8 inputs"):
        mapped.require_inputs(8)
