"""Several sorted files made one, a row group at a time: the memory that takes does not grow with the files. Blocking.

Files of one partition follow each other: what a journal sent later has higher sequences. So they are copied one after
the other, and every journal's rows stay in order. Files that do not follow are sorted in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stagebox.columns.parquet import writer
from stagebox_mixer.lake.state import LakeFile
from stagebox_mixer.lake.tables import ROW_GROUP_ROWS, Partition, Tables, concat, sorted_schema


def merged(tables: Tables, files: Sequence[LakeFile], partition: Partition) -> LakeFile:
    """Store the rows of ``files`` (by time) in one file; it does not count before a manifest names it.

    Raises:
        StorageError: the storage refused.
        VerificationError: one of the files was altered.
    """
    times = min(file.first_ns for file in files), max(file.last_ns for file in files)
    schema = sorted_schema(partition.kind)
    if not _follow(tables, files, schema):
        return tables.write_sorted(_sorted_in_memory(tables, files, schema), partition, times)
    path = partition.new_path()
    sink = pa.BufferOutputStream()
    rows = 0
    with writer(sink, schema, tables.file_key(path)) as out:
        for table in _row_groups(tables, files, schema):
            rows += table.num_rows
            out.write_table(table, row_group_size=ROW_GROUP_ROWS)
    return tables.store(path, partition, sink.getvalue(), rows, times)


def _follow(tables: Tables, files: Sequence[LakeFile], schema: Any) -> bool:
    """Whether every journal's rows of each file come after those of the files before it."""
    by, last = _order(schema), dict[bytes, int]()
    for file in files:
        keys = tables.opened(file).read(columns=["journal", by])
        found = keys.group_by("journal").aggregate([(by, "min"), (by, "max")])
        columns = (found[name].to_pylist() for name in ("journal", f"{by}_min", f"{by}_max"))
        for journal, least, most in zip(*columns, strict=True):
            if least <= last.get(journal, -1):
                return False
            last[journal] = most
    return True


def _row_groups(tables: Tables, files: Sequence[LakeFile], schema: Any) -> Iterator[Any]:
    """Yield the files' rows in order, as many at a time as make a row group."""
    held: list[Any] = []
    for file in files:
        opened = tables.opened(file)
        for number in range(opened.num_row_groups):
            held.append(concat([opened.read_row_group(number)], schema))
            if sum(table.num_rows for table in held) >= ROW_GROUP_ROWS:
                joined = pa.concat_tables(held).combine_chunks()
                yield joined.slice(0, ROW_GROUP_ROWS)
                held = [joined.slice(ROW_GROUP_ROWS)]
    left = pa.concat_tables(held).combine_chunks()
    if left.num_rows:
        yield left


def _sorted_in_memory(tables: Tables, files: Sequence[LakeFile], schema: Any) -> Any:
    table = concat([tables.read(file) for file in files], schema)
    return table.take(pc.sort_indices(table.select(["journal", _order(schema)]), _ascending(schema)))


def _order(schema: Any) -> str:
    return "seq" if "seq" in schema.names else "first"


def _ascending(schema: Any) -> list[tuple[str, str]]:
    return [("journal", "ascending"), (_order(schema), "ascending")]
