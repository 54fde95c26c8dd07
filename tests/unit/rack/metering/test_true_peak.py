"""True peak: EBU Tech 3341 cases 15–23, any framing, nothing inferred from the unseen."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pyebur128
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import firwin, lfilter

from stagebox_rack.metering.true_peak import TruePeak

RATES = (44_100, 48_000, 96_000)
OFFSETS = (0, 1, 997, 1203)


def true_peak_db(signal: npt.NDArray[np.float64], frame: int) -> float:
    detector = TruePeak(1)
    samples = signal.astype(np.float32)[np.newaxis]
    highest = max(
        float(detector.process(samples[:, at : at + frame])[0]) for at in range(0, len(signal), frame)
    )
    return 20 * math.log10(highest)


def faded(signal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    fade = np.hanning(2 * (len(signal) // 10))
    shape = np.ones(len(signal))
    shape[: len(fade) // 2] = fade[: len(fade) // 2]
    shape[-(len(fade) // 2) :] = fade[len(fade) // 2 :]
    return signal * shape


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    ("case", "divisor", "amplitude", "degrees", "expected"),
    [
        (15, 4, 0.50, 0.0, -6.0),
        (16, 4, 0.50, 45.0, -6.0),
        (17, 6, 0.50, 60.0, -6.0),
        (18, 8, 0.50, 67.5, -6.0),
        (19, 4, 1.41, 45.0, +3.0),
    ],
)
def test_tech_3341_steady_tones(
    case: int, divisor: int, amplitude: float, degrees: float, expected: float, rate: int, offset: int
) -> None:
    n = np.arange(rate // 2)
    tone = faded(amplitude * np.sin(2 * np.pi * n / divisor + np.radians(degrees)))
    reading = true_peak_db(np.concatenate((np.zeros(offset), tone)), rate // 20)
    assert expected - 0.4 <= reading <= expected + 0.2, f"case {case}"


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize(("case", "phase"), [(20, 0), (21, 1), (22, 2), (23, 3)])
def test_tech_3341_peaks_between_samples(case: int, phase: int, offset: int) -> None:
    """One cycle of fs/4 at full scale within fs/6 at half of it, made at 4·fs and decimated."""
    quiet = 0.5 * np.sin(2 * np.pi * np.arange(24 * 1000) / 24)
    cycle = np.sin(2 * np.pi * np.arange(16) / 16)
    made = faded(np.concatenate((quiet, cycle, quiet)))
    limited = lfilter(firwin(1001, 0.25), 1.0, made)
    signal = np.concatenate((np.zeros(offset), limited[phase::4]))
    reading = true_peak_db(signal, 2400)
    assert -0.4 <= reading <= 0.2, f"case {case}"


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(1, 40), min_size=60, max_size=60), seed=st.integers(0, 2**16))
def test_the_reading_does_not_depend_on_how_the_signal_is_cut(cuts: list[int], seed: int) -> None:
    signal = np.random.default_rng(seed).uniform(-1, 1, (2, 1200)).astype(np.float32)
    whole = TruePeak(2).process(signal)
    detector, highest, at = TruePeak(2), np.zeros(2), 0
    for cut in cuts * 20:
        if at >= 1200:
            break
        highest = np.maximum(highest, detector.process(signal[:, at : at + cut]))
        at += cut
    np.testing.assert_allclose(highest, whole, rtol=1e-5)


def test_within_a_tenth_of_a_decibel_of_pyebur128_on_noise() -> None:
    noise = np.random.default_rng(3).standard_normal(48_000) * 0.2
    noise = lfilter(firwin(101, 0.7), 1.0, noise)
    state = pyebur128.R128State(1, 48_000, pyebur128.MeasurementMode.MODE_TRUE_PEAK)
    state.add_frames(noise, len(noise))
    oracle = 20 * np.log10(pyebur128.get_true_peak(state, 0))
    assert true_peak_db(noise, 2400) == pytest.approx(oracle, abs=0.1)


def test_after_a_reset_no_peak_is_inferred_across_the_gap() -> None:
    detector = TruePeak(1)
    tone = (np.sin(2 * np.pi * np.arange(4800) * 997 / 48_000)).astype(np.float32)[np.newaxis]
    detector.process(tone[:, :1000])
    detector.reset()
    # Starting mid-wave against assumed silence would ring to about +0.7 dB.
    assert float(detector.process(tone[:, 1012:3000])[0]) <= 1.001


def test_nothing_in_is_nothing_out() -> None:
    assert TruePeak(2).process(np.empty((2, 0), dtype=np.float32)).tolist() == [0.0, 0.0]
