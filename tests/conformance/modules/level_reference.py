"""Frequency and time weightings of IEC 61672-1 once more, in numpy and scipy, and the standard's figures.

The figures are those commonly published of the tables of the edition of 2013.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter, sosfilt, zpk2sos

F1, F2, F3, F4 = 20.598997, 107.65265, 737.86223, 12194.217
SILENT = 1e-15
FAST_S, SLOW_S = 0.125, 1.0

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """A row of Table 3 of IEC 61672-1:2013: nominal frequency in Hz, A and C in dB, class 1 acceptance limits in dB."""

    nominal: float
    a: float
    c: float
    above: float
    below: float

    @property
    def exact(self) -> float:
        """The frequency the row is computed for: 1 kHz times a power of 10^0.1."""
        return float(1000 * 10 ** (round(10 * math.log10(self.nominal / 1000)) / 10))


TABLE_3 = tuple(
    Row(*row)
    for row in (
        (10, -70.4, -14.3, 3.0, math.inf),
        (12.5, -63.4, -11.2, 2.5, math.inf),
        (16, -56.7, -8.5, 2.0, 4.0),
        (20, -50.5, -6.2, 2.0, 2.0),
        (25, -44.7, -4.4, 2.0, 1.5),
        (31.5, -39.4, -3.0, 1.5, 1.5),
        (40, -34.6, -2.0, 1.0, 1.0),
        (50, -30.2, -1.3, 1.0, 1.0),
        (63, -26.2, -0.8, 1.0, 1.0),
        (80, -22.5, -0.5, 1.0, 1.0),
        (100, -19.1, -0.3, 1.0, 1.0),
        (125, -16.1, -0.2, 1.0, 1.0),
        (160, -13.4, -0.1, 1.0, 1.0),
        (200, -10.9, 0.0, 1.0, 1.0),
        (250, -8.6, 0.0, 1.0, 1.0),
        (315, -6.6, 0.0, 1.0, 1.0),
        (400, -4.8, 0.0, 1.0, 1.0),
        (500, -3.2, 0.0, 1.0, 1.0),
        (630, -1.9, 0.0, 1.0, 1.0),
        (800, -0.8, 0.0, 1.0, 1.0),
        (1000, 0.0, 0.0, 0.7, 0.7),
        (1250, 0.6, 0.0, 1.0, 1.0),
        (1600, 1.0, -0.1, 1.0, 1.0),
        (2000, 1.2, -0.2, 1.0, 1.0),
        (2500, 1.3, -0.3, 1.0, 1.0),
        (3150, 1.2, -0.5, 1.0, 1.0),
        (4000, 1.0, -0.8, 1.0, 1.0),
        (5000, 0.5, -1.3, 1.5, 1.5),
        (6300, -0.1, -2.0, 1.5, 2.0),
        (8000, -1.1, -3.0, 1.5, 2.5),
        (10000, -2.5, -4.4, 2.0, 3.0),
        (12500, -4.3, -6.2, 2.0, 5.0),
        (16000, -6.6, -8.5, 2.5, 16.0),
        (20000, -9.3, -11.2, 3.0, math.inf),
    )
)


def analogue(hz: float) -> tuple[float, float]:
    """Return the standard's A and C (Annex E) at ``hz``, in dB."""

    def c(f: float) -> float:
        return F4**2 * f**2 / ((f**2 + F1**2) * (f**2 + F4**2))

    def a(f: float) -> float:
        return c(f) * f**2 / math.sqrt((f**2 + F2**2) * (f**2 + F3**2))

    return 20 * math.log10(a(hz) / a(1000.0)), 20 * math.log10(c(hz) / c(1000.0))


def weightings(rate: int) -> tuple[Float64, Float64]:
    """Return the A and C filters as second-order sections, 0 dB at 1 kHz: bilinear below, matched at the top."""

    def warped(f: float) -> float:
        k = math.tan(math.pi * f / rate)
        return (1 - k) / (1 + k)

    top = _matched_zeros(rate)
    poles = [warped(F1)] * 2 + [math.exp(-2 * math.pi * F4 / rate)] * 2
    c = _scaled([1.0, 1.0, *top], poles, rate)
    a = _scaled([1.0] * 4 + top, [*poles, warped(F2), warped(F3)], rate)
    return a, c


def _matched_zeros(rate: int) -> list[complex]:
    """Zeros that give the two poles at F4 the analogue magnitude at 0 Hz, half the rate and one frequency between."""
    pole = math.exp(-2 * math.pi * F4 / rate)
    places = np.array([0.0, min(F4, 0.27 * rate), rate / 2])
    w = 2 * np.pi * places / rate
    numerator = (F4**2 / (F4**2 + places**2)) ** 2 * np.abs(1 - pole * np.exp(-1j * w)) ** 4
    # |B|² is a polynomial in cos w: through three points.
    polynomial = np.polyfit(np.cos(w), numerator, 2)
    zeros: list[complex] = []
    for cosine in np.roots(polynomial).astype(complex):
        # z + 1/z = 2 cos w; of each pair the zero inside the unit circle.
        pair = np.roots([1, -2 * cosine, 1])
        zeros.append(complex(pair[np.argmin(np.abs(pair))]))
    return zeros


def _scaled(zeros: list[complex], poles: list[float], rate: int) -> Float64:
    z = np.exp(2j * np.pi * 1000.0 / rate)
    gain = np.abs(np.prod([z - zero for zero in zeros]) / np.prod([z - pole for pole in poles]))
    # scipy pairs by nearness; the product is what counts.
    degree = len(poles) - len(zeros)
    return np.asarray(zpk2sos([*zeros, *[0.0] * degree], poles, 1 / gain), np.float64)


def decibels(power: float) -> float:
    """Return a mean square in dB, −150 at least."""
    return 10 * math.log10(max(power, SILENT))


def measured(signal: Float64, rate: int, interval: int, calibration: float = 0.0) -> list[dict[str, Any]]:
    """Return a record an interval of ``interval`` frames of one channel, float64[frames]."""
    a_filter, c_filter = weightings(rate)
    a, c = sosfilt(a_filter, signal), sosfilt(c_filter, signal)
    fast, slow = (_weighted(a**2, 1 - math.exp(-1 / (tau * rate))) for tau in (FAST_S, SLOW_S))
    records = []
    for first in range(0, len(signal) - interval + 1, interval):
        part = slice(first, first + interval)
        powers = {
            "LAeq": np.mean(a[part] ** 2),
            "LCeq": np.mean(c[part] ** 2),
            "LAF": fast[part][-1],
            "LAS": slow[part][-1],
            "LAFmax": fast[part].max(),
            "LASmax": slow[part].max(),
            "LCpeak": np.abs(c[part]).max() ** 2,
        }
        records.append({name: decibels(float(power)) + calibration for name, power in powers.items()})
    return records


def _weighted(power: Float64, step: float) -> Float64:
    return np.asarray(lfilter([step], [1, step - 1], power), np.float64)
