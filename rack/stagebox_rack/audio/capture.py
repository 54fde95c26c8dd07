"""What every capture is: a thread that only copies blocks into its ring, and says when it cannot.

Rules: `open` refuses a source that cannot be captured, before anything runs; after `start` nothing is
raised, trouble is reported through ``notify`` and ``state``; the sample index advances with elapsed time
through a gap, so index and clock stay together; nothing is ever written that was not captured.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from stagebox_rack.audio.measurement import EventValue, SourceEvent, SourceState
from stagebox_rack.audio.ring import BlockFlag, Ring
from stagebox_rack.limits import LIMITS

NS: Final = 1_000_000_000
_READING_NS: Final = 5_000_000  # two readings further apart than this say nothing of a step

_FLOAT32: Final[np.dtype[Any]] = np.dtype(np.float32)

Notify = Callable[[SourceEvent], None]


@dataclass(frozen=True, slots=True)
class CaptureClock:
    """The two clocks a capture needs, in ns: ``monotonic`` to pace and measure, ``wall`` to date."""

    monotonic: Callable[[], int] = time.monotonic_ns
    wall: Callable[[], int] = time.time_ns


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """What an opened source delivers."""

    rate: int
    channels: int
    dtype: np.dtype[Any] = _FLOAT32  # of the ring: int16, int32 (24-bit samples left-justified) or float32
    bits: int = 32  # that carry signal


@dataclass(slots=True)
class CaptureCounters:
    """What a capture counted since it was made."""

    xruns: int = 0  # overflows the device reported
    losses: int = 0
    reopens: int = 0
    clock_steps: int = 0


class Capture(ABC):
    """One source being captured. `open`, `start`, `stop`, in that order, each once."""

    def __init__(self, name: str, notify: Notify, clock: CaptureClock) -> None:
        """Make the capture of source ``name``; ``notify`` is called from capture threads."""
        self.name = name
        self.state = SourceState.STOPPED
        self.reason = ""
        self.counters = CaptureCounters()
        self._notify = notify
        self._clock = clock
        self._wall_offset: int | None = None
        self._steps: deque[tuple[int, int]] = deque()

    @abstractmethod
    def open(self) -> StreamFormat:
        """Take the source, or refuse it.

        Raises:
            CaptureError: the device is missing or refuses the format, or PortAudio is missing.
            InputError: the file cannot be used.
        """

    @abstractmethod
    def start(self, ring: Ring) -> None:
        """Write into ``ring`` from a thread of its own, until `stop` or the end; then close the ring."""

    @abstractmethod
    def stop(self) -> None:
        """Stop, join the thread and release the source. Does nothing the second time."""

    def _say(self, name: str, index: int, detail: Mapping[str, EventValue]) -> None:
        self._notify(SourceEvent(self.name, name, index, self._clock.wall(), detail))

    def _date(self, monotonic_ns: int, index: int) -> tuple[int, BlockFlag]:
        """The wall time, as the clock stands now, of a moment on the monotonic clock, and whether it was stepped.

        Costs three readings of clocks and takes no lock: a capture callback calls it. `_say_steps` reports later.
        """
        before = self._clock.monotonic()
        wall = self._clock.wall()
        after = self._clock.monotonic()
        offset, known = wall - (before + after) // 2, self._wall_offset
        if known is not None and after - before > _READING_NS:
            return known + monotonic_ns, BlockFlag.NONE  # held up between the readings: no judgement
        self._wall_offset = offset
        if known is None or abs(offset - known) < LIMITS.audio_clock_step * NS:
            return offset + monotonic_ns, BlockFlag.NONE
        self.counters.clock_steps += 1
        self._steps.append((index, offset - known))
        return offset + monotonic_ns, BlockFlag.CLOCK_STEP

    def _say_steps(self) -> None:
        while self._steps:
            index, step_ns = self._steps.popleft()
            self._say("clock_stepped", index, {"step_ms": round(step_ns / 1e6)})

    def _become(self, state: SourceState, reason: str = "") -> None:
        self.reason = reason
        self.state = state


def block_frames(rate: int) -> int:
    """Frames in one capture block at ``rate``."""
    return rate * LIMITS.audio_block_ms // 1000


def frames_to_ns(frames: int, rate: int) -> int:
    """How long ``frames`` last, in ns, rounded down; exact arithmetic, so it does not drift."""
    return frames * NS // rate


def ns_to_frames(ns: int, rate: int) -> int:
    """How many frames fit ``ns``, to the nearest."""
    return (ns * rate + NS // 2) // NS
