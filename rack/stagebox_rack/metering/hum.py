"""Mains hum: lines at 50 or 60 Hz and their harmonics that stand out of what is beside them.

The signal is decimated to about 1 kHz and looked at once a second through a Hann window of one second, in which a
line is 4 Hz wide. Speech and music have energy there too, but not only there: at least two harmonics must stand
`LIMITS.hum_prominence_db` above the mean of the bins beside them. A bass note does not last as long as the hold time
with that purity.
"""

from __future__ import annotations

import numpy as np

from stagebox_rack.limits import LIMITS
from stagebox_rack.metering.levels import Float32, Float64, decibels
from stagebox_rack.metering.scratch import Scratch

_MAINS = (50.0, 60.0)
_HARMONICS = 5
_BESIDE = (-8.0, -6.0, -4.0, 4.0, 6.0, 8.0)  # Hz from a line: outside its main lobe, inside its neighbourhood
_WANTED_HZ = 1_000
_LINES_NEEDED = 2


class Hum:
    """Looks at ``channels`` channels at ``rate`` Hz in steps of ``step`` samples."""

    def __init__(self, channels: int, rate: int, step: int) -> None:
        """Prepare the decimator and the lines to look for."""
        self._every = next(size for size in range(rate // _WANTED_HZ, 0, -1) if step % size == 0)
        self._channels = channels
        # A Hann low-pass of twice the decimation, in its two halves.
        taps = np.hanning(2 * self._every + 2)[1:-1]
        self._taps = (taps / taps.sum()).reshape(2, self._every).T.astype(np.float32)
        self._carry: Float32 = np.zeros(channels, dtype=np.float32)
        self._whole = Scratch(np.float32)
        size = rate // self._every
        self._window: Float32 = np.zeros((channels, size), dtype=np.float32)
        self._filled = 0
        lines = np.array([mains * (1 + n) for mains in _MAINS for n in range(_HARMONICS)])
        looked_at = np.concatenate([lines, *(lines + offset for offset in _BESIDE)])
        phase = -2j * np.pi * np.outer(np.arange(size), looked_at) * self._every / rate
        window = np.hanning(size + 1)[:-1]
        kernel = np.exp(phase) * (2 / window.sum()) * window[:, np.newaxis]
        self._kernel = np.concatenate((kernel.real, kernel.imag), axis=1).astype(np.float32)

    def reset(self) -> None:
        """Forget what was collected."""
        self._carry[...] = 0.0
        self._filled = 0

    def process(self, rows: Float32) -> tuple[Float64, Float64] | None:
        """Take float32[channels, samples]; once a second return, per channel, level (dBFS) and prominence (dB) of hum.

        The level is the peak of a sine with the power of all lines; the prominence that of the second-best line.
        """
        count = rows.shape[1] // self._every
        if count == 0:
            return None
        blocks = rows[:, : count * self._every].reshape(self._channels, count, self._every)
        halves = blocks @ self._taps
        decimated = halves[:, :, 1].copy()
        decimated[:, 0] += self._carry
        decimated[:, 1:] += halves[:, :-1, 0]
        self._carry = halves[:, -1, 0].copy()
        return self._collect(decimated)

    def _collect(self, decimated: Float32) -> tuple[Float64, Float64] | None:
        size = self._window.shape[1]
        taken = min(decimated.shape[1], size - self._filled)
        self._window[:, self._filled : self._filled + taken] = decimated[:, :taken]
        self._filled += taken
        if self._filled < size:
            return None
        found = self._judge()
        rest = decimated[:, taken : taken + size]
        self._window[:, : rest.shape[1]] = rest
        self._filled = rest.shape[1]
        return found

    def _judge(self) -> tuple[Float64, Float64]:
        bins = (self._window @ self._kernel).astype(np.float64)
        half = bins.shape[1] // 2
        power = bins[:, :half] ** 2 + bins[:, half:] ** 2
        lines = len(_MAINS) * _HARMONICS
        line = power[:, :lines].reshape(self._channels, len(_MAINS), _HARMONICS)
        beside = power[:, lines:].reshape(self._channels, len(_BESIDE), len(_MAINS), _HARMONICS).mean(axis=1)
        prominence = np.sort(decibels(line) - decibels(beside), axis=2)[:, :, -_LINES_NEEDED]
        best = prominence.argmax(axis=1)
        rows = np.arange(self._channels)
        standing = np.where(decibels(line) - decibels(beside) >= LIMITS.hum_prominence_db, line, 0.0)
        level = decibels(standing.sum(axis=2)[rows, best])
        return level, prominence[rows, best]
