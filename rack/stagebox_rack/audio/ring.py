"""The ring a source's capture thread copies into and every consumer reads from at its own pace.

Rules:

* one producer; its ``write`` copies, publishes and wakes, and takes no lock a consumer can hold;
* samples are kept as the capture delivered them, bit for bit: int16, int32 (24-bit samples left-justified) or float32;
* any number of cursors; none can delay the producer or another cursor;
* a cursor that is lapped is moved forward and told how many frames it lost, never given torn data;
* a block keeps the sample index, capture time and flags it was written with; blocks are never merged,
  so a gap in the sample index always lies between two blocks.

The memory order this leans on is CPython's: an attribute store is seen by other threads in program
order because each runs under the interpreter lock.
"""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.generic]

PACKED_24 = np.dtype(np.uint8)
"""Type of a block of packed 24-bit samples: uint8[frames, channels, 3], little-endian."""


class BlockFlag(enum.IntFlag):
    """Why a block does not simply continue the one before it."""

    NONE = 0
    OVERFLOW = 1  # the device dropped input before this block
    REOPENED = 2  # the first block after the device came back
    LATE = 4  # the pacing thread was held up too long and skipped ahead
    OVERRUN = 8  # set by the cursor: this consumer was lapped before this block
    CLOCK_STEP = 16  # the rack's wall clock was stepped before this block; the samples are continuous


@dataclass(frozen=True, slots=True)
class Block:
    """A copied block: ``samples`` [frames, channels] in the ring's type, index and capture time of its first frame.

    ``lost`` is how many stored frames this cursor missed just before it (an overrun).
    """

    samples: Samples
    index: int
    time_ns: int
    flags: BlockFlag
    lost: int


@dataclass(frozen=True, slots=True)
class _Entry:
    number: int
    position: int
    frames: int
    index: int
    time_ns: int
    flags: BlockFlag


