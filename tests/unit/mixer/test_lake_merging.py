"""Sorting and merging in bounded memory: the same rows, in order, however they come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from stagebox.records.walbatch import WalBatch, WalRecord
from stagebox_mixer.ingest import consumer
from stagebox_mixer.lake import sorting, streaming
from stagebox_mixer.lake.state import LakeFile
from stagebox_mixer.lake.storage import LocalStorage
from stagebox_mixer.lake.streaming import merged
from stagebox_mixer.lake.tables import ARRIVAL_SCHEMA, Partition, Tables, sorted_schema
from stagebox_mixer.limits import LIMITS
from support.frames import meter_frame

RACK, ONE, OTHER = "stage-left", bytes(16), bytes(range(16))
WHERE = Partition("test", "2026-01-02", RACK, "meter")
NOON = 1_767_355_200 * 10**9


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(LocalStorage(tmp_path), bytes(32))


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(streaming, "ROW_GROUP_ROWS", 50)
    return 50


def arrivals(journal: bytes, first: int, count: int) -> Any:
    """A table of one batch of meter frames."""
    frames = (
        meter_frame(n, ONE, time_ns=NOON + n, start=n, peak=-n % 60) for n in range(first, first + count)
    )
    records = tuple(
        WalRecord("meter", NOON + n, f"rack.{RACK}.meter.main", f.encode()) for n, f in enumerate(frames)
    )
    payload = WalBatch(RACK, first, bytes(32), records, journal).encode()
    row = {"rack": RACK, "journal": journal, "first": first, "last": first + count - 1, "payload": payload}
    more = {"signature": b"", "key": b"", "stream_seq": first, "received_ns": NOON}
    return pa.Table.from_pylist([row | more], schema=ARRIVAL_SCHEMA)


def stored(tables: Tables, *parts: tuple[bytes, int, int]) -> LakeFile:
    """A sorted file of batches: (journal, first, count)."""
    came = pa.concat_tables([arrivals(*part) for part in parts])
    table = sorting.partitioned(came, "test")[WHERE]
    return tables.write_sorted(table, WHERE, sorting.times_of(table))


def rows(tables: Tables, file: LakeFile) -> list[tuple[bytes, int]]:
    table = tables.read(file)
    return list(zip(table["journal"].to_pylist(), table["seq"].to_pylist(), strict=True))


def test_files_that_follow_each_other_are_copied_in_full_row_groups(tables: Tables, few_rows: int) -> None:
    parts = [(ONE, 1, 30), (ONE, 31, 70), (ONE, 101, 25)]
    files = [stored(tables, part) for part in parts]
    made = merged(tables, files, WHERE)
    assert rows(tables, made) == [(ONE, seq) for seq in range(1, 126)]
    assert (made.rows, made.first_ns, made.last_ns) == (125, files[0].first_ns, max(f.last_ns for f in files))
    opened = tables.opened(made)
    groups = [opened.metadata.row_group(n).num_rows for n in range(opened.num_row_groups)]
    assert groups == [few_rows, few_rows, 25]
    before = pa.concat_tables([tables.read(file) for file in files])
    assert tables.read(made).equals(before), "every column of every row as it was"


@pytest.mark.usefixtures("few_rows")
def test_two_journals_of_one_day_each_stay_in_order(tables: Tables) -> None:
    files = [stored(tables, (ONE, 1, 20), (OTHER, 1, 20)), stored(tables, (ONE, 21, 20), (OTHER, 21, 20))]
    found = rows(tables, merged(tables, files, WHERE))
    for journal in (ONE, OTHER):
        assert [seq for held, seq in found if held == journal] == list(range(1, 41))


def test_files_that_overlap_are_sorted(tables: Tables) -> None:
    files = [stored(tables, (ONE, 1, 10), (ONE, 21, 10)), stored(tables, (ONE, 11, 10))]
    assert rows(tables, merged(tables, files, WHERE)) == [(ONE, seq) for seq in range(1, 31)]


def test_sorting_a_few_batches_at_a_time_gives_the_same_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    came = pa.concat_tables(
        [arrivals(ONE, 41, 20), arrivals(OTHER, 1, 20), arrivals(ONE, 1, 20), arrivals(ONE, 21, 20)]
    )
    whole = sorting.partitioned(came, "test")
    monkeypatch.setattr(sorting, "_AT_ONCE_BYTES", 1)
    parts = sorting.partitioned(came, "test")
    assert parts.keys() == whole.keys()
    assert all(parts[where].equals(whole[where]) for where in whole)


def peak(work: Callable[[], object]) -> int:
    """Return the most Arrow memory that was in use at once."""
    usual = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(counted)
    try:
        work()
        most: int = counted.max_memory()
        return most
    finally:
        pa.set_memory_pool(usual)


def test_merging_more_takes_no_more_memory(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "ROW_GROUP_ROWS", 2_000)
    files = [stored(tables, (ONE, 1 + n * 2_000, 2_000)) for n in range(24)]
    few = peak(lambda: merged(tables, files[:3], WHERE))
    many = peak(lambda: merged(tables, files, WHERE))
    at_once = peak(lambda: streaming._sorted_in_memory(tables, files, sorted_schema("meter")))
    assert many < few + sum(file.size for file in files) * 2, "what is stored is collected, nothing else"
    assert many < at_once / 2


def test_the_next_fetch_is_as_many_messages_as_fit() -> None:
    def of(size: int) -> Any:
        return [SimpleNamespace(data=bytes(size))] * 4

    limits = LIMITS
    assert consumer._room(of(100)) == limits.ingest_fetch
    assert consumer._room(of(512 << 10)) == limits.ingest_fetch_bytes // (512 << 10)
    assert consumer._room(of(limits.ingest_fetch_bytes + 1)) == 1
