"""Runs a source that has no clock of its own (a file, a tone) in real time.

Rules: block *n* is written when its last frame would have been captured, computed from the sample index
by exact integer arithmetic, so the pace never drifts from the monotonic clock; a short hold-up is caught
up; one longer than ``LIMITS.audio_pace_max_lag`` (a suspended machine) becomes a gap in the sample
index, as it would with a device.
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod

import numpy as np
import numpy.typing as npt

from stagebox.errors import StageboxError
from stagebox_rack.audio.capture import (
    NS,
    Capture,
    CaptureClock,
    Notify,
    StreamFormat,
    block_frames,
    frames_to_ns,
    ns_to_frames,
)
from stagebox_rack.audio.measurement import SourceState
from stagebox_rack.audio.ring import BlockFlag, Ring
from stagebox_rack.limits import LIMITS


class PacedCapture(Capture):
    """A capture whose blocks come from `_next_block`, released at the pace of the sample rate."""

    def __init__(self, name: str, notify: Notify, clock: CaptureClock) -> None:
        """Make the capture of source ``name``."""
        super().__init__(name, notify, clock)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._format: StreamFormat | None = None

    @abstractmethod
    def _next_block(self, frames: int) -> npt.NDArray[np.generic]:
        """The next ``frames`` frames, [≤ frames, channels] of the format's type; fewer only at the end.

        Raises:
            StageboxError: the source failed.
        """

    @abstractmethod
    def _release(self) -> None:
        """Let go of what `open` took."""

    def start(self, ring: Ring) -> None:
        """Start the thread ``capture-<name>``."""
        if self._format is None:
            raise RuntimeError("start() before open()")
        self._become(SourceState.RUNNING)
        self._thread = threading.Thread(
            target=self._run, args=(ring, self._format), name=f"capture-{self.name}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop and join the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(LIMITS.audio_stop_timeout)
            self._thread = None
        else:
            self._release()
        if self.state is SourceState.RUNNING:
            self._become(SourceState.STOPPED)

    def _run(self, ring: Ring, format_: StreamFormat) -> None:
        try:
            self._pump(ring, format_.rate)
        except StageboxError as error:
            self._become(SourceState.ERROR, error.message)
        except Exception as error:
            # A thread's death is silent: whatever it died of becomes the source's state and an event.
            self._become(SourceState.ERROR, f"{type(error).__name__}: {error}")
        finally:
            self._release()
            ring.close()

    def _pump(self, ring: Ring, rate: int) -> None:
        size = block_frames(rate)
        max_lag = int(LIMITS.audio_pace_max_lag * NS)
        origin = self._clock.monotonic()
        index = 0
        flags = BlockFlag.NONE
        while not self._stopping.is_set():
            block = self._next_block(size)
            if len(block) == 0:
                self._become(SourceState.ENDED, "end of file")
                return
            due = origin + frames_to_ns(index + len(block), rate)
            lag = self._clock.monotonic() - due
            if lag > max_lag:
                index += ns_to_frames(lag, rate)
                flags = BlockFlag.LATE
            elif lag < 0:
                time.sleep(-lag / NS)  # one block at most, and half the cost of waiting on the event
            time_ns, stepped = self._date(origin + frames_to_ns(index, rate), index)
            ring.write(block, index, time_ns, flags | stepped)
            self._say_steps()
            flags = BlockFlag.NONE
            index += len(block)
