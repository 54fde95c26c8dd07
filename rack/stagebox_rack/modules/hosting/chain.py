"""The modules in the way of one stream of audio, as its audio thread calls them.

Rules:

* :meth:`Chain.process` never raises, and waits only as long as :class:`Patience` lets it; whatever goes wrong, the
  audio goes on as it came in, and is counted;
* an answer that comes late belongs to no request any more and is ignored, and nothing is asked before it came;
* a host is not believed: what it made is copied before it is looked at, and is used only if it is audio;
* nothing is asked while nothing is placed, or while there is no host: the event loop switches :attr:`Chain.mode`.
"""

from __future__ import annotations

import enum
import os
import select
import threading
import time
from dataclasses import dataclass

import numpy as np
import structlog

from stagebox_rack.audio.sanity import is_audio, replace_bad
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.fades import Fade, Float32, cross_fade
from stagebox_rack.modules.hosting.lane import (
    ANSWERED,
    ASKED,
    BELL,
    FRAMES,
    FUEL,
    REPLY,
    START,
    STATUS,
    TIME,
    WET,
    Lane,
)
from stagebox_rack.modules.hosting.patience import Patience

log = structlog.get_logger()

_NS = 1_000_000_000
_REPLY_BYTES = 4096


class Mode(enum.Enum):
    """What becomes of audio."""

    OFF = "off"
    """Nothing is placed: it passes, and is not counted."""
    DOWN = "down"
    """Something is placed and nothing of it runs: it passes, and is counted."""
    LIVE = "live"
    """A host is asked."""
    ENDING = "ending"
    """A host is asked, though nothing is placed any more: what was is fading out, for a bounded time."""


@dataclass
class ChainCounters:
    """Running totals of one chain. ``bypassed`` blocks went past all of its modules, ``late`` pieces were given up."""

    blocks: int = 0
    bypassed: int = 0
    late: int = 0
    errors: int = 0


