"""The meter as a whole: definitions, independence of channels, discontinuities, any frame rate."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagebox.records.meter import METER_FLOOR_DB
from stagebox_rack.limits import LIMITS
from stagebox_rack.metering.layout import MeterLayout, Programme, programme_weights
from stagebox_rack.metering.levels import Levels
from stagebox_rack.metering.meter import Meter

Float32 = npt.NDArray[np.float32]
PER_CHANNEL = ("peak", "peak_hold", "true_peak", "rms", "ppm1", "ppm2", "vu", "momentary")


def sine(dbfs: float, seconds: float, rate: int, hz: float = 997.0) -> npt.NDArray[np.float64]:
    n = np.arange(round(seconds * rate))
    return 10 ** (dbfs / 20) * np.sin(2 * np.pi * hz * n / rate)


def stereo(mono: npt.NDArray[np.float64]) -> Float32:
    return np.repeat(mono[:, np.newaxis], 2, axis=1).astype(np.float32)


def layout(channels: int, rate: int = 48_000, **fields: object) -> MeterLayout:
    everything = Programme("all", tuple(range(channels)), programme_weights(channels))
    pairs = tuple((n, n + 1) for n in range(0, channels - 1, 2))
    return MeterLayout(rate, channels, (everything,), pairs, **fields)  # type: ignore[arg-type]


def readings(signal: Float32, rate: int = 48_000, **fields: object) -> list[Levels]:
    meter = Meter(layout(signal.shape[1], rate, **fields))
    levels, at = [], 0
    while at + meter.next_frame_size <= len(signal):
        size = meter.next_frame_size
        levels.append(meter.measure(signal[at : at + size]))
        at += size
    return levels


@pytest.mark.parametrize("rate", LIMITS.audio_rates)
def test_a_full_scale_sine_reads_0_on_peak_meters_and_minus_3_01_on_rms_and_lufs(rate: int) -> None:
    last = readings(sine(0.0, 1.0, rate)[:, np.newaxis].astype(np.float32), rate)[-1]
    assert last.peak == pytest.approx([0.0], abs=0.02)
    assert last.true_peak == pytest.approx([0.0], abs=0.05)
    assert last.ppm1 == pytest.approx([0.0], abs=0.1)
    assert last.ppm2 == pytest.approx([0.0], abs=0.1)
    assert last.vu == pytest.approx([0.0], abs=0.1)
    assert last.rms == pytest.approx([-3.0103], abs=0.01)
    # The prototype warped to 192 kHz is 0.03 dB off the tabulated filter here; the meter class allows 0.1.
    assert last.momentary == pytest.approx([-3.01], abs=0.04)
    assert last.programmes[0, 0] == pytest.approx(-3.01, abs=0.04)


def test_silence_reads_the_floor_everywhere_and_has_no_phase_and_no_integrated_loudness() -> None:
    for levels in readings(np.zeros((48_000, 3), dtype=np.float32)):
        for name in PER_CHANNEL:
            assert getattr(levels, name).tolist() == [METER_FLOOR_DB] * 3, name
        assert np.isnan(levels.correlation).all()
        assert levels.programmes[0, :2].tolist() == [METER_FLOOR_DB] * 2
        assert np.isnan(levels.programmes[0, 2:4]).all()


def test_each_channel_is_measured_alone_and_the_programme_is_their_sum() -> None:
    signal = np.zeros((48_000, 16), dtype=np.float32)
    signal[:, 5] = sine(-20.0, 1.0, 48_000)
    signal[:, 9] = sine(-40.0, 1.0, 48_000)
    last = readings(signal)[-1]
    assert last.momentary[5] == pytest.approx(-23.01, abs=0.02)
    assert last.momentary[9] == pytest.approx(-43.01, abs=0.02)
    for name in PER_CHANNEL:
        assert [n for n in range(16) if getattr(last, name)[n] > METER_FLOOR_DB] == [5, 9], name
    assert last.programmes[0, 0] == pytest.approx(10 * math.log10(10**-2.301 + 10**-4.301), abs=0.02)


def test_six_channels_are_weighted_as_5_1_and_the_lfe_does_not_count() -> None:
    signal = np.zeros((48_000, 6), dtype=np.float32)
    signal[:, 3] = sine(0.0, 1.0, 48_000, 60.0)
    signal[:, 4] = sine(-20.0, 1.0, 48_000)
    last = readings(signal)[-1]
    assert last.programmes[0, 0] == pytest.approx(-23.01 + 10 * math.log10(1.41), abs=0.02)


@pytest.mark.parametrize(("right", "expected"), [(1.0, 1.0), (-1.0, -1.0), (-0.25, -1.0)])
def test_correlation_says_whether_a_pair_is_in_phase(right: float, expected: float) -> None:
    signal = stereo(sine(-20.0, 1.0, 48_000))
    signal[:, 1] *= right
    assert readings(signal)[-1].correlation == pytest.approx([expected], abs=0.001)


def test_unrelated_channels_have_no_correlation_and_a_silent_one_none_at_all() -> None:
    rng = np.random.default_rng(3)
    noise = (0.1 * rng.standard_normal((96_000, 2))).astype(np.float32)
    assert abs(readings(noise)[-1].correlation[0]) < 0.05
    noise[:, 1] = 0
    assert np.isnan(readings(noise)[-1].correlation[0])


def test_a_peak_is_held_and_then_falls_to_what_is_there() -> None:
    signal = stereo(sine(-40.0, 5.0, 48_000))
    signal[1000] = 0.5
    held = [float(levels.peak_hold[0]) for levels in readings(signal, hold_s=2.0)]
    assert held[:40] == pytest.approx([-6.02] * 40, abs=0.01)
    assert held[42:] == pytest.approx([-40.0] * len(held[42:]), abs=0.1)


@pytest.mark.parametrize("per_second", [1, 3, 7, 19, 20, 33, 50])
@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_frames_of_any_rate_are_whole_steps_and_exact_over_a_second(per_second: int, rate: int) -> None:
    plan = layout(1, rate, frames_per_second=per_second)
    steps = [plan.steps_of(n) for n in range(per_second)]
    assert sum(steps) == 100
    assert max(steps) - min(steps) <= 1
    signal = sine(-20.0, 2.0, rate)[:, np.newaxis].astype(np.float32)
    levels = readings(signal, rate, frames_per_second=per_second)
    assert len(levels) == 2 * per_second
    assert levels[-1].programmes[0, 2] == pytest.approx(-23.01, abs=0.05)


def test_integrated_loudness_and_maxima_do_not_depend_on_the_frame_rate() -> None:
    rng = np.random.default_rng(5)
    shape = np.repeat(rng.uniform(0.01, 0.3, 200), 2400)[:, np.newaxis]
    signal = (shape * rng.standard_normal((480_000, 2))).astype(np.float32)
    slow, fast = (readings(signal, frames_per_second=rate)[-1].programmes for rate in (2, 50))
    np.testing.assert_allclose(slow[:, 2:], fast[:, 2:], atol=0.011)


def test_a_short_frame_before_a_gap_still_has_its_peaks() -> None:
    meter = Meter(layout(1))
    levels = meter.measure(np.full((5, 1), 0.5, dtype=np.float32))
    assert levels.peak == pytest.approx([-6.02], abs=0.01)
    assert levels.rms == pytest.approx([-6.02], abs=0.01)
    assert levels.momentary.tolist() == [METER_FLOOR_DB]


def test_a_reset_meter_owes_nothing_to_what_came_before_but_what_it_integrated() -> None:
    signal = stereo(sine(-6.0, 1.0, 48_000))
    fresh, used = Meter(layout(2)), Meter(layout(2))
    for at in range(0, 48_000, 2400):
        used.measure(signal[at : at + 2400])
    used.reset()
    a, b = fresh.measure(signal[777 : 777 + 2400]), used.measure(signal[777 : 777 + 2400])
    for name in ("true_peak", "ppm1", "ppm2", "vu", "momentary"):
        assert getattr(a, name).tolist() == getattr(b, name).tolist(), name
    assert a.programmes[0, 0] == b.programmes[0, 0]
    assert b.programmes[0, 2] == pytest.approx(-6.01, abs=0.05)


def test_no_loudness_block_reaches_across_a_gap() -> None:
    loud, quiet = stereo(sine(0.0, 0.3, 48_000)), stereo(sine(-40.0, 1.0, 48_000))
    meter = Meter(layout(2))
    for at in range(0, len(loud), 2400):
        meter.measure(loud[at : at + 2400])
    meter.reset()
    for at in range(0, len(quiet), 2400):
        last = meter.measure(quiet[at : at + 2400])
    assert last.programmes[0, 2] == pytest.approx(-40.0, abs=0.1)


@pytest.mark.parametrize("frames", [0, 2401])
def test_a_frame_of_the_wrong_size_is_refused(frames: int) -> None:
    with pytest.raises(ValueError, match="1 to 2400 samples"):
        Meter(layout(1)).measure(np.zeros((frames, 1), dtype=np.float32))


@settings(deadline=None, max_examples=30)
@given(gain=st.floats(-60, 0), polarity=st.sampled_from([1, -1]), seed=st.integers(0, 1000))
def test_gain_moves_every_meter_by_as_much_and_polarity_none(gain: float, polarity: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    signal = (0.2 * rng.standard_normal((24_000, 2))).astype(np.float32)
    before, after = readings(signal)[-1], readings(polarity * signal * np.float32(10 ** (gain / 20)))[-1]
    for name in PER_CHANNEL:
        np.testing.assert_allclose(
            getattr(after, name), getattr(before, name) + gain, atol=0.03, err_msg=name
        )
    np.testing.assert_allclose(after.correlation, before.correlation, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(6)))
def test_channels_do_not_know_of_each_other(order: list[int]) -> None:
    rng = np.random.default_rng(1)
    signal = (rng.uniform(0.001, 0.5, 6) * rng.standard_normal((9600, 6))).astype(np.float32)
    straight, mixed = readings(signal)[-1], readings(np.ascontiguousarray(signal[:, order]))[-1]
    for name in PER_CHANNEL:
        np.testing.assert_allclose(
            getattr(mixed, name), getattr(straight, name)[order], atol=1e-3, err_msg=name
        )


def test_the_true_peak_of_a_programme_is_that_of_its_channels_alone() -> None:
    signal = np.zeros((48_000, 4), dtype=np.float32)
    signal[:, 0], signal[:, 3] = sine(-20.0, 1.0, 48_000), sine(-3.0, 1.0, 48_000)
    plan = MeterLayout(48_000, 4, (Programme("a", (0, 1), (1.0, 1.0)), Programme("b", (2, 3), (1.0, 1.0))))
    meter = Meter(plan)
    for at in range(0, 48_000, 2400):
        last = meter.measure(signal[at : at + 2400])
    assert last.programmes[:, 6] == pytest.approx([-20.0, -3.0], abs=0.1)


def test_maxima_never_fall_until_they_are_reset() -> None:
    rng = np.random.default_rng(2)
    shape = np.repeat(rng.uniform(0.01, 0.5, 100), 2400)[:, np.newaxis]
    levels = readings((shape * rng.standard_normal((240_000, 2))).astype(np.float32))
    for column in (4, 5, 6):
        values = [float(entry.programmes[0, column]) for entry in levels]
        assert all(later >= earlier for earlier, later in pairwise(values))
