"""Appends: how many, at what CPU, with how many bytes on the disk; and what sealing a hot file costs."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

from nacl.signing import SigningKey

from bench.table import Row, median
from bench.wal.child import Result, bytes_written, measure
from bench.wal.records import RACK, SUBJECT, frames, groups
from bench.wal.sqlite import Queued, SqliteJournal
from stagebox.records.walbatch import WalRecord
from stagebox_rack.limits import LIMITS, RackLimits
from stagebox_rack.wal.commit import GroupCommit
from stagebox_rack.wal.events import JournalEvent
from stagebox_rack.wal.importance import Importance
from stagebox_rack.wal.journal import Journal
from stagebox_rack.wal.wal import Wal

SATURATED = 100_000
WINDOW = 8192
RATES = (100, 2000)
GROUP_S = 0.05
PACED_S = 6.0
ROUNDS = 2
FILES = {20: 1, 2000: 3}
"""Rate → hot files to fill: 20 a second is one record a group, as of a 2-channel rack."""
SEALS = 3
SQLITE = "SQLite, WAL, FULL"
_LATER = 1e6
Engine = tuple[Callable[[Sequence[WalRecord]], asyncio.Future[int] | None], Callable[[], Awaitable[None]]]
"""What takes a group, and what ends it."""


def ignore(_event: JournalEvent) -> None:
    """Journal events are of no interest to a measurement."""


def meter_records(count: int) -> list[WalRecord]:
    """Return records as a rack appends them."""
    return [WalRecord("meter", time.time_ns(), SUBJECT, data) for data in frames(count)]


async def open_wal(
    directory: Path, limits: RackLimits = LIMITS, clock: Callable[[], float] = time.monotonic
) -> Wal:
    """Open a journal of its own key."""
    return await Wal.open(
        directory,
        rack=RACK,
        signing_key=SigningKey(bytes(32)),
        boot=os.urandom(16),
        on_event=ignore,
        limits=limits,
        clock=clock,
    )


def submit(wal: Wal, group: Sequence[WalRecord], *, at_once: bool) -> asyncio.Future[int]:
    """Append a group; return the future of its last record."""
    for record in group[:-1]:
        wal.append(record.kind, record.time_ns, record.subject, record.data)
    last = group[-1]
    return wal.append(last.kind, last.time_ns, last.subject, last.data, urgent=at_once)


async def job_saturated(directory: str, sqlite: bool) -> Result:
    """Append as fast as the journal takes it, each record with its own awaitable."""
    made = meter_records(SATURATED)
    if sqlite:
        return await asyncio.to_thread(_saturated_sqlite, Path(directory), made)
    wal = await open_wal(Path(directory))
    started = time.perf_counter()
    for group in groups(made, WINDOW):
        await asyncio.gather(*(wal.append(r.kind, r.time_ns, r.subject, r.data) for r in group))
    elapsed = time.perf_counter() - started
    await wal.close()
    return {"per_s": SATURATED / elapsed}


def _saturated_sqlite(directory: Path, made: Sequence[WalRecord]) -> Result:
    journal = SqliteJournal(directory / "journal.sqlite")
    started = time.perf_counter()
    for group in groups(made, WINDOW):
        journal.commit(group)
    elapsed = time.perf_counter() - started
    journal.close()
    return {"per_s": len(made) / elapsed}


async def job_paced(directory: str, engine: str, rate: int) -> Result:
    """Append at a steady rate, 50 ms together; % of a core. Ours ends before its hot file is sealed."""
    made = meter_records(int(rate * PACED_S))
    take, end = await _ENGINES[engine](Path(directory))
    started, cpu = time.perf_counter(), time.process_time()
    last = None
    for number, group in enumerate(groups(made, int(rate * GROUP_S))):
        await asyncio.sleep(max(0.0, started + number * GROUP_S - time.perf_counter()))
        last = take(group)
    if last is not None:
        await last
    if engine != "ours":
        await end()
    share = 100 * (time.process_time() - cpu) / (time.perf_counter() - started)
    if engine == "ours":
        await end()
    return {"cpu": share}


async def _ours(directory: Path) -> Engine:
    wal = await open_wal(directory)
    return lambda group: submit(wal, group, at_once=False), wal.close


async def _bare(directory: Path) -> Engine:
    journal = SqliteJournal(directory / "journal.sqlite")

    async def end() -> None:
        journal.close()

    return journal.commit, end


async def _queued(directory: Path) -> Engine:
    store = Queued(SqliteJournal(directory / "journal.sqlite"))
    queue = GroupCommit(cast(Journal, store), asyncio.get_running_loop(), lambda _: None)
    queue.start()

    def take(group: Sequence[WalRecord]) -> asyncio.Future[int]:
        return [queue.submit(record, Importance.MEASUREMENT, urgent=False) for record in group][-1]

    return take, queue.stop


_ENGINES = {"ours": _ours, "bare": _bare, "queued": _queued}


async def job_written(directory: str, rate: int, files: int) -> Result:
    """Write ``files`` hot files in the groups of ``rate`` and seal them, the clock going as fast as the disk."""
    limits = dataclasses.replace(LIMITS, wal_maintain_first=0.0, wal_maintain=0.05)
    size, number = int(rate * GROUP_S), 0
    made = meter_records(limits.wal_hot_file_bytes * (files + 1) // 200)
    wal = await open_wal(Path(directory), limits, clock=lambda: number * GROUP_S)
    spare = Path(directory) / "hot" / "spare"
    every = groups(made, size)
    await submit(wal, next(every), at_once=True)
    await _until(spare.exists)
    before, content = bytes_written(Path(directory)), 0
    for group in every:
        number += 1
        await submit(wal, group, at_once=True)
        content += sum(len(record.data) for record in group)
        stats = wal.stats()
        if stats.segments + stats.hot_files > files:
            break
    await _until(lambda: wal.stats().segments == files and spare.exists())
    written = bytes_written(Path(directory)) - before
    await wal.close()
    return {"per_byte": written / content, "groups": number}


def job_written_sqlite(directory: str, rate: int, number: int) -> Result:
    """Commit as many groups to SQLite."""
    size = int(rate * GROUP_S)
    made = meter_records(number * size)
    journal = SqliteJournal(Path(directory) / "journal.sqlite")
    before = bytes_written(Path(directory))
    for group in groups(made, size):
        journal.commit(group)
    journal.close()
    return {"per_byte": (bytes_written(Path(directory)) - before) / sum(len(record.data) for record in made)}


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - files announce nothing
            await asyncio.sleep(0.01)


async def job_seal(directory: str) -> Result:
    """Fill a hot file, seal it; median of a few. Sealing is left to :meth:`Wal.seal_now`."""
    import stagebox.columns.table  # noqa: F401 - a rack imports it once, not for every file

    limits = dataclasses.replace(LIMITS, wal_maintain_first=_LATER, wal_maintain=_LATER)
    wal = await open_wal(Path(directory), limits)
    made = iter(meter_records(SEALS * limits.wal_hot_file_bytes // 200))
    walls: list[float] = []
    cpus: list[float] = []
    hot = count = content = 0
    for _ in range(SEALS):
        while wal.stats().hot_bytes < limits.wal_hot_file_bytes - (64 << 10):
            group = [next(made) for _ in range(100)]
            await submit(wal, group, at_once=True)
            count, content = count + len(group), content + sum(len(record.data) for record in group)
        size = wal.stats().hot_bytes
        hot += size
        wall, cpu = time.perf_counter(), time.process_time()
        await wal.seal_now()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    sealed = wal.stats().segment_bytes
    await wal.close()
    return {
        "ms": median(walls) * 1e3,
        "mb_per_s": hot / SEALS / median(walls) / 1e6,
        "cpu_per_record": median(cpus) * SEALS / count,
        "record": content / count,
        "hot": hot / count,
        "sealed": sealed / count,
    }


async def rows(say: Callable[[str], None]) -> list[Row]:
    """Each engine in a process of its own, in turn."""
    with tempfile.TemporaryDirectory(prefix="stagebox-bench-") as name:
        places = _places(Path(name))
        say("wal: saturated")
        ours = await measure("appending", "saturated", directory=places(), sqlite=False)
        sqlite = await measure("appending", "saturated", directory=places(), sqlite=True)
        found = [
            Row("wal", "durable appends, saturated", "1/s", ours["per_s"], sqlite["per_s"],
                f"{SQLITE}, {WINDOW} a transaction"),
        ]  # fmt: skip
        say("wal: sealing")
        seal = await measure("appending", "seal", directory=places())
        for rate in RATES:
            found += await _cpu(say, rate, seal, places)
        for rate in FILES:
            found.append(await _written(say, rate, places))
    return [
        *found,
        Row("wal", "a full hot file sealed", "ms", seal["ms"]),
        Row("wal", "a full hot file sealed", "MB/s", seal["mb_per_s"]),
        Row("wal", "bytes a record, in a hot file", "B", seal["hot"], seal["record"], "the record alone"),
        Row("wal", "bytes a record, sealed", "B", seal["sealed"], seal["record"], "the record alone"),
    ]


async def _cpu(say: Callable[[str], None], rate: int, seal: Result, places: Callable[[], str]) -> list[Row]:
    shares: dict[str, list[float]] = {engine: [] for engine in _ENGINES}
    for number in range(ROUNDS):
        say(f"wal: {rate} records/s, round {number + 1} of {ROUNDS}")
        for engine, found in shares.items():
            found.append(
                (await measure("appending", "paced", directory=places(), engine=engine, rate=rate))["cpu"]
            )
    ours = median(shares["ours"]) + 100 * rate * seal["cpu_per_record"]
    what, unit = f"CPU at {rate:,}/s, sealing included", "% of a core"
    expected = "≤ 1/3" if rate == RATES[-1] else ""
    return [
        Row("wal", what, unit, ours, median(shares["queued"]), f"{SQLITE}, behind the same queue", expected),
        Row(
            "wal", what, unit, ours, median(shares["bare"]), f"{SQLITE}, 50 ms of records handed over at once"
        ),
    ]


async def _written(say: Callable[[str], None], rate: int, places: Callable[[], str]) -> Row:
    """Others write to the same disk: the least of a few rounds is nearest."""
    ours: list[float] = []
    sqlite: list[float] = []
    for number in range(ROUNDS):
        say(f"wal: bytes written at {rate} records/s, round {number + 1} of {ROUNDS}")
        mine = await measure("appending", "written", directory=places(), rate=rate, files=FILES[rate])
        other = await measure(
            "appending", "written_sqlite", directory=places(), rate=rate, number=int(mine["groups"])
        )
        ours.append(mine["per_byte"])
        sqlite.append(other["per_byte"])
    expected = "≤ 1/3" if rate == RATES[-1] else ""
    return Row("wal", f"written for a record byte at {rate:,}/s", "B", min(ours), min(sqlite),
               f"{SQLITE}, 50 ms a transaction", expected)  # fmt: skip


def _places(root: Path) -> Callable[[], str]:
    """Return what makes a new directory for each job."""
    made = 0

    def place() -> str:
        nonlocal made
        made += 1
        directory = root / f"{made:03d}"
        directory.mkdir(mode=0o700)
        return str(directory)

    return place
