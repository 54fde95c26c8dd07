"""Capture that can be turned on and off while the rack runs: an active rack captures, a suspended one stops at once.

The first start refuses a source that cannot be captured, so that a wrong setting stops the rack; a start after an
activation is repeated, because nobody is there to read an error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from stagebox.errors import CaptureError, StageboxError
from stagebox_rack.audio.engine import AudioEngine, Tap
from stagebox_rack.audio.measurement import AudioItem, SourceStatus
from stagebox_rack.handover import Handover
from stagebox_rack.limits import LIMITS

Report = Callable[[str, dict[str, Any]], None]


class Capturing:
    """The audio engines of one process, one after the other. ``make`` makes one, idle.

    ``started`` is called on the event loop whenever one runs.
    """

    def __init__(
        self,
        make: Callable[[], AudioEngine],
        handover: Handover[AudioItem],
        *,
        alert: Report,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        self._make = make
        self._handover = handover
        self._alert = alert
        self._started = started
        self._engine: AudioEngine | None = None  # the last one, for its counters
        self._opened: AudioEngine | None = None  # the one that runs, or waits to
        self._running = False
        self._unwanted = asyncio.Event()
        self._unwanted.set()
        self._changing = asyncio.Lock()
        self._starting: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether audio is captured."""
        return self._running

    def status(self) -> tuple[SourceStatus, ...]:
        """Every source's state and counters; none if nothing was ever to be captured."""
        return self._engine.status() if self._engine is not None else ()

    def tap(self, source: str) -> Tap:
        """The way into the audio of a source that is captured.

        Raises:
            CaptureError: nothing is captured now. ConfigError: there is no such source.
        """
        if self._engine is None or not self._running:
            raise CaptureError("nothing is captured now", remedy="see why with `stagebox admin racks show`")
        return self._engine.tap(source)

    def reset_loudness(self, source: str | None, programme: str | None) -> None:
        """Start integrated loudness, range and maxima again: of one programme, of one source, or of all.

        Raises:
            CaptureError: nothing is captured now. ConfigError: there is no such source or programme.
        """
        if self._engine is None or not self._running:
            raise CaptureError("nothing is captured now", remedy="see why with `stagebox admin racks show`")
        self._engine.reset_loudness(source, programme)

    async def open(self) -> None:
        """Open every source; nothing is captured yet.

        Raises:
            StageboxError: a source cannot be captured.
        """
        async with self._changing:
            self._unwanted.clear()
            engine = self._make()
            await asyncio.to_thread(engine.open)
            self._engine = self._opened = engine

    async def start(self) -> None:
        """Capture.

        Raises:
            StageboxError: a source cannot be captured; nothing is left running.
        """
        self._unwanted.clear()
        async with self._changing:
            await self._start()

    def start_soon(self) -> None:
        """Capture as soon as the sources can be had; returns at once."""
        self._unwanted.clear()
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start_until_done(), name="capture-start")

    async def stop(self) -> None:
        """Stop capture; when this returns nothing is captured, and everything captured was handed over."""
        self._unwanted.set()
        if self._starting is not None:
            await asyncio.wait({self._starting})  # it sees that capture is not wanted any more
        async with self._changing:
            engine, self._opened, self._running = self._opened, None, False
            if engine is not None:
                await asyncio.to_thread(engine.stop)
            self._handover.drain()

    async def _start(self) -> None:
        if self._running or self._unwanted.is_set():
            return
        engine = self._opened if self._opened is not None else self._make()
        try:
            await asyncio.to_thread(engine.start)
        except BaseException:
            self._opened = None
            await asyncio.to_thread(engine.stop)
            raise
        self._engine = self._opened = engine
        self._running = True
        self._started()

    async def _start_until_done(self) -> None:
        told = ""
        while not (self._running or self._unwanted.is_set()):
            try:
                async with self._changing:
                    await self._start()
            except (
                Exception
            ) as error:  # nobody awaits this, and an active rack has to capture, whatever it takes
                reason = error.message if isinstance(error, StageboxError) else repr(error)
                if reason != told:
                    told = reason
                    self._alert("capture_not_started", {"reason": reason})
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._unwanted.wait(), LIMITS.capture_retry)
