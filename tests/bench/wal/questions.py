"""Questions to a lake that holds a day of ten racks, and to SQLite with the same rows decoded into plain columns."""

from __future__ import annotations

import datetime
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from nacl.signing import SigningKey

from bench.table import Row, median
from bench.wal.child import Result, measure
from bench.wal.records import START_NS, frames
from stagebox import envelope
from stagebox.columns.meter import MeterColumns
from stagebox.records.status import Status
from stagebox.records.walbatch import FIRST_PREVIOUS, WalBatch, WalRecord, payload_digest
from stagebox_mixer.lake import query
from stagebox_mixer.lake.keeping import Keeping
from stagebox_mixer.lake.lake import Commit, Lake
from stagebox_mixer.lake.reading import Span, open_reader
from stagebox_mixer.lake.state import ChainHead, Change, Position, State
from stagebox_mixer.lake.storage import LocalStorage

RACKS = tuple(f"rack-{number}" for number in range(10))
DAY_S = 86_400
STATUS_S = 10
BATCH_S = 60
ASKED = 3
CLUSTER = "bench"
_KEY = bytes(32)
_LEVEL_DB = 0.005
_DAY = datetime.datetime.fromtimestamp(START_NS / 1e9, datetime.UTC).date().isoformat()
_HOUR = (START_NS + 12 * 3600 * 10**9, START_NS + 13 * 3600 * 10**9)

LAKE = {
    "day": "SELECT rack, time_ns // 3600000000000 AS hour, min(momentary[1]) AS least, avg(momentary[1]) AS mean "
    "FROM meter GROUP BY ALL ORDER BY ALL",
    "hour": f"SELECT time_ns, peak[1], peak[2] FROM meter WHERE time_ns >= {_HOUR[0]} AND time_ns < {_HOUR[1]} "
    "ORDER BY time_ns",
    "state": "SELECT rack, state, count(*) AS heard FROM status GROUP BY ALL ORDER BY ALL",
}
SQLITE = {
    "day": "SELECT rack, time_ns / 3600000000000 AS hour, min(momentary), avg(momentary) "
    "FROM meter GROUP BY 1, 2 ORDER BY 1, 2",
    "hour": f"SELECT time_ns, peak_1, peak_2 FROM meter WHERE rack = '{RACKS[3]}' AND time_ns >= {_HOUR[0]} "
    f"AND time_ns < {_HOUR[1]} ORDER BY time_ns",
    "state": "SELECT rack, state, count(*) FROM status GROUP BY 1, 2 ORDER BY 1, 2",
}
SPANS = {"hour": Span(RACKS[3], _DAY, _DAY)}


def _day(rack: str, seed: int) -> Iterator[list[WalRecord]]:
    """Yield the batches of one rack: a meter frame a second, a status every ten."""
    boot = os.urandom(16)
    batch: list[WalRecord] = []
    for second, data in enumerate(frames(DAY_S, interval_ns=10**9, seed=seed)):
        now = START_NS + second * 10**9
        batch.append(WalRecord("meter", now, f"rack.{rack}.meter.main", data))
        if second % STATUS_S == 0:
            status = Status(second + 1, boot, now, "running", {"wal": {"committed": second}}).encode()
            batch.append(WalRecord("status", now, f"rack.{rack}.status", status))
        if second % BATCH_S == BATCH_S - 1:
            yield batch
            batch = []


async def job_make(directory: str) -> Result:
    """Commit a day of every rack to a lake, and the same rows to SQLite."""
    lake = Lake(LocalStorage(Path(directory) / "lake"), _KEY, cluster=CLUSTER)
    await lake.open()
    connection = _connect(directory)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("CREATE TABLE meter (rack TEXT, seq INTEGER, time_ns INTEGER, peak_1 REAL, peak_2 REAL, "
                       "true_peak_1 REAL, true_peak_2 REAL, rms_1 REAL, rms_2 REAL, momentary REAL)")  # fmt: skip
    connection.execute("CREATE TABLE status (rack TEXT, seq INTEGER, time_ns INTEGER, state TEXT, body TEXT)")
    taken = 0
    for seed, rack in enumerate(RACKS):
        rows: list[WalRecord] = []
        made: list[Commit] = []
        for found in commits(rack, _day(rack, seed), rows):
            taken += 1
            made.append(replace(found, stream_seq=taken))
        await lake.commit(made, position=Position(1, taken))
        await lake.tidy()
        _insert(connection, rack, rows)
    await sort_all(lake)
    connection.execute("CREATE INDEX meter_rack_time ON meter (rack, time_ns)")
    connection.commit()
    connection.close()
    files = [file for file in lake.state().files.values() if file.rack]
    held, meters = sum(file.size for file in files), sum(file.rows for file in files if file.kind == "meter")
    await lake.close()
    return {"rows": meters, "bytes": held, "sqlite_bytes": (Path(directory) / "rows.sqlite").stat().st_size}


