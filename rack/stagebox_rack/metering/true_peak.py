"""True peak by 4× oversampling, after ITU-R BS.1770-5 Annex 2.

The interpolator is a 49-tap Hann-windowed sinc. One of its four phases is the sample itself, so the
other three are computed and the sample peak stands for the fourth. Three phases of sixteen neighbouring
positions are one small matrix product. After a reset, positions whose neighbourhood was not captured are
not judged: a peak is never inferred from samples nobody has seen.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from stagebox_rack.metering.scratch import Scratch

Float32 = npt.NDArray[np.float32]

OVERSAMPLING = 4
TAPS = 49
_REACH = TAPS // OVERSAMPLING  # samples under one phase: 12
_PAST = _REACH - 1
_GROUP = 16  # positions a product; near the cost minimum


def interpolator() -> npt.NDArray[np.float64]:
    """The 49 taps."""
    position = (np.arange(TAPS) - TAPS // 2) / OVERSAMPLING
    taps: npt.NDArray[np.float64] = np.sinc(position) * np.hanning(TAPS)
    return taps


def _products(group: int) -> Float32:
    """float32[group + 11, 3·group]: the three phases at ``group`` positions from the samples they span."""
    taps = interpolator()
    matrix = np.zeros((group + _PAST, (OVERSAMPLING - 1) * group), dtype=np.float32)
    for phase in range(1, OVERSAMPLING):
        for position in range(group):
            for tap in range(_REACH):
                column = (phase - 1) * group + position
                matrix[_PAST + position - tap, column] = taps[phase + OVERSAMPLING * tap]
    return matrix


class TruePeak:
    """The true-peak detector for ``channels`` channels, carrying the last samples from call to call."""

    def __init__(self, channels: int) -> None:
        """Start with no past."""
        self._channels = channels
        self._past: Float32 = np.empty((channels, 0), dtype=np.float32)
        self._joined = Scratch(np.float32)
        self._windows = Scratch(np.float32)
        self._values = Scratch(np.float32)
        self._grouped = _products(_GROUP)
        self._single = _products(1)

    def reset(self) -> None:
        """Forget the past: what comes next does not continue it."""
        self._past = np.empty((self._channels, 0), dtype=np.float32)

    def process(self, samples: Float32) -> Float32:
        """The highest absolute value between or at the samples of float32[channels, frames], linear."""
        if samples.shape[1] == 0:
            return np.zeros(self._channels, dtype=np.float32)
        highest: Float32 = np.maximum(samples.max(axis=1), -samples.min(axis=1))
        past = self._past.shape[1]
        joined = self._joined.shaped(self._channels, past + samples.shape[1])
        joined[:, :past] = self._past
        joined[:, past:] = samples
        positions = joined.shape[1] - _PAST
        whole = max(0, positions) // _GROUP * _GROUP
        if whole:
            windows = sliding_window_view(joined[:, : whole + _PAST], _GROUP + _PAST, axis=1)[:, ::_GROUP]
            highest = np.maximum(highest, self._between(windows, self._grouped))
        if positions > whole:
            windows = sliding_window_view(joined[:, whole:], _REACH, axis=1)
            highest = np.maximum(highest, self._between(windows, self._single))
        self._past = joined[:, -_PAST:].copy()
        return highest

    def _between(self, windows: Float32, matrix: Float32) -> Float32:
        spread = self._windows.shaped(*windows.shape)
        np.copyto(spread, windows)
        rows = spread.reshape(-1, matrix.shape[0])
        values = self._values.shaped(len(rows), matrix.shape[1])
        np.matmul(rows, matrix, out=values)
        values = values.reshape(self._channels, -1)
        highest: Float32 = np.maximum(values.max(axis=1), -values.min(axis=1))
        return highest
