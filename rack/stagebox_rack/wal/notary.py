"""What the journal signs about itself, made records of it so that the mixer gets it: seals and tombstones.

Rules: what is signed is on disk first; a start journals what the mixer may not have yet, and twice does no harm. A
tombstone goes once the mixer holds its record. All belongs to one event loop but the ``post`` methods.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from stagebox.errors import StorageError
from stagebox.records import seal, tombstone
from stagebox_rack.wal.catalogue import SegmentSpan
from stagebox_rack.wal.graves import Graves
from stagebox_rack.wal.recovery import Recovered


class Append(Protocol):
    """How a record gets into the journal."""

    def __call__(
        self, kind: str, time_ns: int, subject: str, data: bytes, *, urgent: bool = False
    ) -> asyncio.Future[int]:
        """Take a record, or raise StorageError."""
        ...


class Notary:
    """One journal's. ``forget`` removes a tombstone that nobody needs; without ``seals`` those stay beside segments."""

    def __init__(
        self,
        append: Append,
        loop: asyncio.AbstractEventLoop,
        *,
        rack: str,
        forget: Callable[[Path], None],
        seals: bool,
    ) -> None:
        self._append = append
        self._loop = loop
        self._rack = rack
        self._forget = forget
        self._seals = seals
        self._graves = Graves()

    def take_over(self, found: Recovered, acknowledged: int) -> None:
        """Journal what an earlier process signed and perhaps no longer journalled."""
        for last, data in found.seals:
            if last > acknowledged or last == found.seals[-1][0]:
                self._seal(data)
        for path, data in found.tombstones:
            self._tombstone(path, data)

    def acknowledged(self, sequence: int) -> None:
        """The mixer holds everything up to ``sequence``."""
        for path in self._graves.acknowledged(sequence):
            self._forget(path)

    def post_seal(self, data: bytes) -> None:
        """Journal a new seal. From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is gone: the next start journals it
            self._loop.call_soon_threadsafe(self._seal, data)

    def post_tombstone(self, segment: SegmentSpan, path: Path, data: bytes) -> None:
        """Journal a new tombstone, and those whose record went with its segment. From any thread."""

        def take() -> None:
            for again in (*self._graves.evicted(segment.first, segment.last), (path, data)):
                self._tombstone(*again)

        with contextlib.suppress(RuntimeError):  # as above
            self._loop.call_soon_threadsafe(take)

    def _seal(self, data: bytes) -> None:
        if self._seals:
            self._record(seal.KIND, data)

    def _tombstone(self, path: Path, data: bytes) -> None:
        def journalled(done: asyncio.Future[int]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._graves.journalled(path, data, done.result())

        future = self._record(tombstone.KIND, data)
        if future is not None:
            future.add_done_callback(journalled)

    def _record(self, kind: str, data: bytes) -> asyncio.Future[int] | None:
        try:
            urgent = kind == tombstone.KIND
            return self._append(kind, time.time_ns(), f"rack.{self._rack}.{kind}", data, urgent=urgent)
        except StorageError:
            return None  # closing, or no room: it stays on disk, and the next start journals it
