"""Tables of records: a few columns every record has, and one struct of typed columns for each kind.

``data`` holds a record's own bytes where the typed columns do not give them back to the byte, and is null elsewhere;
records of kinds this software does not know are kept so. So :func:`records_of` always returns what went in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from stagebox.columns.documents import DocumentColumns
from stagebox.columns.kind import KindColumns
from stagebox.columns.meter import MeterColumns
from stagebox.columns.module import ModuleColumns
from stagebox.columns.signed import ACK, CHECKPOINT, SEAL, TOMBSTONE
from stagebox.errors import DecodeError
from stagebox.records.walbatch import WalRecord

VERSION: Final = 2
"""Version of the columns; 1 kept every record as bytes alone.

It goes up when ``data`` may be null where a reader of before needs it: a kind that is added keeps its bytes.
"""

KINDS: Final[Mapping[str, KindColumns]] = {
    "meter": MeterColumns(),
    "event": DocumentColumns("event_seq", ("name", "event"), ("detail", "detail")),
    "alert": DocumentColumns("alert_seq", ("name", "event"), ("detail", "detail")),
    "status": DocumentColumns("status_seq", ("state", "state"), ("body", "body")),
    "module": ModuleColumns(),
    "ack": ACK,
    "checkpoint": CHECKPOINT,
    "seal": SEAL,
    "tombstone": TOMBSTONE,
}

COMMON: Final = pa.schema(
    [
        ("seq", pa.uint64()),
        ("batch", pa.uint64()),
        ("kind", pa.string()),
        ("time_ns", pa.int64()),
        ("subject", pa.string()),
        ("data", pa.binary()),
    ]
)
SCHEMA: Final = pa.schema([*COMMON, *((name, columns.type) for name, columns in KINDS.items())])
"""Every column of a table of mixed kinds."""


def kind_schema(kind: str) -> Any:
    """Return the columns of a table of one kind: its struct's fields stand beside the common ones."""
    typed = KINDS.get(kind)
    return pa.schema([*COMMON, *(typed.type if typed is not None else ())])


def mixed_table(first: Sequence[int], batches: Sequence[Sequence[WalRecord]]) -> Any:
    """Return the table of whole batches, rows in sequence order; ``first`` holds each batch's first sequence.

    It has the common columns and those of the kinds that occur.
    """
    records = [record for batch in batches for record in batch]
    seq = [
        number
        for start, batch in zip(first, batches, strict=True)
        for number in range(start, start + len(batch))
    ]
    batch_of = [start for start, batch in zip(first, batches, strict=True) for _ in batch]
    rows_of = _rows_by_kind(records)
    data: list[bytes | None] = [record.data for record in records]
    present = [name for name in KINDS if name in rows_of]
    typed = [_scattered(name, rows_of[name], records, data) for name in present]
    schema = pa.schema([*COMMON, *(SCHEMA.field(name) for name in present)])
    return pa.Table.from_arrays([*_common(seq, batch_of, records, data), *typed], schema=schema)


def kind_tables(first: Sequence[int], batches: Sequence[Sequence[WalRecord]]) -> dict[str, Any]:
    """Return one table a kind of the same records, in sequence order."""
    tables: dict[str, Any] = {}
    records = [record for batch in batches for record in batch]
    seq = [
        number
        for start, batch in zip(first, batches, strict=True)
        for number in range(start, start + len(batch))
    ]
    batch_of = [start for start, batch in zip(first, batches, strict=True) for _ in batch]
    for kind, rows in _rows_by_kind(records).items():
        mine = [records[row] for row in rows]
        data: list[bytes | None] = [record.data for record in mine]
        columns = _common([seq[row] for row in rows], [batch_of[row] for row in rows], mine, data)
        if kind in KINDS:
            packed = KINDS[kind].pack([record.data for record in mine])
            kept = [None if exact else record.data for exact, record in zip(packed.exact, mine, strict=True)]
            columns[-1] = pa.array(kept, pa.binary())
            columns.extend(packed.column.flatten())
        tables[kind] = pa.Table.from_arrays(columns, schema=kind_schema(kind))
    return tables


def records_of(table: Any) -> list[bytes]:
    """Return each row's record, to the byte, of a table of mixed kinds.

    Raises:
        DecodeError: a row has neither its bytes nor columns that give them.
    """
    table = table.combine_chunks()
    data: list[bytes | None] = table["data"].to_pylist()
    kinds = table["kind"].to_pylist()
    wanted: dict[str, list[int]] = {}
    for row, held in enumerate(data):
        if held is None:
            wanted.setdefault(kinds[row], []).append(row)
    for kind, rows in wanted.items():
        _fill(data, kind, _column(table, kind), rows)
    return [held for held in data if held is not None]


def records_of_kind(table: Any, kind: str) -> list[bytes]:
    """Return each row's record, to the byte, of a table of one kind.

    Raises:
        DecodeError: a row has neither its bytes nor columns that give them.
    """
    table = table.combine_chunks()
    data: list[bytes | None] = table["data"].to_pylist()
    rows = [row for row, held in enumerate(data) if held is None]
    if rows:
        typed = KINDS.get(kind)
        fields = [] if typed is None else [_chunk(table[field.name]) for field in typed.type]
        column = pa.StructArray.from_arrays(fields, fields=list(typed.type)) if typed is not None else None
        _fill(data, kind, column, rows)
    return [held for held in data if held is not None]


def _fill(data: list[bytes | None], kind: str, column: Any, rows: Sequence[int]) -> None:
    typed = KINDS.get(kind)
    if typed is None or column is None:
        raise DecodeError(f"a record of kind {kind!r} has no bytes and no columns")
    for row, record in zip(rows, typed.unpack(column, rows), strict=True):
        data[row] = record


def _column(table: Any, name: str) -> Any:
    return _chunk(table[name]) if name in table.column_names else None


def _chunk(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _rows_by_kind(records: Sequence[WalRecord]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, record in enumerate(records):
        rows.setdefault(record.kind, []).append(row)
    return rows


def _common(
    seq: Sequence[int], batch: Sequence[int], records: Sequence[WalRecord], data: Sequence[bytes | None]
) -> list[Any]:
    return [
        pa.array(seq, pa.uint64()),
        pa.array(batch, pa.uint64()),
        pa.array([record.kind for record in records], pa.string()),
        pa.array([record.time_ns for record in records], pa.int64()),
        pa.array([record.subject for record in records], pa.string()),
        pa.array(data, pa.binary()),
    ]


def _scattered(name: str, rows: Sequence[int], records: Sequence[WalRecord], data: list[bytes | None]) -> Any:
    """Return the struct column of kind ``name`` over all rows; forget the bytes of what it gives back."""
    packed = KINDS[name].pack([records[row].data for row in rows])
    for row, exact in zip(rows, packed.exact, strict=True):
        if exact:
            data[row] = None
    where = np.full(len(records), -1, np.int64)
    where[np.asarray(rows)] = np.arange(len(rows))
    return packed.column.take(pa.array(where, mask=where < 0))
