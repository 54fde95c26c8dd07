"""The lake: commits are all or nothing, and whatever is sorted, merged or swept, every row is there once."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.signing import SigningKey
from pyarrow.parquet import encryption

from stagebox import files
from stagebox.columns import table
from stagebox.errors import InputError, StorageError, VerificationError
from stagebox.records.event import Event
from stagebox.records.tombstone import Reason, Tombstone
from stagebox.records.walbatch import WalBatch, WalRecord
from stagebox_mixer.lake import keeping, query, storage
from stagebox_mixer.lake.export import export
from stagebox_mixer.lake.lake import Lake
from stagebox_mixer.lake.merging import to_merge, to_retire, to_sort
from stagebox_mixer.lake.migration import import_ledger
from stagebox_mixer.lake.reading import Span, open_reader
from stagebox_mixer.lake.sorting import date_of
from stagebox_mixer.lake.state import (
    ARRIVALS,
    ChainHead,
    Hold,
    JournalState,
    LakeFile,
    Missing,
    Position,
    explained,
)
from stagebox_mixer.lake.storage import LocalStorage
from stagebox_mixer.lake.verify import LakeDamageError, verify
from stagebox_mixer.limits import LIMITS
from support.frames import meter_frame
from support.lake import commit, records_in
from support.module_records import module_record
from support.rackside import Journal

KEY = bytes(range(32))
CLUSTER = "test"
RACK = "stage-left"
DAY = 86_400 * 10**9
NOON = 20_000 * DAY + DAY // 2


def make_lake(root: Path, keep_days: int = 0) -> Lake:
    return Lake(LocalStorage(root), KEY, cluster=CLUSTER, keep_days=keep_days)


def mixed(number: int, time_ns: int = NOON) -> tuple[WalRecord, ...]:
    frame = meter_frame(number + 1, bytes(16), time_ns=time_ns, start=number * 2400, peak=-10.0 - number)
    event = Event(number, bytes(16), time_ns, "clip", {"channel": number})
    return (
        WalRecord("meter", time_ns, f"rack.{RACK}.meter.main", frame.encode()),
        WalRecord("event", time_ns, f"rack.{RACK}.event", event.encode()),
        WalRecord("unheard-of/../x", time_ns, "rack.x", b"\0\1"),
    )


@pytest.fixture
def journal() -> Journal:
    return Journal(RACK, SigningKey(bytes(range(32))))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sort at once, merge at two files, sweep at once."""
    quick = dataclasses.replace(LIMITS, lake_sort_after_s=0.0, lake_merge_files=2, lake_sweep_after_s=0.0)
    monkeypatch.setattr(keeping, "LIMITS", quick)


async def fill(
    lake: Lake, journal: Journal, batches: int, time_ns: int = NOON
) -> list[tuple[int, str, bytes]]:
    expected: list[tuple[int, str, bytes]] = []
    for number in range(batches):
        records = mixed(journal.next, time_ns + number)
        expected.extend((journal.next + n, record.kind, record.data) for n, record in enumerate(records))
        await lake.commit([commit(journal, *records)], position=Position(1, number + 1))
    return expected


@pytest.mark.usefixtures("hasty")
async def test_sorting_and_merging_lose_and_repeat_no_row(tmp_path: Path, journal: Journal) -> None:
    lake = make_lake(tmp_path)
    await lake.open()
    expected = await fill(lake, journal, 5)
    assert records_in(lake.reader(), RACK) == expected
    await lake.tidy()
    expected += await fill(lake, journal, 5)
    await lake.tidy()
    assert records_in(lake.reader(), RACK) == expected
    assert not lake.state().of_kind(ARRIVALS)
    assert len(lake.state().files) == 4, "three kinds and what proves them, merged"
    report = verify(lake.reader(), Span())
    assert (report.records, report.batches, report.signatures) == (30, 10, 10)
    await lake.close()
    again = make_lake(tmp_path)
    await again.open()
    assert records_in(again.reader(), RACK) == expected
    assert again.head(RACK, journal.journal) == ChainHead(30, journal.previous)
    await again.close()


