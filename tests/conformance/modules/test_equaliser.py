"""The equaliser beside scipy's sections, the limiter beside numpy's: `deploy/modules/parametric-eq-limiter`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.signal import sosfilt

from conformance.modules.equaliser_reference import (
    HIGH_CUT,
    HIGH_SHELF,
    LOW_CUT,
    LOW_SHELF,
    PEAK,
    Band,
    ahead,
    limited,
)
from support.module_builds import Built
from support.wasm_guest import Guest

RATE = 48_000
EIGHT = (
    Band(LOW_CUT, 40.0, 0.0, 0.7071),
    Band(LOW_SHELF, 120.0, 4.5, 0.7071),
    Band(PEAK, 250.0, -6.0, 1.4),
    Band(PEAK, 1_000.0, 3.0, 0.9),
    Band(PEAK, 2_500.0, -12.0, 8.0),
    Band(PEAK, 6_300.0, 2.0, 2.0),
    Band(HIGH_SHELF, 8_000.0, -5.0, 0.7071),
    Band(HIGH_CUT, 16_000.0, 0.0, 0.7071),
)
FLOAT32_STEP = 2.0**-23

RecordProperty = Callable[[str, object], None]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def noise(seconds: float, channels: int, level: float, rate: int = RATE) -> Float32:
    made = np.random.default_rng(20_260_101).standard_normal((round(seconds * rate), channels))
    return (level * made).astype(np.float32)


def params_of(bands: tuple[Band, ...]) -> dict[str, float]:
    return {
        name: value for number, band in enumerate(bands, 1) for name, value in band.params(number).items()
    }


def undelayed(out: Float32, rate: int = RATE) -> Float32:
    return out[ahead(rate) :]


def error(out: Float32, reference: Float64) -> float:
    """The largest difference over the part that both have."""
    return float(np.abs(out - reference[: len(out)]).max())


def worst_channel_of(equaliser: Built, bands: tuple[Band, ...], rate: int, channels: int) -> float:
    signal = noise(1.0, channels, 0.02, rate)
    guest = Guest(equaliser.data, rate, channels, equaliser.params(ceiling=0.0, **params_of(bands)))
    reference = sosfilt(np.array([band.sos(rate) for band in bands]), signal.astype(np.float64), axis=0)
    assert np.abs(reference).max() < 1.0, "the limiter would have its part in this"
    return error(undelayed(guest.run(signal), rate), reference)


@pytest.mark.parametrize("kind", range(PEAK, HIGH_CUT + 1))
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 96_000, 192_000])
def test_every_type_of_band_is_the_cookbooks_filter_at_every_rate(
    equaliser: Built, kind: int, rate: int
) -> None:
    for band in (Band(kind, 30.0, 9.0, 0.5), Band(kind, 1_500.0, -18.0, 4.0), Band(kind, 24_000.0, 6.0, 1.0)):
        assert worst_channel_of(equaliser, (band,), rate, 1) < 1e-6


def test_eight_bands_over_many_channels_are_within_1e_4_of_scipy(
    equaliser: Built, record_property: RecordProperty
) -> None:
    worst = max(worst_channel_of(equaliser, EIGHT, RATE, channels) for channels in (1, 2, 16))
    record_property("largest error", worst)
    print(f"equaliser: largest error beside scipy.signal.sosfilt {worst:.2e}")
    assert worst < 1e-6


def test_with_its_defaults_it_only_delays(equaliser: Built) -> None:
    signal = noise(0.5, 2, 0.1)
    out = Guest(equaliser.data, RATE, 2, equaliser.defaults).run(signal)
    assert np.array_equal(undelayed(out), signal[: -ahead(RATE)])
    assert not out[: ahead(RATE)].any()


def test_blocks_of_any_length_give_the_same_samples(equaliser: Built) -> None:
    signal = noise(0.5, 2, 0.4)
    params = equaliser.params(**params_of(EIGHT), ceiling=-6.0)
    whole = Guest(equaliser.data, RATE, 2, params).run(signal)
    guest = Guest(equaliser.data, RATE, 2, params)
    lengths, at = [1, 960, 7, 959, 333], 0
    parts: list[Float32] = []
    while at < len(signal):
        size = lengths[len(parts) % len(lengths)]
        parts.append(guest.process(signal[at : at + size]))
        at += size
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(("ceiling", "release"), [(-1.0, 100.0), (-12.0, 10.0), (-20.0, 2_000.0)])
@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
def test_the_limiter_is_numpys_and_never_above_its_ceiling(
    equaliser: Built, ceiling: float, release: float, rate: int
) -> None:
    signal = noise(1.0, 3, 0.3, rate)
    signal[rate // 4 :: rate // 10] *= 30.0
    signal[rate // 2 : rate // 2 + rate // 50, 1] = 5.0
    out = Guest(equaliser.data, rate, 3, equaliser.params(ceiling=ceiling, release=release)).run(signal)
    assert np.abs(out).max() <= np.float32(10 ** (ceiling / 20))
    assert error(out, limited(signal.astype(np.float64), rate, ceiling, release)) < FLOAT32_STEP


def test_all_channels_get_the_same_gain(equaliser: Built) -> None:
    signal = noise(0.5, 2, 0.05)
    signal[9_600:12_000, 0] *= 40.0
    out = undelayed(Guest(equaliser.data, RATE, 2, equaliser.defaults).run(signal))
    into = signal[: len(out)].astype(np.float64)
    gains = out / into
    loud = np.abs(into).min(axis=1) > 1e-3
    assert gains[loud].min() < 0.5
    assert np.allclose(gains[loud, 0], gains[loud, 1], rtol=1e-5)


def test_a_loud_equaliser_ends_below_the_ceiling_too(equaliser: Built) -> None:
    bands = (Band(PEAK, 100.0, 24.0, 1.0), Band(PEAK, 110.0, 24.0, 1.0), Band(HIGH_SHELF, 4_000.0, 24.0, 0.7))
    signal = noise(1.0, 2, 0.5)
    params = equaliser.params(**params_of(bands), output=24.0, ceiling=-3.0, release=1.0)
    out = Guest(equaliser.data, RATE, 2, params).run(signal)
    assert np.abs(out).max() <= np.float32(10 ** (-3.0 / 20))
    reference = sosfilt(np.array([band.sos(RATE) for band in bands]), signal * 10 ** (24 / 20), axis=0)
    assert error(out, limited(reference, RATE, -3.0, 1.0)) < 1e-5


def test_a_moved_parameter_glides_and_then_is_the_new_filter(equaliser: Built) -> None:
    t = np.arange(RATE) / RATE
    signal = (0.05 * np.sin(2 * np.pi * 997.0 * t))[:, np.newaxis].astype(np.float32)
    before, after = Band(PEAK, 1_000.0, -12.0, 1.0), Band(PEAK, 1_000.0, 12.0, 1.0)
    guest = Guest(equaliser.data, RATE, 1, equaliser.params(**before.params(1)))
    out = [guest.run(signal[: RATE // 2])]
    for number, value in equaliser.params(**after.params(1)).items():
        guest.set(number, value)
    out.append(guest.run(signal[RATE // 2 :]))
    heard = undelayed(np.concatenate(out))[:, 0]
    settled = sosfilt(after.sos(RATE)[np.newaxis], signal[:, 0].astype(np.float64))
    assert error(heard[-RATE // 5 :], settled[len(heard) - RATE // 5 : len(heard)]) < 1e-6
    # No step: the second difference is that of the loudest sine, not of a click.
    bend = np.abs(np.diff(heard.astype(np.float64), 2)).max()
    assert bend < 1.5 * 0.2 * (2 * np.pi * 997.0 / RATE) ** 2


def test_a_band_that_is_switched_on_again_brings_nothing_back(equaliser: Built) -> None:
    band = Band(PEAK, 50.0, 24.0, 30.0)
    guest = Guest(equaliser.data, RATE, 1, equaliser.params(**band.params(1)))
    guest.run(noise(0.5, 1, 0.01))
    silence = np.zeros((RATE // 10, 1), np.float32)
    guest.set(0, 0)
    guest.run(silence)
    guest.set(0, PEAK)
    assert not guest.run(silence).any()


def test_a_lower_ceiling_does_not_cut_what_was_let_in_before(equaliser: Built) -> None:
    signal = np.full((RATE // 5, 1), 0.9, np.float32)
    guest = Guest(equaliser.data, RATE, 1, equaliser.params(ceiling=0.0))
    before = guest.run(signal)
    guest.set(100, -20.0)
    after = guest.run(signal)[:, 0]
    assert before[-1, 0] == np.float32(0.9)
    # It comes down along the look-ahead, and is there when the first sample let in below the new ceiling comes out.
    steps = np.diff(after[: ahead(RATE) + 1].astype(np.float64))
    assert np.abs(steps).max() < 0.9 / ahead(RATE) * 1.01
    assert after[ahead(RATE) :].max() <= np.float32(0.1)


def test_what_is_no_number_becomes_silence_and_does_not_stay(equaliser: Built) -> None:
    clean = noise(0.5, 2, 0.1)
    dirty = clean.copy()
    dirty[5_000, 0], dirty[6_000, 1], dirty[7_000, 0] = np.nan, np.inf, -np.inf
    for frame, channel in ((5_000, 0), (6_000, 1), (7_000, 0)):
        clean[frame, channel] = 0.0
    params = equaliser.params(**params_of(EIGHT))
    assert np.array_equal(
        Guest(equaliser.data, RATE, 2, params).run(dirty), Guest(equaliser.data, RATE, 2, params).run(clean)
    )


def test_the_loudest_float_comes_out_at_the_ceiling(equaliser: Built) -> None:
    signal = np.zeros((RATE // 10, 1), np.float32)
    signal[1_000:1_100] = np.finfo(np.float32).max
    out = Guest(equaliser.data, RATE, 1, equaliser.params(band1_type=PEAK, band1_gain=24.0)).run(signal)
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= np.float32(10 ** (-1 / 20))


def test_silence_after_sound_becomes_exact_silence(equaliser: Built) -> None:
    guest = Guest(equaliser.data, RATE, 1, equaliser.params(**params_of(EIGHT)))
    guest.run(noise(0.2, 1, 0.1))
    out = guest.run(np.zeros((10 * RATE, 1), np.float32))
    assert not out[-RATE:].any()


@pytest.mark.parametrize(
    ("number", "value"),
    [(0, 6.0), (0, 0.5), (0, -1.0), (1, 5.0), (2, 25.0), (3, 0.05), (4, 0.0), (80, 1.0), (100, 0.5), (101, 0.0),
     (102, 30.0), (103, 0.0), (-1, 0.0), (1, np.nan), (100, -np.inf)],
)  # fmt: skip
def test_a_value_or_an_id_that_it_does_not_have_is_refused(
    equaliser: Built, number: int, value: float
) -> None:
    guest = Guest(equaliser.data, RATE, 1)
    with pytest.raises(ValueError, match="param"):
        guest.set(number, value)


@pytest.mark.parametrize(("rate", "channels"), [(384_000, 1), (4_000, 1), (48_000, 65), (48_000, 0)])
def test_audio_it_has_no_room_for_is_refused(equaliser: Built, rate: int, channels: int) -> None:
    with pytest.raises(ValueError, match="init answered 1"):
        Guest(equaliser.data, rate, channels)
