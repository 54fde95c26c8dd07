"""Journals for tests: one rack's key and directory, quick limits, and the journal's own events kept."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from stagebox.records.walbatch import WalRecord
from stagebox_rack.limits import LIMITS, RackLimits
from stagebox_rack.wal.catalogue import Catalogue
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.events import JournalEvent
from stagebox_rack.wal.journal import Edges, Journal
from stagebox_rack.wal.journal_format import CommittedBatch
from stagebox_rack.wal.mark import MarkFile
from stagebox_rack.wal.opening import open_directory
from stagebox_rack.wal.wal import Wal

RACK = "stage-left"
BOOT = bytes(range(16))
SUBJECT = f"rack.{RACK}.meter.main"

QUICK = dataclasses.replace(
    LIMITS, wal_commit_window=0.002, wal_hot_file_bytes=64 << 10, wal_maintain=0.05, wal_space_retry=0.01
)


def record(number: int, size: int = 32) -> WalRecord:
    """A record whose content depends on ``number``."""
    return WalRecord(
        "meter", 1_700_000_000_000_000_000 + number, SUBJECT, number.to_bytes(8, "big") * (size // 8)
    )


@dataclass
class Bench:
    """One rack's journal directory."""

    directory: Path
    key: SigningKey = field(default_factory=lambda: SigningKey(bytes(range(32))))
    events: list[JournalEvent] = field(default_factory=list)

    @property
    def public(self) -> bytes:
        return bytes(self.key.verify_key)

    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def event(self, name: str) -> dict[str, Any]:
        (found,) = (event.detail for event in self.events if event.name == name)
        return found

    async def open(self, limits: RackLimits = QUICK, **more: Any) -> Wal:
        return await Wal.open(
            self.directory,
            rack=RACK,
            signing_key=self.key,
            boot=BOOT,
            limits=limits,
            on_event=self.events.append,
            **{"journal_seals": False, **more},
        )

    def writer(self, disk: Disk | None = None, limits: RackLimits = QUICK) -> tuple[Journal, Catalogue]:
        """The journal writer alone, on this thread, with ``disk`` under it."""
        disk = disk or Disk()
        opened = open_directory(self.directory, RACK, self.public, Disk())
        opened.lock.release()
        self.events.extend(opened.events)
        catalogue = Catalogue(opened.recovered.segments, opened.recovered.frozen)
        journal = Journal(
            opened.layout,
            opened.keyring,
            catalogue,
            MarkFile(opened.layout.mark, opened.keyring, disk),
            opened.recovered.head,
            rack=RACK,
            boot=BOOT,
            edges=Edges(disk, clock=itertools.count().__next__),
            on_event=self.events.append,
            limits=limits,
        )
        return journal, catalogue


async def fill(wal: Wal, count: int, size: int = 64) -> int:
    """Append so many records and wait for them; return the last sequence."""
    futures = [wal.append("meter", n, SUBJECT, bytes([n % 256]) * size) for n in range(count)]
    return (await asyncio.gather(*futures))[-1]


async def three_files(made: Bench) -> Bench:
    """Journal records 1-3 and 4-6 in two segments, 7-9 in a hot file that a killed process left."""
    for start in (0, 3, 6):
        journal, _ = made.writer()
        for number in range(start, start + 3):
            journal.commit([record(number)])
        journal._mark.sync()
        if start < 6:
            async with await made.open() as wal:
                await wal.seal_now()
    return made


async def read_all(wal: Wal, after: int = 0) -> list[CommittedBatch]:
    """Every batch ``wal`` hands out."""
    return [batch async for batch in wal.batches_after(after)]


def sequences(batches: list[CommittedBatch]) -> list[int]:
    """Every record's sequence, in the order handed out."""
    return [number for batch in batches for number in range(batch.first, batch.last + 1)]


async def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait for something that announces itself in no other way (a file, a counter)."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


class FailingDisk(Disk):
    """A disk that fails on the operations a test names: ``fail(operation, path-or-none) -> errno or 0``."""

    def __init__(self, fail: Callable[[str], int]) -> None:
        self._fail = fail
        self.synced: list[int] = []
        self.short = False

    def _check(self, operation: str) -> None:
        code = self._fail(operation)
        if code:
            raise OSError(code, os.strerror(code))

    def create(self, path: Path) -> int:
        self._check("create")
        return super().create(path)

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        code = self._fail("pwrite")
        if code == errno.ENOSPC and not self.short:
            # A full disk takes part of the data before it says so.
            self.short = True
            return super().pwrite(descriptor, data[: max(1, len(data) // 2)], offset)
        if code:
            self.short = False
            raise OSError(code, os.strerror(code))
        return super().pwrite(descriptor, data, offset)

    def datasync(self, descriptor: int) -> None:
        self.synced.append(os.fstat(descriptor).st_ino)
        self._check("datasync")
        super().datasync(descriptor)
