"""The lake's records as plain files: Parquet, JSON lines or CSV. Blocking; the output appears when it is complete."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa

from stagebox.errors import InputError, StorageError
from stagebox.files import fsync_dir


class ExportFormat(StrEnum):
    """What an answer is written as."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    CSV = "csv"
    ARROW = "arrow"


def export(answer: Any, out: Path, fmt: str, progress: Callable[[int], None] | None = None) -> int:
    """Write an answer (a ``RecordBatchReader``) to the new file ``out``; return how many rows it has.

    ``progress`` gets the rows done.

    Raises:
        InputError: an unknown format, or ``out`` exists.
        StorageError: it cannot be written.
    """
    try:
        kind = ExportFormat(fmt)
    except ValueError:
        raise InputError(f"{fmt!r} is no export format", remedy="use parquet, jsonl, csv or arrow") from None
    if out.exists():
        raise InputError(f"{out} exists and is not overwritten", remedy="choose another name")
    temporary = out.with_name(out.name + ".part")
    rows = 0
    try:
        with _writer(kind, temporary, answer.schema) as write:
            for batch in answer:
                write(batch)
                rows += batch.num_rows
                if progress is not None:
                    progress(rows)
        temporary.replace(out)
        fsync_dir(out.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {out}: {error.strerror or error}", remedy="check its directory and free space"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return rows


class _writer:  # noqa: N801 - reads as the function it stands for
    """Writes batches in one of the formats."""

    def __init__(self, kind: ExportFormat, path: Path, schema: Any) -> None:
        self._kind, self._path, self._schema = kind, path, schema

    def __enter__(self) -> Callable[[Any], None]:
        import pyarrow.parquet as pq
        from pyarrow import csv, ipc

        self._stream = self._path.open("xb")
        if self._kind is ExportFormat.PARQUET:
            self._writer = pq.ParquetWriter(self._stream, self._schema, compression="zstd")
            return self._writer.write_batch  # type: ignore[no-any-return]
        if self._kind is ExportFormat.ARROW:
            self._writer = ipc.new_stream(self._stream, self._schema)
            return self._writer.write_batch  # type: ignore[no-any-return]
        if self._kind is ExportFormat.CSV:
            flat = pa.schema([(field.name, _flat_type(field.type)) for field in self._schema])
            self._writer = csv.CSVWriter(self._stream, flat)
            return lambda batch: self._writer.write_batch(_flat(batch, flat))
        self._writer = None
        return self._lines

    def __exit__(self, *exc: object) -> None:
        if self._writer is not None:
            self._writer.close()
        self._stream.close()

    def _lines(self, batch: Any) -> None:
        for row in batch.to_pylist():
            self._stream.write(json.dumps(row, default=as_text).encode() + b"\n")


def _flat_type(kind: Any) -> Any:
    return (
        pa.string()
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)
        else kind
    )


def _flat(batch: Any, schema: Any) -> Any:
    """Return a batch that CSV can hold: lists as JSON text, bytes as hexadecimal."""
    columns = [
        column
        if field.type == column.type
        else pa.array([None if v is None else _text(v) for v in column.to_pylist()], pa.string())
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else json.dumps(value, default=as_text)


def as_text(value: Any) -> str:
    """Return a value that JSON does not know as text; bytes in hexadecimal."""
    return value.hex() if isinstance(value, bytes) else str(value)
