"""Opening a journal of 1 GB that was killed, and SQLite's database of the same records."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nacl.signing import SigningKey

from bench.table import Row, median
from bench.wal.appending import SQLITE, ignore, meter_records, open_wal, submit
from bench.wal.child import Result, measure
from bench.wal.records import RACK, START_NS
from bench.wal.sqlite import SqliteJournal
from stagebox.records.walbatch import WalRecord
from stagebox_rack.limits import LIMITS
from stagebox_rack.wal.catalogue import Catalogue, Span
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.journal import Edges, Journal
from stagebox_rack.wal.opening import open_directory

SIZE = 10**9
LARGE = 4096
"""Bytes of a record that does not compress: so a segment is as large as its hot file, and 1 GB is made in seconds."""
GROUP = 100
FRAMES = 20_000
OPENED = 3
_PUBLIC = bytes(SigningKey(bytes(32)).verify_key)


def _large() -> list[WalRecord]:
    return [WalRecord("event", START_NS, f"rack.{RACK}.event", os.urandom(LARGE)) for _ in range(GROUP)]


class _NoSync(Disk):
    """For making the files: what is measured is reading them."""

    def datasync(self, descriptor: int) -> None:
        """Leave it to the kernel."""


async def job_make_sealed(directory: str) -> None:
    """Append until 1 GB is sealed, then die in the middle of a commit."""
    wal = await open_wal(Path(directory), dataclasses.replace(LIMITS, wal_maintain=0.1))
    while wal.stats().segment_bytes < SIZE:
        await submit(wal, _large(), at_once=True)
        while wal.stats().hot_files > 2:  # noqa: ASYNC110 - sealing announces nothing here
            await asyncio.sleep(0.005)
    submit(wal, _large(), at_once=True)
    os.kill(os.getpid(), signal.SIGKILL)


def job_make_hot(directory: str) -> None:
    """Write 1 GB of hot files as if sealing had not been possible: meter frames in the groups of 2,000/s."""
    opened = open_directory(Path(directory), RACK, _PUBLIC, Disk())
    journal = Journal(
        opened.layout, opened.keyring, Catalogue([], []), opened.mark, opened.recovered.head, rack=RACK,
        boot=os.urandom(16), edges=Edges(_NoSync(), time.monotonic), on_event=ignore,
    )  # fmt: skip
    made = meter_records(FRAMES)
    size, number = 0, 0
    while size < SIZE:
        at = number % (FRAMES // GROUP) * GROUP
        size += len(journal.commit(made[at : at + GROUP]).payload)
        number += 1
    os.kill(os.getpid(), signal.SIGKILL)


def job_make_sqlite(directory: str) -> None:
    """Fill a database with 1 GB, then die while its write-ahead log holds transactions."""
    path = Path(directory) / "journal.sqlite"
    journal = SqliteJournal(path, synchronous="OFF")
    for _ in range(SIZE // (GROUP * LARGE)):
        journal.commit(_large())
    journal.close()
    journal = SqliteJournal(path)
    for _ in range(9):
        journal.commit(_large())
    os.kill(os.getpid(), signal.SIGKILL)


def job_open(directory: str) -> Result:
    """Open and recover, as the product does at its start."""
    seconds = []
    for _ in range(OPENED):
        started = time.perf_counter()
        opened = open_directory(Path(directory), RACK, _PUBLIC, Disk())
        seconds.append(time.perf_counter() - started)
        opened.lock.release()
    spans: list[Span] = [*opened.recovered.segments, *opened.recovered.frozen]
    alerts = [event for event in opened.events if event.severity == "alert"]
    if alerts or sum(span.last - span.first + 1 for span in spans) != opened.recovered.head.next - 1:
        raise RuntimeError(f"the journal was not recovered whole: {alerts}")
    return {"s": median(seconds), "files": len(spans), "records": opened.recovered.head.next - 1}


def job_open_sqlite(directory: str) -> Result:
    """Recover the write-ahead log; then look at every page."""
    started = time.perf_counter()
    journal = SqliteJournal(Path(directory) / "journal.sqlite")
    journal.last()
    opened = time.perf_counter()
    journal.check()
    return {"s": opened - started, "checked_s": time.perf_counter() - started}


async def rows(say: Callable[[str], None]) -> list[Row]:
    """Make each journal in a process that is killed, open it in another."""
    found: dict[str, Result] = {}
    for made, opened in (("sealed", "open"), ("hot", "open"), ("sqlite", "open_sqlite")):
        with tempfile.TemporaryDirectory(prefix="stagebox-bench-") as name:
            Path(name).chmod(0o700)
            say(f"wal: 1 GB to recover, {made}")
            await measure("recovering", f"make_{made}", killed=True, directory=name)
            found[made] = await measure("recovering", opened, directory=name)
    sqlite = found["sqlite"]
    return [
        Row("wal", f"1 GB recovered after kill -9, {found['sealed']['files']:.0f} files, nearly all sealed", "s",
            found["sealed"]["s"], sqlite["s"], SQLITE, "< 5"),
        Row("wal", f"1 GB recovered, all hot, {found['hot']['records'] / 1e6:.1f} million records", "s",
            found["hot"]["s"], sqlite["checked_s"], "SQLite and its quick_check", "< 5"),
    ]  # fmt: skip
