"""``wal ls``, ``verify`` and ``export``: exactly what is proved, and beside a running rack."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stagebox.errors import InputError, StorageError
from stagebox_rack.wal.export import ExportFormat, export
from stagebox_rack.wal.inspect import JournalDamageError, list_files, verify
from stagebox_rack.wal.layout import Layout
from support.journal import SUBJECT, Bench, record


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    """Records 1-6 in a segment, 7-9 in a hot file that a killed process left."""
    made = Bench(tmp_path / "wal")
    for start, count in ((0, 6), (6, 3)):
        journal, _ = made.writer()
        for number in range(start, start + count):
            journal.commit([record(number)])
        journal._mark.sync()
        if start == 0:
            async with await made.open() as wal:
                await wal.seal_now()
    return made


async def test_verify_covers_everything_and_says_so(bench: Bench) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(bench.directory, bench.public, progress=lambda done, total: seen.append((done, total)))
    assert (report.first, report.last, report.records, report.segments, report.hot_files) == (1, 9, 9, 1, 1)
    assert (report.mark, report.problems) == (9, [])
    assert seen
    assert "records 1-9 (9 in 9 batches): 1 segments" in report.covered


async def test_verify_names_every_problem_and_still_looks_at_the_rest(bench: Bench) -> None:
    (parquet,) = Layout(bench.directory).segments.glob("*.parquet")
    data = bytearray(parquet.read_bytes())
    data[9] ^= 1
    parquet.write_bytes(data)
    (hot,) = Layout(bench.directory).hot_files()
    frames = bytearray(hot.read_bytes())
    frames[frames.rindex(b"SBF1") + 70] ^= 1
    hot.write_bytes(frames)
    with pytest.raises(JournalDamageError) as caught:
        verify(bench.directory, bench.public)
    problems = " | ".join(caught.value.report.problems)
    assert "was altered" in problems
    assert "records 9-9 were committed and are missing" in problems
    assert caught.value.report.records == 2
    assert caught.value.exit_code == 77


async def test_verify_notices_a_removed_segment_and_a_removed_mark(bench: Bench) -> None:
    async with await bench.open() as wal:
        await wal.append("meter", 1, SUBJECT, b"x")
    stems = Layout(bench.directory).segment_stems()
    for path in Layout(bench.directory).segments.glob(f"{stems[1].name}.*"):
        path.unlink()
    (bench.directory / "mark").unlink()
    with pytest.raises(JournalDamageError) as caught:
        verify(bench.directory, bench.public)
    assert [p.split(" are ")[0] for p in caught.value.report.problems[:1]] == ["records 7-9"]
    assert "high-water mark is missing" in caught.value.report.problems[-1]


async def test_verify_works_beside_a_running_rack_and_changes_nothing(bench: Bench) -> None:
    async with await bench.open() as wal:
        before = {p: p.stat().st_mtime_ns for p in bench.directory.rglob("*")}
        await wal.append("meter", 1, SUBJECT, b"live")
        report = verify(bench.directory, bench.public)
        assert report.last == 10
        assert set(before) <= set(bench.directory.rglob("*"))


async def test_a_wrong_identity_key_proves_nothing(bench: Bench) -> None:
    with pytest.raises(JournalDamageError, match="signature does not verify"):
        verify(bench.directory, bytes(32))


async def test_ls_lists_every_file_with_its_range(bench: Bench) -> None:
    entries = {entry.kind: entry for entry in list_files(bench.directory) if entry.kind != "spare"}
    assert (entries["segment"].first, entries["segment"].last) == (1, 6)
    assert entries["hot"].first == 7


async def test_a_directory_without_a_journal_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no journal"):
        verify(tmp_path, bytes(32))


@pytest.mark.parametrize("fmt", list(ExportFormat))
async def test_export_writes_every_record(bench: Bench, tmp_path: Path, fmt: ExportFormat) -> None:
    out = tmp_path / f"out.{fmt}"
    report = export(bench.directory, out, fmt, bench.public)
    assert (report.records, report.first, report.last, report.problems) == (9, 1, 9, [])
    if fmt is ExportFormat.PARQUET:
        read = pq.read_table(out)
        assert read["time"].cast("int64").to_pylist() == [record(n).time_ns for n in range(9)]
        table = read.drop_columns(["time"]).to_pydict()
        rows = list(zip(table["seq"], table["subject"], table["data"], strict=True))
    elif fmt is ExportFormat.JSONL:
        parsed = [json.loads(line) for line in out.read_text().splitlines()]
        rows = [(row["seq"], row["subject"], base64.b64decode(row["data"])) for row in parsed]
    else:
        lines = list(csv.DictReader(out.read_text().splitlines()))
        rows = [(int(row["seq"]), row["subject"], base64.b64decode(row["data"])) for row in lines]
    assert rows == [(n + 1, SUBJECT, record(n).data) for n in range(9)]
    with pytest.raises(InputError, match="not overwritten"):
        export(bench.directory, out, fmt, bench.public)


async def test_export_leaves_out_what_does_not_verify_and_names_it(bench: Bench, tmp_path: Path) -> None:
    (parquet,) = Layout(bench.directory).segments.glob("*.parquet")
    parquet.write_bytes(parquet.read_bytes()[:-1])
    report = export(bench.directory, tmp_path / "out.jsonl", "jsonl", bench.public)
    assert (report.records, report.first) == (3, 7)
    assert report.problems
    with pytest.raises(InputError, match="no export format"):
        export(bench.directory, tmp_path / "o", "xml", bench.public)
