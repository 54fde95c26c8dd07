"""What every capture is: a thread that only copies blocks into its ring, and says when it cannot.

Rules: `open` refuses a source that cannot be captured, before anything runs; after `start` nothing is
raised, trouble is reported through ``notify`` and ``state``; the sample index advances with elapsed time
through a gap, so index and clock stay together; nothing is ever written that was not captured.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from stagebox_rack.audio.measurement import SourceEvent, SourceState
from stagebox_rack.audio.ring import Ring
from stagebox_rack.limits import LIMITS

NS: Final = 1_000_000_000

Notify = Callable[[SourceEvent], None]


@dataclass(frozen=True, slots=True)
class CaptureClock:
    """The two clocks a capture needs, in ns: ``monotonic`` to pace and measure, ``wall`` to date."""

    monotonic: Callable[[], int] = time.monotonic_ns
    wall: Callable[[], int] = time.time_ns

    def wall_of(self, monotonic_ns: int) -> int:
        """The wall time, as the clock stands now, of a moment on the monotonic clock."""
        return self.wall() - (self.monotonic() - monotonic_ns)


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """What an opened source delivers."""

    rate: int
    channels: int


class Capture(ABC):
    """One source being captured. `open`, `start`, `stop`, in that order, each once."""

    def __init__(self, name: str, notify: Notify, clock: CaptureClock) -> None:
        """Make the capture of source ``name``; ``notify`` is called from capture threads."""
        self.name = name
        self.state = SourceState.STOPPED
        self.reason = ""
        self._notify = notify
        self._clock = clock

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

    def _say(self, name: str, index: int, detail: Mapping[str, str | int]) -> None:
        self._notify(SourceEvent(self.name, name, index, self._clock.wall(), detail))

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