@pytest.mark.parametrize("fail_at", range(1, 30))
async def test_a_failure_of_any_write_loses_nothing_and_leaves_the_lake_as_it_was(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, hasty: None, fail_at: int
) -> None:
    lake = make_lake(tmp_path)
    await lake.open()
    original, calls = LocalStorage.write, 0

    def write(storage: LocalStorage, path: str, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(28, "No space left on device")
        original(storage, path, data)

    monkeypatch.setattr(LocalStorage, "write", write)
    expected: list[tuple[int, str, bytes]] = []
    position = 0
    for number in range(4):
        before, records = dataclasses.replace(journal), mixed(number)
        made = commit(journal, *records)
        try:
            await lake.commit([made], position=Position(1, position + 1))
        except StorageError:
            journal = before  # what is not committed is read from the stream again
            assert lake.state().position.stream_seq == position
            continue
        position += 1
        expected.extend((made.first + n, record.kind, record.data) for n, record in enumerate(records))
        if number % 2:
            await lake.tidy()
    await lake.close()
    again = make_lake(tmp_path)
    await again.open()
    assert records_in(again.reader(), RACK) == expected
    assert again.state().position == Position(1, position)
    known = again.state().files.keys() | again.state().dropped.keys()
    assert {*again.storage.names("arrivals"), *again.storage.names("data")} <= known
    verify(again.reader(), Span())
    await again.close()


async def test_files_of_a_commit_that_never_happened_go_at_the_next_start(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    await lake.open()
    lake.storage.write("arrivals/orphan.parquet", b"x")
    (tmp_path / "arrivals/.cut-off.parquet.tmp").write_bytes(b"x")
    await lake.close()
    await (again := make_lake(tmp_path)).open()
    assert not list((tmp_path / "arrivals").iterdir())
    await again.close()


async def test_many_commits_are_read_from_a_snapshot(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stagebox_mixer.lake import manifest

    monkeypatch.setattr(manifest, "LIMITS", dataclasses.replace(LIMITS, lake_snapshot_every=4))
    lake = make_lake(tmp_path)
    await lake.open()
    expected = await fill(lake, journal, 11)
    state = lake.state()
    await lake.close()
    names = sorted(path.name for path in (tmp_path / "manifest").iterdir())
    assert f"{8:020d}.snapshot" in names
    assert f"{4:020d}.cbor" not in names
    again = make_lake(tmp_path)
    await again.open()
    assert again.state() == state
    assert records_in(again.reader(), RACK) == expected
    await again.close()


async def test_a_missing_manifest_is_found(tmp_path: Path, journal: Journal) -> None:
    lake = make_lake(tmp_path)
    await lake.open()
    await fill(lake, journal, 3)
    await lake.close()
    (tmp_path / "manifest" / f"{2:020d}.cbor").unlink()
    with pytest.raises(VerificationError, match="manifest 3 of the lake does not follow manifest 1"):
        open_reader(LocalStorage(tmp_path), KEY, cluster=CLUSTER)


@pytest.mark.usefixtures("hasty")
async def test_a_batch_across_midnight_lies_in_two_dates_and_verifies(
    tmp_path: Path, journal: Journal
) -> None:
    lake = make_lake(tmp_path)
    await lake.open()
    records = (*mixed(1, 20_000 * DAY - 1), *mixed(2, 20_000 * DAY))
    await lake.commit([commit(journal, *records)], position=Position(1, 1))
    await lake.tidy()
    dates = {line.date for line in lake.reader().listing()}
    assert dates == {date_of(20_000 * DAY - 1), date_of(20_000 * DAY)}
    assert verify(lake.reader(), Span()).records == 6
    await lake.close()


# Damage


@pytest.mark.usefixtures("hasty")
async def test_every_file_of_a_lake_that_is_altered_cut_or_gone_is_named(
    tmp_path: Path, journal: Journal
) -> None:
    lake = make_lake(tmp_path)
    await lake.open()
    await fill(lake, journal, 2)
    await lake.tidy()
    await lake.close()
    reader = open_reader(LocalStorage(tmp_path), KEY, cluster=CLUSTER)
    for file in reader.state.files.values():
        path = tmp_path / file.path
        whole = path.read_bytes()
        for damaged in (
            whole[:-1],
            whole[:100],
            bytes([whole[0] ^ 1]) + whole[1:],
            whole[:-9] + b"X" + whole[-8:],
        ):
            path.write_bytes(damaged)
            with pytest.raises(LakeDamageError, match=file.path):
                verify(reader, Span())
        path.unlink()
        with pytest.raises(LakeDamageError, match=file.path):
            verify(reader, Span())
        path.write_bytes(whole)
    verify(reader, Span())


async def test_a_row_that_its_rack_never_signed_is_found(tmp_path: Path, journal: Journal) -> None:
    lake = make_lake(tmp_path)
    await lake.open()
    honest = commit(journal, *mixed(1))
    forged = dataclasses.replace(
        honest, payload=WalBatch(RACK, 1, bytes(32), mixed(2), journal.journal).encode()
    )
    await lake.commit([forged], position=Position(1, 1))
    with pytest.raises(LakeDamageError, match="signature does not verify"):
        verify(lake.reader(), Span())
    await lake.close()


# Questions


@pytest.mark.usefixtures("hasty")
async def test_sql_sees_what_is_sorted_and_what_just_arrived(tmp_path: Path, journal: Journal) -> None:
    lake = make_lake(tmp_path)
    await lake.open()
    await fill(lake, journal, 3)
    await lake.tidy()
    await fill(lake, journal, 2, NOON + DAY)
    connection = query.connect(lake.reader(), Span())
    sql = "SELECT date, count(*) AS n, max(list_max(peak)) AS top FROM meter GROUP BY date ORDER BY 1"
    rows = query.run(connection, sql)
    found = rows.read_all().to_pylist()
    assert [(row["date"], row["n"]) for row in found] == [(date_of(NOON), 3), (date_of(NOON + DAY), 2)]
    assert found[0]["top"] == pytest.approx(-11.0)
    asked = "SELECT sum((detail->>'channel')::int) AS n FROM event WHERE rack = 'stage-left'"
    assert query.run(connection, asked).read_all().to_pylist() == [{"n": 1 + 4 + 7 + 10 + 13}]
    one = query.connect(lake.reader(), Span(first=date_of(NOON + DAY)))
    assert query.run(one, "SELECT count(*) AS n FROM meter").read_all().to_pylist() == [{"n": 2}]
    await lake.close()


def said(number: int) -> WalRecord:
    record = module_record(number, time_ns=NOON + number).encode()
    return WalRecord("module", NOON + number, f"rack.{RACK}.module.spl.leq", record)


@pytest.mark.usefixtures("hasty")
async def test_what_modules_said_can_be_asked_for_exported_and_verified(
    tmp_path: Path, journal: Journal
) -> None:
    lake = make_lake(tmp_path / "lake")
    await lake.open()
    for number in range(1, 5):
        await lake.commit([commit(journal, said(number), *mixed(number))], position=Position(1, number))
        if number % 2 == 0:
            await lake.tidy()
    connection = query.connect(lake.reader(), Span())
    asked = """SELECT module, version, insert, source, start, out, (detail->>'laeq')::double AS laeq
        FROM module WHERE module = 'spl' AND out = 'leq' ORDER BY time DESC LIMIT 1"""
    assert query.run(connection, asked).read_all().to_pylist() == [
        {
            "module": "spl", "version": "1.2.0", "insert": "spl-main", "source": "main", "start": 4 * 48_000,
            "out": "leq", "laeq": -24.5,
        }
    ]  # fmt: skip
    for fmt in ("parquet", "csv", "jsonl", "arrow"):
        out = tmp_path / f"modules.{fmt}"
        assert export(query.run(connection, query.all_of("module")), out, fmt) == 4
    rows = [json.loads(line) for line in (tmp_path / "modules.jsonl").read_text().splitlines()]
    assert [row["data"] for row in rows] == [said(number).data.hex() for number in range(1, 5)]
    report = verify(lake.reader(), Span())
    assert (report.records, report.unproved) == (16, 12), "all but those of an unknown kind are live records"
    await lake.close()


@pytest.mark.usefixtures("hasty")
async def test_module_records_sorted_and_merged_by_software_that_does_not_know_them_are_all_there(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = make_lake(tmp_path)
    await lake.open()

    async def fill(*numbers: int) -> None:
        for number in numbers:
            await lake.commit([commit(journal, said(number))], position=Position(1, number))
        await lake.tidy()

    await fill(1)
    with monkeypatch.context() as earlier:
        earlier.setattr(
            table, "KINDS", {name: kind for name, kind in table.KINDS.items() if name != "module"}
        )
        await fill(2)
        await fill(3)
        assert [data for _, _, data in records_in(lake.reader(), RACK)] == [said(n).data for n in (1, 2, 3)]
    await fill(4)
    (file,) = lake.state().of_kind("module")
    assert file.rows == 4, "merged"
    assert [data for _, _, data in records_in(lake.reader(), RACK)] == [said(n).data for n in range(1, 5)]
    assert verify(lake.reader(), Span()).records == 4
    rows = query.run(query.connect(lake.reader(), Span()), "SELECT module_seq, out FROM module ORDER BY seq")
    found = rows.read_all().to_pylist()
    assert [row["out"] for row in found] == ["leq"] * 4
    assert [row["module_seq"] for row in found] == [None, None, None, 4], "columns are not made up afterwards"
    await lake.close()


async def test_a_question_reads_the_lake_and_nothing_else_of_the_machine(
    tmp_path: Path, journal: Journal
) -> None:
    lake = make_lake(tmp_path)
    await lake.open()
    await fill(lake, journal, 1)
    (tmp_path / "secret.csv").write_text("a\n1\n")
    connection = query.connect(lake.reader(), Span())
    for sql in (f"SELECT * FROM '{tmp_path / 'secret.csv'}'", "SELECT * FROM nothing", "SELEC 1"):
        with pytest.raises(InputError, match="cannot answer") as refused:
            query.run(connection, sql)
        assert "meter" in str(refused.value.remedy)
    with pytest.raises(InputError):
        query.run(connection, "SET enable_external_access = true")
    await lake.close()


@pytest.mark.usefixtures("hasty")
async def test_pyarrow_duckdb_and_pandas_read_a_file_with_its_key_and_not_with_another(
    tmp_path: Path, journal: Journal
) -> None:
    lake = make_lake(tmp_path)
    await lake.open()
    await fill(lake, journal, 3)
    await lake.tidy()
    (file,) = lake.state().of_kind("meter")
    path, key = tmp_path / file.path, lake.tables.file_key(file.path)
    properties = encryption.create_decryption_properties(key)
    assert pq.read_table(path, decryption_properties=properties).num_rows == 3
    frame: pd.DataFrame = lake.reader().datasets()["meter"].to_table().to_pandas()
    assert frame["peak"].map(lambda levels: levels[0]).tolist() == [-1100, -1400, -1700]
    assert frame["rack"].unique().tolist() == [RACK]
    database = duckdb.connect()
    import base64

    database.execute(f"PRAGMA add_parquet_key('k', '{base64.b64encode(key).decode()}')")
    asked = f"SELECT count(*) FROM read_parquet('{path}', encryption_config={{footer_key: 'k'}})"
    assert database.execute(asked).fetchone() == (3,)
    with pytest.raises(OSError, match="decrypt"):
        pq.read_table(path, decryption_properties=encryption.create_decryption_properties(bytes(32)))
    with pytest.raises(VerificationError, match="written with another storage key"):
        open_reader(LocalStorage(tmp_path), bytes(32), cluster=CLUSTER)
    await lake.close()


# Retention


@pytest.mark.usefixtures("hasty")
async def test_what_is_too_old_goes_unless_a_hold_covers_it(tmp_path: Path, journal: Journal) -> None:
    lake = make_lake(tmp_path, keep_days=30)
    await lake.open()
    old = time.time_ns() - 40 * DAY
    await fill(lake, journal, 2, old)
    await fill(lake, journal, 2, time.time_ns())
    await lake.hold("case", Hold("case", RACK, date_of(old), date_of(old), "a complaint"))
    await lake.tidy()
    assert {line.date for line in lake.reader().listing()} >= {date_of(old)}
    assert all(line.held == (line.date == date_of(old)) for line in lake.reader().listing())
    await lake.hold("case", None)
    await lake.tidy()
    assert date_of(old) not in {line.date for line in lake.reader().listing()}
    assert len(records_in(lake.reader(), RACK)) == 6
    assert not list((tmp_path / "data").rglob(f"date={date_of(old)}"))
    await lake.close()


def test_tombstones_explain_what_they_name_and_no_more() -> None:
    gaps = (Missing(3, 20), Missing(30, 31))
    held = replace(JournalState(RACK, bytes(16)), gaps=gaps)
    for first, last in ((3, 8), (9, 12), (19, 40)):
        held = explained(held, first, last, 100)
    assert held.gaps == (
        Missing(3, 12, explained=True),
        Missing(13, 18),
        Missing(19, 20, explained=True),
        Missing(30, 31, explained=True),
    )
    assert explained(held, 13, 18, 100).gaps == (
        Missing(3, 20, explained=True),
        Missing(30, 31, explained=True),
    )
    assert len(explained(held, 15, 15, 2).gaps) == 2


async def test_a_commit_that_took_place_although_the_storage_said_no_is_not_made_twice(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = make_lake(tmp_path)
    await lake.open()
    original = LocalStorage.write

    def write(storage: LocalStorage, path: str, data: bytes) -> None:
        original(storage, path, data)
        if path.startswith("manifest/"):
            raise OSError(5, "Input/output error")

    made = commit(journal, *mixed(0))
    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "write", write)
        with pytest.raises(StorageError):
            await lake.commit([made], position=Position(1, 1))
    assert (lake.head(RACK, journal.journal).last, lake.state().position.stream_seq) == (3, 1)
    await lake.commit([commit(journal, *mixed(1))], position=Position(1, 2))
    assert [sequence for sequence, _, _ in records_in(lake.reader(), RACK)] == [1, 2, 3, 4, 5, 6]
    await lake.close()


async def test_a_commit_that_may_not_be_durable_does_not_count_until_it_is(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = make_lake(tmp_path)
    await lake.open()
    refuse = True

    def fsync_dir(directory: Path) -> None:
        if refuse and directory.name == "manifest":
            raise OSError(5, "Input/output error")
        files.fsync_dir(directory)

    monkeypatch.setattr(storage, "fsync_dir", fsync_dir)
    made = commit(journal, *mixed(0))
    for _ in range(2):
        with pytest.raises(StorageError):
            await lake.commit([made], position=Position(1, 1))
        assert lake.state().position.stream_seq == 0, "the stream may be trimmed up to here"
    refuse = False
    with pytest.raises(StorageError, match="in doubt"):
        await lake.commit([made], position=Position(1, 1))
    assert lake.state().position.stream_seq == 1
    await lake.close()


async def test_tombstones_that_overlap_explain_no_more_than_they_name_and_other_journals_nothing(
    tmp_path: Path, journal: Journal
) -> None:
    lake = make_lake(tmp_path)
    await lake.open()
    await lake.commit([commit(journal, *mixed(0))], position=Position(1, 1))
    journal.of(*mixed(1), *mixed(2))  # 4 to 9 never come

    def grave(first: int, last: int, of: bytes = journal.journal) -> WalRecord:
        nothing = bytes(32)
        made = Tombstone(RACK, of, first, last, nothing, nothing, nothing, False, Reason.QUOTA, NOON)
        return WalRecord("tombstone", NOON, f"rack.{RACK}.tombstone", made.sign(journal.key))

    await lake.commit([commit(journal, grave(4, 7), grave(5, 8))], position=Position(1, 2))
    assert verify(lake.reader(), Span()).gaps == [
        f"{RACK}, journal {journal.journal.hex()}: records 4-9 never came (unexplained)"
    ]
    await lake.commit([commit(journal, grave(8, 9))], position=Position(1, 3))
    assert "(the rack signed a tombstone)" in verify(lake.reader(), Span()).gaps[0]
    await lake.commit([commit(journal, grave(1, 2, of=bytes(16)))], position=Position(1, 4))
    with pytest.raises(LakeDamageError, match="it speaks of another journal"):
        verify(lake.reader(), Span())
    await lake.close()


def file(
    name: str, size: int, *, kind: str = "meter", date: str = "2026-01-01", first_ns: int = 0
) -> LakeFile:
    return LakeFile(name, kind, RACK, date, 1, size, b"", first_ns, first_ns)


def test_arrivals_are_sorted_when_there_is_enough_or_they_waited_long() -> None:
    arrivals = [file(str(n), 10, kind=ARRIVALS, first_ns=n) for n in range(5)]
    assert to_sort(arrivals, now_ns=5, age_ns=100, most_bytes=30, min_bytes=100) == []
    assert len(to_sort(arrivals, now_ns=200, age_ns=100, most_bytes=30, min_bytes=100)) == 3
    assert len(to_sort(arrivals, now_ns=5, age_ns=100, most_bytes=1000, min_bytes=50)) == 5


def test_files_are_merged_by_size_on_a_day_that_goes_on_and_all_together_after_it() -> None:
    files = [file(f"s{n}", 10) for n in range(7)] + [file("big", 5000), file("done", 99_999)]
    rules: dict[str, Any] = {"small": 10_000, "most": 20_000, "together": 8}
    assert to_merge(files, today="2026-01-01", **rules) == []
    merged = to_merge([*files, file("s8", 11)], today="2026-01-01", **rules)
    assert sorted(f.size for f in merged) == [10] * 7 + [11]
    closed = to_merge(files, today="2026-01-02", **rules)
    assert {f.path for f in closed} == {*(f"s{n}" for n in range(7)), "big"}
    held = [Hold("h", "", "2026-01-01", "2026-01-01", "")]
    assert to_retire(files, held, before="2026-02-01") == []
    assert len(to_retire(files, [], before="2026-02-01")) == len(files)


# The first release's ledger


def old_ledger(path: Path, journal: Journal, batches: int) -> None:
    """Write what the first release would have (its own reference says how)."""
    check = int.from_bytes(blake3(b"stagebox.ledger.key_check.v1", key=KEY).digest(7), "big")
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL)")
        db.execute(
            "CREATE TABLE batches (rack TEXT, journal BLOB, first INTEGER, last INTEGER, stream_seq INTEGER, "
            "committed_ns INTEGER, sealed BLOB)"
        )
        meta = {"version": 1, "key_check": check, "stream_id": 7, "stream_seq": batches}
        db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        for number in range(batches):
            batch = journal.of(*mixed(number))
            bound = (
                b"stagebox.ledger.v1\0"
                + RACK.encode()
                + b"\0"
                + journal.journal
                + batch.first.to_bytes(8, "big")
            )
            sealed = bytes(12) + AESGCM(KEY).encrypt(bytes(12), batch.encode(), bound)
            row = (RACK, journal.journal, batch.first, batch.last, number + 1, 1, sealed)
            db.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    db.close()


async def test_the_ledger_of_the_first_release_comes_into_the_lake_once(
    tmp_path: Path, journal: Journal
) -> None:
    path = tmp_path / "ledger.sqlite"
    old_ledger(path, journal, 4)
    lake = make_lake(tmp_path / "lake")
    await lake.open()
    # As if an import had broken off after its first batches.
    beginning = Journal(RACK, journal.key, journal.journal)
    await lake.commit([commit(beginning, *mixed(0))], position=Position())
    assert await import_ledger(path, KEY, lake) == 3
    assert await import_ledger(path, KEY, lake) == 0
    assert lake.head(RACK, journal.journal) == ChainHead(12, journal.previous)
    assert lake.state().position == Position(7, 4)
    assert [seq for seq, _, _ in records_in(lake.reader(), RACK)] == list(range(1, 13))
    report = verify(lake.reader(), Span())
    assert (report.batches, report.unsigned) == (4, 3)
    assert json.loads(json.dumps(report.covered))
    await lake.close()
    assert not path.exists()
    assert path.with_name("ledger.sqlite.imported").exists()


async def test_a_ledger_of_another_key_or_a_damaged_one_stops_the_start(
    tmp_path: Path, journal: Journal
) -> None:
    path = tmp_path / "ledger.sqlite"
    lake = make_lake(tmp_path / "lake")
    await lake.open()
    old_ledger(path, journal, 1)
    with pytest.raises(StorageError, match="another storage key"):
        await import_ledger(path, bytes(32), lake)
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StorageError, match="cannot be read"):
        await import_ledger(path, KEY, lake)
    assert path.exists()
    await lake.close()
