"""One meter frame's measurements, and how linear values become levels. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stagebox.records.meter import METER_FLOOR_DB

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_FLOOR_POWER = 10 ** (METER_FLOOR_DB / 10)

PROGRAMME_COLUMNS = (
    "momentary",
    "short_term",
    "integrated",
    "range",
    "max_momentary",
    "max_short_term",
    "max_true_peak",
)
"""Columns of :attr:`Levels.programmes`, as in ``stagebox.records.meter.ProgrammeLevels``."""


@dataclass(frozen=True, slots=True)
class Levels:
    """float32[channels] in dBFS (``true_peak`` dBTP, ``momentary`` LUFS), float32[pairs] and float32[programmes, 7].

    NaN where there is no value (yet); nothing is below the floor of −150.
    """

    peak: Float32
    peak_hold: Float32
    true_peak: Float32
    rms: Float32
    ppm1: Float32
    ppm2: Float32
    vu: Float32
    momentary: Float32
    correlation: Float32
    programmes: Float32


def decibels(power: Float64) -> Float64:
    """``10·log₁₀(power)``, not below the floor. Zero power reads the floor."""
    levels: Float64 = np.maximum(power, _FLOOR_POWER)
    np.log10(levels, out=levels)
    levels *= 10.0
    return levels