class Ring:
    """A preallocated ring of ``dtype``[frames, channels] with a log of the blocks in it."""

    def __init__(
        self, capacity: int, channels: int, *, min_block: int, dtype: npt.DTypeLike = np.float32
    ) -> None:
        """Reserve ``capacity`` frames; blocks shorter than ``min_block`` frames make it hold less."""
        if capacity <= 0 or channels <= 0 or min_block <= 0:
            raise ValueError("capacity, channels and min_block must be positive")
        self.capacity = capacity
        self.channels = channels
        self.dtype = np.dtype(dtype)
        self._data: Samples = np.zeros((capacity, channels), dtype=self.dtype)
        # The upper three bytes of each little-endian sample; the lowest stays 0.
        self._upper = (
            self._data.view(np.uint8).reshape(capacity, channels, 4)[:, :, 1:]
            if self.dtype == np.int32
            else None
        )
        self._log: list[_Entry | None] = [None] * max(2, capacity // min_block)
        self._claimed = 0
        self._published = 0
        self._position = 0
        self._cursors: tuple[Cursor, ...] = ()
        self._opening = threading.Lock()
        self.closed = False

    def write(self, samples: npt.NDArray[np.generic], index: int, time_ns: int, flags: BlockFlag) -> None:
        """Copy one block in and wake the consumers.

        ``samples`` is [frames, channels] of the ring's type or, into a ring of int32, packed 24-bit samples.
        """
        frames = len(samples)
        if frames == 0:
            return
        if frames > self.capacity:
            raise ValueError(f"a block of {frames} frames does not fit a ring of {self.capacity}")
        into = self._upper if samples.dtype == PACKED_24 else self._data
        if into is None or (into is self._data and samples.dtype != self.dtype):
            raise ValueError(f"a block of {samples.dtype} does not fit a ring of {self.dtype}")
        start = self._position % self.capacity
        first = min(frames, self.capacity - start)
        self._claimed = self._position + frames
        into[start : start + first] = samples[:first]
        into[: frames - first] = samples[first:]
        entry = _Entry(self._published, self._position, frames, index, time_ns, flags)
        self._log[entry.number % len(self._log)] = entry
        self._position += frames
        self._published += 1
        self._wake()

    def close(self) -> None:
        """Say that nothing more will be written; consumers drain what is left and then see the end."""
        self.closed = True
        self._wake()

    def open_cursor(self) -> Cursor:
        """A cursor that reads what is written from now on."""
        with self._opening:  # consumers come and go from several threads; the producer never takes this lock
            cursor = Cursor(self, self._published)
            self._cursors = (*self._cursors, cursor)
        return cursor

    def close_cursor(self, cursor: Cursor) -> None:
        """Let go of a cursor; nobody wakes it any more. Does nothing the second time."""
        with self._opening:
            self._cursors = tuple(one for one in self._cursors if one is not cursor)

    def _wake(self) -> None:
        for cursor in self._cursors:
            cursor._wake()

    def _rejoin(self) -> int:
        """Where a lapped cursor goes on: the oldest whole block with a quarter of the ring before it.

        The oldest of all would be lapped again at once. The newest block is never passed over.
        """
        published, log, reserve = self._published, len(self._log), self.capacity // 4
        for number in range(max(0, published - log + log // 4), published - 1):
            entry = self._log[number % log]
            if entry is not None and entry.number == number and self._is_whole(entry, reserve):
                return number
        return published - 1

    def _is_whole(self, entry: _Entry, reserve: int = 0) -> bool:
        return entry.position >= self._claimed - self.capacity + reserve


class Cursor:
    """One consumer's place in a ring. Used by one thread."""

    def __init__(self, ring: Ring, number: int) -> None:
        """Start at block ``number`` of ``ring``; made by `Ring.open_cursor`."""
        self._ring = ring
        self._number = number
        self._end = ring._position
        self._signal = threading.Lock()
        self._signal.acquire()
        self._wake_at = 0
        self.overruns = 0
        self.lost_frames = 0

    @property
    def at_end(self) -> bool:
        """Whether the ring is closed and everything in it has been read."""
        return self._ring.closed and self._number >= self._ring._published

    def read(self, timeout: float, want: int = 1) -> Block | None:
        """The next block; waits up to ``timeout`` seconds until ``want`` frames are there to be read.

        None when there is none yet, or no more. Fewer than ``want`` frames are handed out when the time is up
        or the ring is closed. Waiting for a whole meter frame or packet spares the wake-ups that could do
        nothing; the producer decides by comparing two numbers.
        """
        ring = self._ring
        self._wake_at = self._end + want
        while ring._position < self._wake_at and not ring.closed:
            # A signal may be left over from a block already read: then this goes round once more.
            if not self._signal.acquire(timeout=timeout):
                break
        return self._take()

    def _take(self) -> Block | None:
        ring = self._ring
        while self._number < ring._published:
            entry = ring._log[self._number % len(ring._log)]
            if entry is not None and entry.number == self._number and ring._is_whole(entry):
                samples = self._copy_out(entry)
                if ring._is_whole(entry):
                    return self._deliver(entry, samples)
            self._number = max(self._number + 1, ring._rejoin())
        return None

    def _copy_out(self, entry: _Entry) -> Samples:
        ring = self._ring
        start = entry.position % ring.capacity
        first = min(entry.frames, ring.capacity - start)
        if first == entry.frames:
            return ring._data[start : start + first].copy()
        return np.concatenate((ring._data[start:], ring._data[: entry.frames - first]))

    def _deliver(self, entry: _Entry, samples: Samples) -> Block:
        lost = entry.position - self._end
        flags = entry.flags
        if lost > 0:
            self.overruns += 1
            self.lost_frames += lost
            flags |= BlockFlag.OVERRUN
        self._end = entry.position + entry.frames
        self._number = entry.number + 1
        return Block(samples, entry.index, entry.time_ns, flags, lost)

    def _wake(self) -> None:
        # Only the producer releases, so between the test and the release nothing else can unlock it.
        if self._signal.locked() and (self._ring.closed or self._ring._position >= self._wake_at):
            self._signal.release()
