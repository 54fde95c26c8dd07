"""Cuts a run of contiguous blocks into frames. Pure.

Each frame keeps the sample index of its first sample and the capture time of its end, each taken from
the block that sample came in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[Any]

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Frame:
    """``samples`` [frames, channels] of the assembler's type, valid until it is used again.

    ``index`` is of the first frame, ``end_ns`` the capture time of the end of the last.
    """

    samples: Samples
    index: int
    end_ns: int


class FrameAssembler:
    """Collects blocks until ``size`` frames are there; whoever takes a frame may say how long the next shall be."""

    def __init__(self, size: int, channels: int, rate: int, dtype: npt.DTypeLike = np.float32) -> None:
        """Make frames of ``size`` at ``rate`` Hz, of ``dtype``."""
        self._buffer: Samples = np.empty((size, channels), dtype=dtype)
        self._size = size
        self._rate = rate
        self._filled = 0
        self._index = 0
        self._end_ns = 0

    def push(self, samples: Samples, index: int, time_ns: int) -> Iterator[Frame]:
        """Add a block that continues the last one; yields every frame it completes.

        ``index`` and ``time_ns`` are of the block's first frame.
        """
        taken, total = 0, len(samples)
        while taken < total:
            if self._filled == 0:
                self._index = index + taken
            count = min(self._size - self._filled, total - taken)
            self._buffer[self._filled : self._filled + count] = samples[taken : taken + count]
            self._filled += count
            taken += count
            self._end_ns = time_ns + taken * _NS // self._rate
            if self._filled == self._size:
                yield self.flush()

    @property
    def size(self) -> int:
        """Frames in the frame under way."""
        return self._size

    @size.setter
    def size(self, frames: int) -> None:
        if self._filled:
            raise ValueError("a frame under way keeps its size")
        self._size = frames
        if frames > len(self._buffer):
            self._buffer = np.empty((frames, self._buffer.shape[1]), dtype=self._buffer.dtype)

    @property
    def pending(self) -> int:
        """Frames collected and not yet handed out."""
        return self._filled

    def flush(self) -> Frame:
        """What has been collected so far, short or whole (or empty)."""
        frame = Frame(self._buffer[: self._filled], self._index, self._end_ns)
        self._filled = 0
        return frame
