"""Reading a lake, beside its mixer or without one: files, datasets and tables. Blocking; changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from stagebox.columns.table import KINDS
from stagebox.errors import StageboxError, StorageError
from stagebox_mixer.lake.manifest import Manifests
from stagebox_mixer.lake.sorting import partitioned
from stagebox_mixer.lake.state import ARRIVALS, BATCHES, LakeFile, State
from stagebox_mixer.lake.storage import Storage
from stagebox_mixer.lake.tables import ARRIVAL_SCHEMA, Partition, Tables, concat, sorted_schema

PLACE: Final = (("cluster", pa.string()), ("date", pa.string()), ("rack", pa.string()))
"""The columns that say where a row lies; they are in the paths, not in the files."""


@dataclass(frozen=True)
class Span:
    """What of a lake is asked for: one rack or all, and dates (UTC, both in) or all."""

    rack: str = ""
    first: str = ""
    last: str = ""

    def holds(self, rack: str, date: str) -> bool:
        """Whether a partition is asked for."""
        return (
            self.rack in ("", rack)
            and (not self.first or self.first <= date)
            and (not self.last or date <= self.last)
        )


@dataclass(frozen=True)
class PartitionInfo:
    """One line of ``ls``. ``waiting`` counts rows that arrived and are not sorted into files yet."""

    date: str
    rack: str
    kind: str
    rows: int
    files: int
    bytes: int
    waiting: int
    held: bool


def open_reader(storage: Storage, key: bytes, *, cluster: str) -> LakeReader:
    """Open a lake as it is now.

    Raises:
        StorageError: there is no lake.
        VerificationError: another storage key, or a damaged manifest.
    """
    state = Manifests(storage, key).load()
    if not state.number:
        raise StorageError(
            f"there is no lake in {storage}", remedy="name the mixer's --data-dir, or its [mixer] lake"
        )
    return LakeReader(Tables(storage, key), state, cluster=cluster)


class LakeReader:
    """A lake at one moment: what is committed later does not show."""

    def __init__(self, tables: Tables, state: State, *, cluster: str) -> None:
        self.tables = tables
        self.state = state
        self.cluster = cluster

    def arrivals(
        self,
        span: Span = Span(),
        on_damage: Callable[[StageboxError], None] | None = None,
        on_read: Callable[[LakeFile], None] | None = None,
    ) -> dict[Partition, Any]:
        """Return what is not sorted yet, as tables by partition.

        ``on_damage`` hears of files that are left out, ``on_read`` of the others.

        Raises:
            StorageError, VerificationError: a file cannot be read, and there is no ``on_damage``.
        """
        tables = []
        for file in self.state.of_kind(ARRIVALS):
            try:
                tables.append(self.tables.read(file))
            except StageboxError as error:
                if on_damage is None:
                    raise
                on_damage(error)
                continue
            if on_read is not None:
                on_read(file)
        if not tables:
            return {}
        found = partitioned(concat(tables, ARRIVAL_SCHEMA), self.cluster)
        return {where: table for where, table in found.items() if span.holds(where.rack, where.date)}

    def files(self, kind: str, span: Span = Span()) -> list[LakeFile]:
        """Return the sorted files of one kind."""
        return [file for file in self.state.of_kind(kind) if span.holds(file.rack, file.date)]

    def listing(self, span: Span = Span()) -> list[PartitionInfo]:
        """Return every partition, records only."""
        lines: Counter[tuple[str, str, str, str]] = Counter()
        places: set[tuple[str, str, str]] = set()
        for file in self.state.files.values():
            if file.kind not in (ARRIVALS, BATCHES) and span.holds(file.rack, file.date):
                place = (file.date, file.rack, file.kind)
                places.add(place)
                lines.update(
                    {(*place, "rows"): file.rows, (*place, "files"): 1, (*place, "bytes"): file.size}
                )
        for where, table in self.arrivals(span).items():
            if where.kind != BATCHES:
                place = (where.date, where.rack, where.kind)
                places.add(place)
                lines.update({(*place, "rows"): table.num_rows, (*place, "waiting"): table.num_rows})
        return [
            PartitionInfo(
                date,
                rack,
                kind,
                rows=lines[date, rack, kind, "rows"],
                files=lines[date, rack, kind, "files"],
                bytes=lines[date, rack, kind, "bytes"],
                waiting=lines[date, rack, kind, "waiting"],
                held=any(hold.covers(rack, date) for hold in self.state.holds),
            )
            for date, rack, kind in sorted(places)
        ]

    def tables_of(self, kind: str, span: Span) -> Iterator[tuple[Partition, Any]]:
        """Yield (partition, table) of one kind, date by date, what is not sorted yet last."""
        for file in sorted(self.files(kind, span), key=lambda file: (file.date, file.rack, file.first_ns)):
            yield Partition(self.cluster, file.date, file.rack, kind), self.tables.read(file)
        for where, table in self.arrivals(span).items():
            if where.kind == kind:
                yield where, table

    def datasets(self, span: Span = Span()) -> dict[str, Any]:
        """Return one ``pyarrow.dataset.Dataset`` a kind, with the columns of :data:`PLACE` beside the file's own.

        The kinds this software knows are always among them: who asks for the alerts of a good day gets none.
        """
        waiting = self.arrivals(span)
        kinds = {*KINDS, *self.state.kinds(), *(where.kind for where in waiting)} - {BATCHES}
        return {kind: self._dataset(kind, span, waiting) for kind in sorted(kinds)}

    def dataset(self, kind: str, span: Span) -> Any:
        """Return the dataset of one kind; an empty one if there is none of it.

        Raises:
            StorageError, VerificationError: a file that just arrived cannot be read.
        """
        return self._dataset(kind, span, self.arrivals(span))

    def _dataset(self, kind: str, span: Span, waiting: dict[Partition, Any]) -> Any:
        from pyarrow import dataset

        schema = pa.schema([*PLACE, *sorted_schema(kind)])
        mine = [placed(table, where, schema) for where, table in waiting.items() if where.kind == kind]
        parts = [self._files(self.files(kind, span), schema)]
        if mine:
            parts.append(dataset.dataset(pa.concat_tables(mine)))
        return parts[0] if len(parts) == 1 else dataset.UnionDataset(schema, parts)

    def _files(self, files: Iterable[LakeFile], schema: Any) -> Any:
        from pyarrow import dataset
        from pyarrow.parquet import encryption

        filesystem, base = self.tables.storage.arrow()
        fragments = []
        for file in files:
            keys = encryption.create_decryption_properties(self.tables.file_key(file.path))
            options = dataset.ParquetFragmentScanOptions(decryption_properties=keys)
            here = {"cluster": self.cluster, "date": file.date, "rack": file.rack}
            place = None
            for name, value in here.items():
                condition = dataset.field(name) == value
                place = condition if place is None else place & condition
            fragments.append(
                dataset.ParquetFileFormat(default_fragment_scan_options=options).make_fragment(
                    base + file.path, filesystem=filesystem, partition_expression=place
                )
            )
        return dataset.FileSystemDataset(fragments, schema, dataset.ParquetFileFormat(), filesystem)


def placed(table: Any, where: Partition, schema: Any) -> Any:
    """Return a table with the columns that say where its rows lie."""
    for index, (name, kind) in enumerate(PLACE):
        column = pa.array([getattr(where, name)] * table.num_rows, kind)
        table = table.add_column(index, name, column)
    return table.cast(schema)
