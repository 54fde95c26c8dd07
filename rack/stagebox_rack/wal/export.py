"""``stagebox rack wal export``: the journal's verified records as plain Parquet, JSON lines or CSV.

Rules: only records that verify are written; the output appears under its name only when complete. ``data`` is
the record exactly as journalled: bytes in Parquet, base64 text in JSON lines and CSV.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from stagebox import files
from stagebox.errors import InputError, StorageError
from stagebox_rack.limits import LIMITS
from stagebox_rack.wal.inspect import Progress, list_files
from stagebox_rack.wal.reader import JournalReader

_NAMES = ("seq", "kind", "time_ns", "subject", "data")
_Row = tuple[int, str, int, str, bytes]


class ExportFormat(StrEnum):
    """What ``export`` writes."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    CSV = "csv"


@dataclass
class ExportReport:
    """How much was written, and what was left out because it does not verify."""

    records: int
    first: int
    last: int
    problems: list[str]


def export(
    directory: Path,
    out: Path,
    fmt: ExportFormat | str,
    rack_public: bytes,
    *,
    earlier: Collection[bytes] = (),
    progress: Progress | None = None,
) -> ExportReport:
    """Write every record of the journal in ``directory`` that verifies to ``out``.

    Raises:
        InputError: an unknown format, or ``out`` exists.
        StorageError, KeyFileError: the journal cannot be read or ``out`` not be written.
    """
    try:
        kind = ExportFormat(fmt)
    except ValueError:
        raise InputError(f"{fmt!r} is no export format", remedy="use parquet, jsonl or csv") from None
    if out.exists():
        raise InputError(f"{out} exists and is not overwritten", remedy="choose another name")
    reader = JournalReader(directory, rack_public, earlier)
    report = ExportReport(0, 0, 0, [])
    rows = _rows(reader, report, progress)
    temporary = out.with_name(out.name + ".part")
    try:
        if kind is ExportFormat.PARQUET:
            _write_parquet(temporary, rows)
        else:
            _write_text(temporary, rows, kind)
        temporary.replace(out)
        files.fsync_dir(out.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {out}: {error.strerror or error}", remedy="check its directory and free space"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return report


def _rows(reader: JournalReader, report: ExportReport, progress: Progress | None) -> Iterator[list[_Row]]:
    entries = list_files(reader.layout.root)
    total = sum(entry.size for entry in entries if entry.kind in ("segment", "hot"))
    done = 0
    rows: list[_Row] = []
    for content in reader.files():
        report.problems.extend(f"{content.name}: {problem}" for problem in content.problems)
        for batch in content.batches:
            for sequence, record in enumerate(batch.decode().records, batch.first):
                rows.append((sequence, record.kind, record.time_ns, record.subject, record.data))
            report.first = report.first or batch.first
            report.last = batch.last
            report.records += batch.last - batch.first + 1
            if len(rows) >= LIMITS.wal_export_rows:
                yield rows
                rows = []
        done += content.size
        if progress is not None:
            progress(min(done, total), total)
    if rows:
        yield rows


def _write_text(path: Path, rows: Iterator[list[_Row]], kind: ExportFormat) -> None:
    with path.open("x", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        if kind is ExportFormat.CSV:
            table.writerow(_NAMES)
        for chunk in rows:
            for row in chunk:
                shown: tuple[Any, ...] = (*row[:-1], base64.b64encode(row[-1]).decode("ascii"))
                if kind is ExportFormat.CSV:
                    table.writerow(shown)
                else:
                    stream.write(json.dumps(dict(zip(_NAMES, shown, strict=True))) + "\n")


def _write_parquet(path: Path, rows: Iterator[list[_Row]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = (pa.uint64(), pa.string(), pa.timestamp("ns", tz="UTC"), pa.string(), pa.binary())
    names = tuple("time" if name == "time_ns" else name for name in _NAMES)
    schema = pa.schema(list(zip(names, types, strict=True)))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for chunk in rows:
            columns = [list(column) for column in zip(*chunk, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