class Chain:
    """One chain. :meth:`process` is for one audio thread, all else for the event loop's."""

    def __init__(
        self, name: str, number: int, rate: int, channels: int, *, lane: int, reply: int, bell: int
    ) -> None:
        """Map the memory ``lane``; ``reply`` is to read, ``bell`` to ring, neither blocks. They stay the caller's."""
        self.name = name
        self.rate = rate
        self.channels = channels
        self.counters = ChainCounters()
        self.mode = Mode.OFF
        """Set by the event loop's thread only."""
        self._placed = False
        self._ends = 0.0
        self._lane = Lane(lane, rate // LIMITS.module_blocks_per_s, channels, LIMITS.module_lane_blocks)
        self._header = self._lane.header
        self._reply = reply
        self._bell = bell
        self._ring = BELL.pack(number)
        self._poll = select.poll()
        self._poll.register(reply, select.POLLIN)
        self.patience = Patience(LIMITS.module_wait_share, LIMITS.module_wait_credit)
        """How long it waits for its host; one that nobody listens to may have more."""
        self._asked = 0
        self._asked_at = 0.0
        self._dry = True
        self._complained = False
        self._busy = threading.Lock()
        self._closed = False

    def process(self, samples: Float32, *, start: int, time_ns: int) -> Float32:
        """Return what the modules make of finite float32[frames, channels]: the same shape, finite, and no
        sample 100 dB above full scale if there was none before.

        ``start`` is the sample index of the first frame, ``time_ns`` when it was captured. It is ``samples`` itself
        if the modules did not come to it.
        """
        if self.mode is Mode.OFF:
            self._dry = True
            return samples
        try:
            with self._busy:
                if len(samples) <= self._lane.capacity:
                    return self._piece(samples, start, time_ns)
                return self._pieces(samples, start, time_ns)
        except Exception:
            self.counters.errors += 1
            self._dry = True
            if not self._complained:
                self._complained = True
                log.exception("module_chain_failed", chain=self.name)
            return samples

    def silent_for(self, now: float) -> float:
        """How many seconds of monotonic time the host has owed an answer; 0 if it owes none."""
        if self._closed or not self._asking or self._header[ANSWERED] == self._asked:
            return 0.0
        return max(0.0, now - self._asked_at)

    @property
    def fuel(self) -> int:
        """What its modules have used so far, as their host says; less than before once the host was replaced."""
        return int(self._header[FUEL])

    @property
    def _asking(self) -> bool:
        return self.mode is Mode.LIVE or self.mode is Mode.ENDING

    def switch(self, *, placed: bool, running: bool, hosted: bool) -> None:
        """Something is placed, something of it runs, a host is there: decide what becomes of audio."""
        self._placed = placed
        if running:
            self.mode = Mode.LIVE
        elif hosted and self._asking and not self._dry:
            if self.mode is not Mode.ENDING:
                self._ends = time.monotonic() + LIMITS.module_fade_wait
            self.mode = Mode.ENDING
        else:
            self.mode = Mode.DOWN if placed else Mode.OFF

    def rest(self) -> bool:
        """Ask no more once what was has faded out, or should have; whether it is so. To be called now and then."""
        if self.mode is Mode.ENDING and (self._dry or time.monotonic() >= self._ends):
            self.mode = Mode.DOWN if self._placed else Mode.OFF
        return self.mode is not Mode.ENDING

    def try_close(self) -> bool:
        """Unmap; False if the audio thread is inside just now. From then on audio passes unchanged."""
        if not self._busy.acquire(blocking=False):
            return False
        try:
            self.mode = Mode.OFF
            if not self._closed:
                self._closed = True
                self._lane.close()
        finally:
            self._busy.release()
        return True

    # --- the audio thread's ------------------------------------------------------------------------

    def _pieces(self, samples: Float32, start: int, time_ns: int) -> Float32:
        step = self._lane.capacity
        parts = [
            self._piece(samples[at : at + step], start + at, time_ns + at * _NS // self.rate)
            for at in range(0, len(samples), step)
        ]
        return np.concatenate(parts)

    def _piece(self, samples: Float32, start: int, time_ns: int) -> Float32:
        lane, (frames, channels) = self._lane, samples.shape
        if channels != self.channels:
            raise ValueError(f"audio of {channels} channels does not go through a chain of {self.channels}")
        blocks = -(-frames // lane.block)
        self.counters.blocks += blocks
        if self.mode is Mode.DOWN or not frames or self._closed or self._header[ANSWERED] != self._asked:
            return self._bypass(samples, blocks)
        lane.write(samples)
        if not is_audio(samples):
            # A module must not be blamed for what it makes of this, nor keep it in its filters.
            for block in lane.inputs:
                replace_bad(block)
        if not self._ask(frames, start, time_ns):
            self.counters.late += 1
            return self._bypass(samples, blocks)
        if self._header[STATUS] != WET:
            return self._bypass(samples, blocks)
        made = lane.read(frames)
        if not is_audio(made):
            raise ValueError("the host returned what is no audio")
        if self._dry:
            self._dry = False
            cross_fade(samples.T, made.T, Fade(min(frames, lane.block)).ramp(frames), made.T)
        return made

    def _ask(self, frames: int, start: int, time_ns: int) -> bool:
        """Make one round trip; return whether the answer came in time."""
        header, asked = self._header, self._asked + 1
        header[FRAMES], header[START], header[TIME] = frames, start, time_ns
        begun = time.monotonic()
        self._asked_at = begun  # first: with an older time it would seem to be owed for long
        self._asked = asked
        header[ASKED] = asked
        os.write(self._bell, self._ring)
        wanted, came = REPLY.pack(asked), False
        left = self.patience.left
        while left > 0.0 and self._poll.poll(left * 1000):
            if came := os.read(self._reply, _REPLY_BYTES).endswith(wanted):
                break
            left = begun + self.patience.left - time.monotonic()  # it was the answer to an earlier one
        self.patience.spend(time.monotonic() - begun, frames / self.rate)
        return came

    def _bypass(self, samples: Float32, blocks: int) -> Float32:
        self.counters.bypassed += blocks
        self._dry = True
        return samples
