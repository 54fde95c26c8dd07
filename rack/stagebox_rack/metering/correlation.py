"""Phase correlation of stereo pairs: +1 in phase, 0 unrelated, −1 in opposite phase; no value in silence."""

from __future__ import annotations

import math

import numpy as np

from stagebox_rack.limits import LIMITS
from stagebox_rack.metering.levels import Float32, Float64

_SILENT_POWER = 1e-9  # −90 dBFS: below it the phase is that of noise


class Correlation:
    """The pairs of one source, smoothed over `LIMITS.meter_correlation` seconds."""

    def __init__(self, pairs: tuple[tuple[int, int], ...], rate: int) -> None:
        """Prepare for ``pairs`` of channel indexes."""
        neighbours = pairs == tuple((n, n + 1) for n in range(0, 2 * len(pairs), 2))
        self._count = len(pairs)
        # Neighbours, which is what pairs mostly are, need no copy.
        self._left = slice(0, 2 * len(pairs), 2) if neighbours else [left for left, _ in pairs]
        self._right = slice(1, 2 * len(pairs), 2) if neighbours else [right for _, right in pairs]
        self._rate = rate
        self._smooth: Float64 = np.zeros((3, len(pairs)))

    def reset(self) -> None:
        """Forget the past."""
        self._smooth[...] = 0.0

    def process(self, rows: Float32, mean_square: Float64) -> Float32:
        """Take float32[channels, samples] with each channel's mean square; return float32[pairs]."""
        if not self._count:
            return np.empty(0, dtype=np.float32)
        frames = rows.shape[1]
        products = np.einsum("ij,ij->i", rows[self._left], rows[self._right]) / frames
        now = np.stack((products, mean_square[self._left], mean_square[self._right]))
        keep = math.exp(-frames / self._rate / LIMITS.meter_correlation)
        self._smooth *= keep
        self._smooth += (1.0 - keep) * now
        both, left, right = self._smooth
        heard = np.minimum(left, right) > _SILENT_POWER
        found = np.full(len(both), np.nan, dtype=np.float32)
        np.divide(
            both,
            np.sqrt(left * right, where=heard, out=np.ones_like(left)),
            out=found,
            where=heard,
            casting="unsafe",
        )
        return np.clip(found, -1.0, 1.0)