def commits(rack: str, batches: Iterable[list[WalRecord]], rows: list[WalRecord]) -> Iterator[Commit]:
    """Yield what the ingest would commit of a journal; ``rows`` gets its records."""
    key, journal, first, previous = SigningKey.generate(), os.urandom(16), 1, FIRST_PREVIOUS
    for batch in batches:
        payload = WalBatch(rack, first, previous, tuple(batch), journal).encode()
        head = ChainHead(first + len(batch) - 1, payload_digest(payload))
        signature = envelope.seal(envelope.DOMAIN_WAL, payload, key)[-envelope.SIGNATURE_BYTES :]
        yield Commit(rack=rack, journal=journal, first=first, head=head, payload=payload, signature=signature,
                     key=bytes(key.verify_key), stream_seq=0, checkpoints=0, proved=0)  # fmt: skip
        first, previous = head.last + 1, head.digest
        rows += batch


async def sort_all(lake: Lake) -> None:
    """Sort what came last too, as five minutes later."""
    later = Keeping(lake.tables, cluster=CLUSTER, keep_days=0, now_ns=lambda: time.time_ns() + 600 * 10**9)
    for work in (later.sort, later.merge):
        while (change := work(lake.state())) is not None:
            await lake.change(_always(change))


def _always(change: Change) -> Callable[[State], Change]:
    return lambda _: change


def _connect(directory: str) -> sqlite3.Connection:
    return sqlite3.connect(Path(directory) / "rows.sqlite")


def _insert(connection: sqlite3.Connection, rack: str, records: Sequence[WalRecord]) -> None:
    meters = [(seq, record) for seq, record in enumerate(records, 1) if record.kind == "meter"]
    packed = MeterColumns().pack([record.data for _, record in meters]).column
    levels = [
        packed.field(name).flatten().to_numpy().reshape(len(meters), -1)[:, channel] / 100
        for name in ("peak", "true_peak", "rms")
        for channel in range(2)
    ]
    levels.append(packed.field("momentary").flatten().to_numpy().reshape(len(meters), -1)[:, 0] / 100)
    columns = [column.tolist() for column in levels]
    head = [(rack, seq, record.time_ns) for seq, record in meters]
    filled = ((*start, *values) for start, *values in zip(head, *columns, strict=True))
    connection.executemany("INSERT INTO meter VALUES (?,?,?,?,?,?,?,?,?,?)", filled)
    statuses = [
        (rack, seq, record.time_ns, "running", "{}")
        for seq, record in enumerate(records, 1)
        if record.kind == "status"
    ]
    connection.executemany("INSERT INTO status VALUES (?,?,?,?,?)", statuses)
    connection.commit()


def job_ask(directory: str) -> Result:
    """Ask each question as ``lake query`` does, opening included, and SQLite; median of a few, in turn."""
    import duckdb  # noqa: F401 - its import is the command's start, not the question

    result: Result = {}
    for name in LAKE:
        ours: list[float] = []
        sqlite: list[float] = []
        for _ in range(ASKED):
            started = time.perf_counter()
            reader = open_reader(LocalStorage(Path(directory) / "lake"), _KEY, cluster=CLUSTER)
            answer = (
                query.run(query.connect(reader, SPANS.get(name, Span())), LAKE[name]).read_all().to_pylist()
            )
            ours.append(time.perf_counter() - started)
            started = time.perf_counter()
            connection = _connect(directory)
            other = connection.execute(SQLITE[name]).fetchall()
            connection.close()
            sqlite.append(time.perf_counter() - started)
            _compare(name, [tuple(row.values()) for row in answer], other)
        result |= {name: median(ours), f"{name}_sqlite": median(sqlite)}
    return result


def _compare(name: str, ours: list[tuple[object, ...]], theirs: list[tuple[object, ...]]) -> None:
    if len(ours) != len(theirs) or not all(
        _same(mine, other)
        for row, other_row in zip(ours, theirs, strict=True)
        for mine, other in zip(row, other_row, strict=True)
    ):
        raise RuntimeError(f"the two answers to {name!r} differ: {ours[:2]} and {theirs[:2]}")


def _same(mine: object, other: object) -> bool:
    if isinstance(mine, float) and isinstance(other, float):
        return abs(mine - other) < _LEVEL_DB
    return mine == other


async def rows(say: Callable[[str], None]) -> list[Row]:
    """Build the day once, ask in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="stagebox-bench-") as name:
        say("wal: a day of 10 racks, committed and sorted")
        made = await measure("questions", "make", directory=name)
        say("wal: questions")
        asked = await measure("questions", "ask", directory=name)
    meters = f"{made['rows']:,.0f} meter rows"
    plain = "SQLite, rows decoded, index"
    return [
        Row("wal", f"least and mean level an hour and rack, day of 10 racks, {meters}", "ms",
            1e3 * asked["day"], 1e3 * asked["day_sqlite"], plain),
        Row("wal", "one hour of one rack of it, 3,600 rows", "ms", 1e3 * asked["hour"],
            1e3 * asked["hour_sqlite"], plain),
        Row("wal", "statuses counted by rack, 86,400 rows", "ms", 1e3 * asked["state"],
            1e3 * asked["state_sqlite"], plain),
        Row("wal", "bytes a meter record in the lake, evidence included", "B", made["bytes"] / made["rows"],
            made["sqlite_bytes"] / made["rows"], f"{plain}, 8 of 24 levels"),
    ]  # fmt: skip
