"""Modules beside a source: a cursor of their own on its ring, in blocks of 20 ms; what they return goes nowhere.

It cannot hold up capture or meters: if it is slow it loses frames, and counts them.
"""

from __future__ import annotations

import threading

import structlog

from stagebox_rack.audio.engine import Tap
from stagebox_rack.audio.framing import Frame, FrameAssembler
from stagebox_rack.audio.insert import Processor
from stagebox_rack.audio.ring import Block
from stagebox_rack.audio.sanity import replace_bad
from stagebox_rack.limits import LIMITS

log = structlog.get_logger()

_NS = 1_000_000_000


class TapRunner:
    """Feeds ``processor`` with what is captured from now on, from the thread ``modules-<source>``."""

    def __init__(self, source: str, tap: Tap, processor: Processor) -> None:
        """Begin."""
        self._source = source
        self._tap = tap
        self._processor = processor
        self._rate = tap.format.rate
        self._frames = FrameAssembler(
            self._rate // LIMITS.module_blocks_per_s, tap.format.channels, self._rate, tap.format.dtype
        )
        self._next: int | None = None
        self._stopping = threading.Event()
        self._cursor = tap.open()
        self._thread = threading.Thread(target=self._run, name=f"modules-{source}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            tap.close(self._cursor)
            raise

    @property
    def overruns(self) -> int:
        """How often frames were lost because modules were too slow."""
        return self._cursor.overruns

    @property
    def running(self) -> bool:
        """Whether audio still comes; not after the source ended."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End and join the thread."""
        self._stopping.set()
        self._thread.join(LIMITS.audio_stop_timeout)
        self._tap.close(self._cursor)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                due = max(1, self._frames.size - self._frames.pending)
                block = self._cursor.read(LIMITS.audio_read_timeout, due)
                if block is not None:
                    self._take(block)
                elif self._cursor.at_end:
                    return
        except Exception:
            # A thread's death is silent: whatever it died of is in the log.
            log.exception("module_tap_failed", source=self._source)

    def _take(self, block: Block) -> None:
        if self._next is not None and block.index != self._next and self._frames.pending:
            self._hear(self._frames.flush())
        self._next = block.index + len(block.samples)
        for frame in self._frames.push(block.samples, block.index, block.time_ns):
            self._hear(frame)

    def _hear(self, frame: Frame) -> None:
        samples = self._tap.map.apply(frame.samples)
        replace_bad(samples)
        begin_ns = frame.end_ns - len(samples) * _NS // self._rate
        self._processor.process(samples, start=frame.index, time_ns=begin_ns)
