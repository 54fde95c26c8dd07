"""From batches as they came to tables by date, rack and kind. Pure but for the Arrow memory it takes.

A batch's own bytes are not kept where its records give them back; its digest, signature and key always are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stagebox.columns.table import kind_tables
from stagebox.records.walbatch import JOURNAL_BYTES, WalBatch, payload_digest
from stagebox_mixer.lake.state import BATCHES
from stagebox_mixer.lake.tables import BATCH_SCHEMA, Partition, concat, sorted_schema

_DAY_NS: Final = 86_400 * 10**9
_AT_ONCE_BYTES: Final = 8 << 20


def date_of(time_ns: int) -> str:
    """Return the UTC date of a time, YYYY-MM-DD."""
    return str(np.datetime64(time_ns // _DAY_NS, "D"))


def partitioned(arrivals: Any, cluster: str) -> dict[Partition, Any]:
    """Return the sorted tables of a table of arrivals; each table has the columns of its kind."""
    parts: dict[Partition, list[Any]] = {}
    for rows in _in_order(arrivals):
        rack, journal = rows[0]["rack"], rows[0]["journal"]
        batches = [WalBatch.decode(row["payload"]) for row in rows]
        tables = kind_tables([batch.first for batch in batches], [batch.records for batch in batches])
        tables[BATCHES] = _evidence(rows, batches)
        for kind, table in tables.items():
            times = _times(kind, table, batches)
            if kind != BATCHES:
                table = _with_journal(table, journal)
            for date, part in _by_date(table, times):
                parts.setdefault(Partition(cluster, date, rack, kind), []).append(part)
    return {partition: concat(tables, sorted_schema(partition.kind)) for partition, tables in parts.items()}


def _in_order(arrivals: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield the batches by rack, journal and sequence, some of one journal at a time: records are large as objects."""
    names = ("rack", "journal", "first")
    keys = list(zip(*(arrivals[name].to_pylist() for name in names), strict=True))
    sizes = pc.binary_length(arrivals["payload"]).to_pylist()
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for _, mine in itertools.groupby(order, key=lambda index: keys[index][:2]):
        held: list[int] = []
        size = 0
        for index in mine:
            held.append(index)
            size += sizes[index]
            if size >= _AT_ONCE_BYTES:
                yield arrivals.take(held).to_pylist()
                held, size = [], 0
        if held:
            yield arrivals.take(held).to_pylist()


def times_of(table: Any) -> tuple[int, int]:
    """Return the first and last time in a table, ns since the Unix epoch."""
    column = "time_ns" if "time_ns" in table.column_names else "received_ns"
    found = pc.min_max(table[column]).as_py()
    return int(found["min"] or 0), int(found["max"] or 0)


def _evidence(rows: Sequence[dict[str, Any]], batches: Sequence[WalBatch]) -> Any:
    kept = [
        None if batch.encode() == row["payload"] else row["payload"]
        for row, batch in zip(rows, batches, strict=True)
    ]
    columns: dict[str, list[Any]] = {
        "journal": [row["journal"] for row in rows],
        "first": [row["first"] for row in rows],
        "last": [row["last"] for row in rows],
        "previous": [batch.previous for batch in batches],
        "digest": [payload_digest(row["payload"]) for row in rows],
        "payload": kept,
        "signature": [row["signature"] for row in rows],
        "key": [row["key"] for row in rows],
        "stream_seq": [row["stream_seq"] for row in rows],
        "received_ns": [row["received_ns"] for row in rows],
    }
    return pa.Table.from_pydict(columns, schema=BATCH_SCHEMA)


def _times(kind: str, table: Any, batches: Sequence[WalBatch]) -> Any:
    if kind == BATCHES:  # beside the first of the records it proves
        return np.array([batch.records[0].time_ns for batch in batches], np.int64)
    return table["time_ns"].to_numpy()


def _with_journal(table: Any, journal: bytes) -> Any:
    column = pa.array([journal] * table.num_rows, pa.binary(JOURNAL_BYTES))
    return table.add_column(0, "journal", column)


def _by_date(table: Any, times: Any) -> list[tuple[str, Any]]:
    days = times // _DAY_NS
    found = np.unique(days)
    if len(found) == 1:
        return [(date_of(int(found[0]) * _DAY_NS), table)]
    return [(date_of(int(day) * _DAY_NS), table.filter(pa.array(days == day))) for day in found]
