"""The rectified signal in sub-blocks of about a quarter of a millisecond, which every ballistic meter is driven by.

A sub-block divides the 10 ms step. Its drive is the smaller of its peak and π/2 times its mean: for a tone whose
period is shorter than the sub-block both are the tone's amplitude, and a burst that begins anywhere in a sub-block
contributes by its length; for a slow tone the peak is what the waveform has reached.
"""

from __future__ import annotations

import math

import numpy as np

from stagebox_rack.metering.levels import Float32
from stagebox_rack.metering.scratch import Scratch

_TARGET_S = 0.25e-3


def sub_block(rate: int, step: int) -> int:
    """Samples in a sub-block: the largest divisor of ``step`` that lasts no longer than a quarter of a millisecond."""
    longest = int(rate * _TARGET_S)
    return next(size for size in range(longest, 0, -1) if step % size == 0)


class Envelope:
    """Cuts frames of ``channels`` into sub-blocks of ``size`` samples."""

    def __init__(self, channels: int, size: int) -> None:
        """Keep working arrays for ``channels``."""
        self.size = size
        self._channels = channels
        self._absolute = Scratch(np.float32)
        self._peaks = Scratch(np.float32)
        self._sums = Scratch(np.float32)
        self._ones = np.full(size, math.pi / 2 / size, dtype=np.float32)

    def drive(self, rows: Float32) -> tuple[Float32, Float32]:
        """The drive of each whole sub-block of float32[channels, samples], and π/2 times its mean.

        Both are float32[channels, sub-blocks], valid until the next call.
        """
        count = rows.shape[1] // self.size
        whole = rows[:, : count * self.size]
        absolute = self._absolute.shaped(*whole.shape)
        np.abs(whole, out=absolute)
        blocks = absolute.reshape(self._channels * count, self.size)
        peaks = self._peaks.shaped(self._channels * count)
        # Column by column: numpy reduces a short last axis one row at a time, which costs four times as much.
        np.copyto(peaks, blocks[:, 0])
        for column in range(1, self.size):
            np.maximum(peaks, blocks[:, column], out=peaks)
        means = self._sums.shaped(self._channels * count)
        np.matmul(blocks, self._ones, out=means)
        np.minimum(peaks, means, out=peaks)
        return peaks.reshape(self._channels, count), means.reshape(self._channels, count)
