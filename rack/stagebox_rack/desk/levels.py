"""Peak and RMS of a whole run, channel by channel, in dBFS."""

from __future__ import annotations

import numpy as np

from stagebox.records.meter import METER_FLOOR_DB
from stagebox_rack.metering.levels import Float32


class RunLevels:
    """Levels of everything added so far."""

    def __init__(self, channels: int) -> None:
        self._peak = np.zeros(channels)
        self._power = np.zeros(channels)
        self._frames = 0

    def add(self, samples: Float32) -> None:
        """Add float32[frames, channels]."""
        if not len(samples):
            return
        self._peak = np.maximum(self._peak, np.abs(samples).max(axis=0))
        self._power += np.square(samples, dtype=np.float64).sum(axis=0)
        self._frames += len(samples)

    def peak(self) -> list[float]:
        """Sample peaks, dBFS."""
        return _dbfs(self._peak)

    def rms(self) -> list[float]:
        """RMS, dBFS; a full-scale sine has -3.01."""
        return _dbfs(np.sqrt(self._power / max(1, self._frames)))


def _dbfs(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[float]:
    floor = 10 ** (METER_FLOOR_DB / 20)
    return [round(float(value), 2) for value in 20 * np.log10(np.maximum(values, floor))]
