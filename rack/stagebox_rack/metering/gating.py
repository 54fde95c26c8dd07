"""Integrated loudness and loudness range over any length of time, in bounded memory (BS.1770-5, EBU Tech 3342).

What was measured is kept as a histogram of hundredths of a LU with the exact energy in each bin, so that years fit
into two hundred kilobytes a programme: integrated loudness is exact but for which side of a gate a block of the
gate's own bin falls, and range is exact to a hundredth.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from stagebox_rack.metering.levels import Float64

_LOWEST, _HIGHEST = -70.0, 20.0  # LUFS; the lower end is the absolute gate
_PER_LU = 100
_BINS = round((_HIGHEST - _LOWEST) * _PER_LU) + 1
_RELATIVE_GATE = -10.0  # LU, of integrated loudness
_RANGE_GATE = -20.0  # LU, of loudness range
_RANGE_LOW, _RANGE_HIGH = 0.10, 0.95


class LoudnessHistogram:
    """Everything above the absolute gate that was measured of one programme."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._counts: npt.NDArray[np.int64] = np.zeros(_BINS, dtype=np.int64)
        self._energies: Float64 = np.zeros(_BINS)

    def add(self, loudness: float, energy: float) -> None:
        """Add one block of ``loudness`` LUFS and the power that it stands for."""
        if loudness < _LOWEST:
            return
        bin_ = min(int((loudness - _LOWEST) * _PER_LU), _BINS - 1)
        self._counts[bin_] += 1
        self._energies[bin_] += energy

    def clear(self) -> None:
        """Forget everything."""
        self._counts[...] = 0
        self._energies[...] = 0.0

    def integrated(self) -> float:
        """Gated mean loudness, LUFS; NaN if nothing was above the gates."""
        gate = self._gate(_RELATIVE_GATE)
        return math.nan if gate is None else _loudness(self._mean(gate))

    def range(self) -> float:
        """Loudness range, LU; NaN if nothing was above the gates."""
        gate = self._gate(_RANGE_GATE)
        if gate is None:
            return math.nan
        ranks = np.cumsum(self._counts[gate:])
        last = int(ranks[-1]) - 1
        low, high = (
            int(np.searchsorted(ranks, round(last * share), side="right"))
            for share in (_RANGE_LOW, _RANGE_HIGH)
        )
        return (high - low) / _PER_LU

    def _gate(self, below: float) -> int | None:
        """The first bin above the relative gate ``below`` LU under the mean of all; None if there is nothing."""
        if not self._counts.any():
            return None
        threshold = _loudness(self._mean(0)) + below
        return max(0, math.ceil((threshold - _LOWEST) * _PER_LU))

    def _mean(self, first: int) -> float:
        return float(self._energies[first:].sum() / self._counts[first:].sum())


def _loudness(power: float) -> float:
    return 10.0 * math.log10(power)
