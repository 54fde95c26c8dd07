"""One bus while somebody listens: a cursor of its own on the source's ring, mixed, encoded and handed on by one thread.

It cannot hold up capture or meters: if it is slow it loses frames, and counts them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from stagebox.errors import StageboxError
from stagebox_rack.audio.engine import Tap
from stagebox_rack.audio.insert import InsertPoint
from stagebox_rack.audio.measurement import OpusPacket
from stagebox_rack.audio.ring import Block, BlockFlag
from stagebox_rack.limits import LIMITS
from stagebox_rack.monitor.bus import BusPlan
from stagebox_rack.monitor.mixdown import Mixdown
from stagebox_rack.monitor.opus import OpusEncoder

log = structlog.get_logger()


@dataclass
class EncodingCounters:
    """What one bus sent since the rack captures."""

    packets: int = 0
    overruns: int = 0
    overrun_frames: int = 0
    clipped: int = 0
    nonfinite: int = 0
    starts: int = 0


class BusEncoding:
    """Encodes ``plan`` from ``tap`` and gives each packet to ``emit``, from the thread ``monitor-<bus>``."""

    def __init__(
        self,
        plan: BusPlan,
        tap: Tap,
        emit: Callable[[OpusPacket], None],
        counters: EncodingCounters,
        insert: InsertPoint | None = None,
    ) -> None:
        """Prepare; nothing runs yet. What sits at ``insert`` is between the mix and the encoder.

        Raises:
            ConfigError: the bus names channels that are not there.
            CaptureError: there is no Opus encoder.
        """
        self._plan = plan
        self._tap = tap
        self._emit = emit
        self._counters = counters
        self._insert = insert or InsertPoint()
        self._mixdown = Mixdown(tap.map, plan.mix(tap.map))
        self._encoder = OpusEncoder(tap.format.rate, self._mixdown.channels, plan.bit_rate)
        self._next: int | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"monitor-{plan.name}", daemon=True)
        self.failure = ""

    @property
    def channels(self) -> int:
        """1 or 2."""
        return self._mixdown.channels

    @property
    def running(self) -> bool:
        """Whether packets still come; not after the source ended."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin with what is captured from now on."""
        self._counters.starts += 1
        self._cursor = self._tap.open()
        self._thread.start()

    def stop(self) -> None:
        """End and join the thread, which looks at least every `LIMITS.audio_read_timeout` seconds."""
        self._stopping.set()
        self._thread.join(LIMITS.audio_stop_timeout)
        self._tap.close(self._cursor)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                block = self._cursor.read(LIMITS.audio_read_timeout, max(1, self._encoder.frames_due))
                if block is not None:
                    self._take(block)
                elif self._cursor.at_end:
                    return
        except Exception as error:
            # A thread's death is silent: whatever it died of is in the log and the status.
            self.failure = error.message if isinstance(error, StageboxError) else repr(error)
            log.exception("monitor_failed", bus=self._plan.name)

    def _take(self, block: Block) -> None:
        counters = self._counters
        if block.flags & BlockFlag.OVERRUN:
            counters.overruns += 1
            counters.overrun_frames += block.lost
        if self._next is not None and block.index != self._next:
            self._encoder.reset()
        self._next = block.index + len(block.samples)
        before = self._mixdown.clipped, self._mixdown.nonfinite
        mixed = self._mixdown.process(block.samples)
        changed = self._insert.process(mixed, start=block.index, time_ns=block.time_ns)
        if changed is not mixed:
            mixed = self._mixdown.limit(changed)
        counters.clipped += self._mixdown.clipped - before[0]
        counters.nonfinite += self._mixdown.nonfinite - before[1]
        for packet in self._encoder.push(mixed, block.index, block.time_ns):
            counters.packets += 1
            self._emit(
                OpusPacket(
                    bus=self._plan.name,
                    start=packet.start,
                    frames=LIMITS.opus_frame,
                    rate=LIMITS.opus_rate,
                    channels=self.channels,
                    time_ns=packet.end_ns,
                    data=packet.data,
                )
            )
