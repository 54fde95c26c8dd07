"""The ``tone:`` source: a sine computed from the sample index, the same in every channel.

The phase of sample *n* is reduced with integer arithmetic before it becomes a float, so the tone is as
clean after a year as in its first block, and two racks with the same setting agree on every sample.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from stagebox_rack.audio.capture import CaptureClock, Notify, StreamFormat
from stagebox_rack.audio.paced import PacedCapture
from stagebox_rack.audio.source_uri import ToneSource

_MICRO = 1_000_000


class ToneCapture(PacedCapture):
    """Produces the tone in real time."""

    def __init__(self, spec: ToneSource, notify: Notify, clock: CaptureClock) -> None:
        """Make the tone ``spec`` asks for."""
        super().__init__(spec.name, notify, clock)
        self._spec = spec
        self._amplitude = math.pow(10.0, spec.dbfs / 20.0)
        self._micro_hz = round(spec.hz * _MICRO)
        self._next = 0

    def open(self) -> StreamFormat:
        """Always succeeds: the setting was checked when it was parsed."""
        self._format = StreamFormat(self._spec.rate, self._spec.channels)
        return self._format

    def _next_block(self, frames: int) -> npt.NDArray[np.float32]:
        block = self.samples(self._next, frames)
        self._next += frames
        return block

    def _release(self) -> None:
        """A tone holds nothing."""

    def samples(self, start: int, frames: int) -> npt.NDArray[np.float32]:
        """Frames ``start`` to ``start + frames`` of the tone, float32[frames, channels]."""
        cycle = self._spec.rate * _MICRO
        base = self._micro_hz * start % cycle
        phase = (base + self._micro_hz * np.arange(frames, dtype=np.int64)) % cycle
        wave = self._amplitude * np.sin(phase * (2.0 * math.pi / cycle))
        return np.repeat(wave.astype(np.float32)[:, np.newaxis], self._spec.channels, axis=1)
