"""Sealed segments: exact batches come back, ordinary tools read them, nothing altered passes."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from stagebox.columns.parquet import open_parquet
from stagebox.columns.table import COMMON
from stagebox.errors import StageboxError, VerificationError
from stagebox.records.walbatch import WalRecord
from stagebox_rack.limits import LIMITS
from stagebox_rack.wal import segment
from stagebox_rack.wal.keyring import load_keyring
from stagebox_rack.wal.layout import Layout
from stagebox_rack.wal.segment import (
    SegmentFiles,
    load_seal,
    read_segment,
    segment_key,
)
from support import wal_reader
from support.journal import BOOT, RACK, Bench, read_all, record
from support.module_records import module_record


async def sealed(directory: Path, groups: int = 5) -> tuple[Bench, Path]:
    bench = Bench(directory)
    journal, _ = bench.writer(limits=LIMITS)
    for number in range(groups):
        journal.commit([record(number * 3 + index) for index in range(3)])
    journal.close()
    async with await bench.open() as wal:
        await wal.seal_now()
    (stem,) = Layout(directory).segment_stems()
    return bench, stem


async def test_every_batch_is_rebuilt_to_the_byte_and_the_seal_names_it(tmp_path: Path) -> None:
    bench, stem = await sealed(tmp_path / "wal")
    seal = load_seal(stem, bench.public)
    assert (seal.rack, seal.first, seal.last, seal.count, seal.batches) == (RACK, 1, 15, 15, 5)
    assert (seal.previous, seal.boots, seal.torn_bytes) == (bytes(32), (BOOT,), 0)
    ring = load_keyring(bench.directory / "kek.key")
    batches = read_segment(stem, ring, bench.public)
    assert [r for b in batches for r in b.decode().records] == [record(n) for n in range(15)]
    assert batches[-1].digest == seal.head
    async with await bench.open() as wal:
        assert [b.payload for b in await read_all(wal)] == [b.payload for b in batches]


async def test_pyarrow_reads_a_segment_with_its_key_and_not_with_another(tmp_path: Path) -> None:
    bench, stem = await sealed(tmp_path / "wal")
    ring = load_keyring(bench.directory / "kek.key")
    dek = segment_key(stem, load_seal(stem, bench.public), ring)
    parquet = SegmentFiles.of(stem).parquet
    table = open_parquet(parquet, dek).read()
    assert table.column_names == [*COMMON.names, "meter"]
    assert table["seq"].to_pylist() == list(range(1, 16))
    assert table["data"].to_pylist() == [record(n).data for n in range(15)]
    metadata = open_parquet(parquet, dek).schema_arrow.metadata
    assert metadata[b"stagebox.rack"] == RACK.encode()
    assert metadata[b"stagebox.previous"] == b"00" * 32
    with pytest.raises(OSError, match="decrypt"):
        open_parquet(parquet, bytes(32))
    with pytest.raises(Exception, match=r"encrypted|decrypt|magic"):
        pq.read_table(parquet)


async def test_duckdb_reads_a_segment_with_its_key(tmp_path: Path) -> None:
    bench, stem = await sealed(tmp_path / "wal", groups=400)
    dek = segment_key(stem, load_seal(stem, bench.public), load_keyring(bench.directory / "kek.key"))
    database = duckdb.connect()
    database.execute(f"PRAGMA add_parquet_key('k', '{base64.b64encode(dek).decode()}')")
    query = (
        "SELECT count(*), sum(seq), count(DISTINCT batch), min(kind), max(time_ns), min(octet_length(data)) "
        f"FROM read_parquet('{SegmentFiles.of(stem).parquet}', encryption_config={{footer_key: 'k'}})"
    )
    newest = record(1199).time_ns
    assert database.execute(query).fetchone() == (1200, 1200 * 1201 // 2, 400, "meter", newest, 32)


async def test_plaintext_shows_nowhere_in_the_journal(tmp_path: Path) -> None:
    bench, _ = await sealed(tmp_path / "wal")
    journal, _ = bench.writer()
    journal.commit([record(7)])
    for path in bench.directory.rglob("*"):
        if path.is_file():
            assert b"rack.stage-left.meter" not in path.read_bytes(), path
            assert path.stat().st_mode & 0o077 == 0, path


async def test_every_flipped_bit_and_every_truncation_of_a_segments_files_is_refused(tmp_path: Path) -> None:
    bench, stem = await sealed(tmp_path / "wal", groups=2)
    ring = load_keyring(bench.directory / "kek.key")

    def refused() -> None:
        with pytest.raises(StageboxError):
            read_segment(stem, ring, bench.public)

    for path in SegmentFiles.of(stem):
        whole = path.read_bytes()
        with path.open("r+b", buffering=0) as file:
            for position, byte in enumerate(whole):
                for bit in range(8):
                    os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), position)
                    refused()
                os.pwrite(file.fileno(), bytes([byte]), position)
            for size in reversed(range(len(whole))):
                file.truncate(size)
                refused()
        path.write_bytes(whole)
    assert len(read_segment(stem, ring, bench.public)) == 2


async def test_a_segment_of_newer_software_is_not_read_as_if_it_were_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(segment, "VERSION", segment.VERSION + 1)
        bench, stem = await sealed(tmp_path / "wal")
    with pytest.raises(VerificationError, match="its columns have version '3', this software reads up to 2"):
        read_segment(stem, load_keyring(bench.directory / "kek.key"), bench.public)


async def test_a_segment_under_another_kek_is_a_clear_error(tmp_path: Path) -> None:
    bench, stem = await sealed(tmp_path / "wal")
    other, _ = await sealed(tmp_path / "other")
    with pytest.raises(VerificationError, match="does not open with this journal key"):
        read_segment(stem, load_keyring(other.directory / "kek.key"), bench.public)
    with pytest.raises(VerificationError, match="signature"):
        read_segment(stem, load_keyring(bench.directory / "kek.key"), bytes(range(1, 33)))


async def test_module_records_lie_in_columns_and_a_reader_that_does_not_know_them_rebuilds_every_batch(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "wal")
    journal, _ = bench.writer(limits=LIMITS)
    said = [module_record(number, BOOT, time_ns=number).encode() for number in (1, 2)]
    journal.commit(
        [record(0), *(WalRecord("module", 5, f"rack.{RACK}.module.spl.leq", data) for data in said)]
    )
    journal.close()
    async with await bench.open() as wal:
        await wal.seal_now()
    (stem,) = Layout(bench.directory).segment_stems()
    files, ring = SegmentFiles.of(stem), load_keyring(bench.directory / "kek.key")
    table = open_parquet(files.parquet, segment_key(stem, load_seal(stem, bench.public), ring)).read()
    assert [row and (row["module"], row["detail"]) for row in table["module"].to_pylist()] == [
        None, ("spl", '{"laeq":-21.5,"seconds":1}'), ("spl", '{"laeq":-22.5,"seconds":1}'),
    ]  # fmt: skip
    assert table.schema.metadata[b"stagebox.version"] == b"2"
    (batch,) = read_segment(stem, ring, bench.public)
    assert [found.data for found in batch.decode().records][1:] == said
    # wal_reader was written before there were module records.
    parquet, key_file, seal = (path.read_bytes() for path in (files.parquet, files.key, files.seal))
    assert wal_reader.read_segment(parquet, key_file, seal, ring._kek, bench.public) == [batch.payload]
