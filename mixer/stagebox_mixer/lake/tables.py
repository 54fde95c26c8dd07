"""The lake's Parquet files: their names, keys and columns. Blocking.

Every file has its own key, derived from the lake's key and the file's name, which is never used twice; so a file put
under another name does not open. Arrivals hold batches as they were signed. Sorted files hold one kind of record of
one rack and date, with typed columns; ``_batches`` files hold what proves them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import uuid6
from blake3 import blake3

from stagebox.columns.parquet import open_parquet, read_parquet, to_parquet
from stagebox.columns.table import kind_schema
from stagebox.errors import StorageError, VerificationError
from stagebox.records.walbatch import JOURNAL_BYTES
from stagebox_mixer.lake.state import ARRIVALS, BATCHES, LakeFile
from stagebox_mixer.lake.storage import Storage

ROW_GROUP_ROWS: Final = 1 << 17
_PLAIN_KIND: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

ARRIVAL_SCHEMA: Final = pa.schema(
    [
        ("rack", pa.string()),
        ("journal", pa.binary(JOURNAL_BYTES)),
        ("first", pa.uint64()),
        ("last", pa.uint64()),
        ("payload", pa.binary()),
        ("signature", pa.binary()),
        ("key", pa.binary()),
        ("stream_seq", pa.uint64()),
        ("received_ns", pa.int64()),
    ]
)
BATCH_SCHEMA: Final = pa.schema(
    [
        ("journal", pa.binary(JOURNAL_BYTES)),
        ("first", pa.uint64()),
        ("last", pa.uint64()),
        ("previous", pa.binary(32)),
        ("digest", pa.binary(32)),
        ("payload", pa.binary()),
        ("signature", pa.binary()),
        ("key", pa.binary()),
        ("stream_seq", pa.uint64()),
        ("received_ns", pa.int64()),
    ]
)


def sorted_schema(kind: str) -> Any:
    """Return the columns of a sorted file of ``kind``."""
    if kind == BATCHES:
        return BATCH_SCHEMA
    return pa.schema([("journal", pa.binary(JOURNAL_BYTES)), *kind_schema(kind)])


def folder_of_kind(kind: str) -> str:
    """Return how a kind is written in a path: racks name kinds as they like."""
    return kind if kind == BATCHES or _PLAIN_KIND.fullmatch(kind) else f"%{kind.encode().hex()}"


@dataclass(frozen=True)
class Partition:
    """Where a sorted file belongs; ``date`` is UTC, YYYY-MM-DD."""

    cluster: str
    date: str
    rack: str
    kind: str

    def new_path(self) -> str:
        """Return a name that was never used."""
        folder = f"cluster={self.cluster}/date={self.date}/rack={self.rack}/kind={folder_of_kind(self.kind)}"
        return f"data/{folder}/{uuid6.uuid7().hex}.parquet"


class Tables:
    """Reads and writes the files of one lake."""

    def __init__(self, storage: Storage, key: bytes) -> None:
        self.storage = storage
        self._key = blake3(key, derive_key_context="stagebox.lake.files.v1").digest()

    def file_key(self, path: str) -> bytes:
        """Return the 32-byte Parquet footer key of one file."""
        return blake3(path.encode(), key=self._key).digest()

    def write_arrivals(self, table: Any, times: tuple[int, int]) -> LakeFile:
        """Store a table of :data:`ARRIVAL_SCHEMA`; it does not count before a manifest names it.

        Raises:
            StorageError: the storage refused.
        """
        path = f"arrivals/{uuid6.uuid7().hex}.parquet"
        return self._write(path, ARRIVALS, "", "", table, times)

    def write_sorted(self, table: Any, partition: Partition, times: tuple[int, int]) -> LakeFile:
        """Store a table of :func:`sorted_schema`; it does not count before a manifest names it.

        Raises:
            StorageError: the storage refused.
        """
        return self._write(partition.new_path(), partition.kind, partition.rack, partition.date, table, times)

    def _write(
        self, path: str, kind: str, rack: str, date: str, table: Any, times: tuple[int, int]
    ) -> LakeFile:
        data = to_parquet(table, self.file_key(path), row_group_rows=ROW_GROUP_ROWS)
        return self._store(path, kind, rack, date, data, table.num_rows, times)

    def store(
        self, path: str, partition: Partition, data: Any, rows: int, times: tuple[int, int]
    ) -> LakeFile:
        """Store a sorted file that was made elsewhere, under the key of ``path``; ``data`` is its Arrow buffer.

        Raises:
            StorageError: the storage refused.
        """
        where = partition.kind, partition.rack, partition.date
        return self._store(path, *where, data.to_pybytes(), rows, times)

    def _store(
        self, path: str, kind: str, rack: str, date: str, data: bytes, rows: int, times: tuple[int, int]
    ) -> LakeFile:
        try:
            self.storage.write(path, data)
        except OSError as error:
            raise StorageError(
                f"cannot write {path} of the lake: {error.strerror or error}",
                remedy="check the storage's space and health; what is not committed stays in the stream WAL",
            ) from error
        return LakeFile(path, kind, rack, date, rows, len(data), blake3(data).digest(), times[0], times[1])

    def read(self, file: LakeFile) -> Any:
        """Return a file's table, checked against the digest its manifest names.

        Raises:
            StorageError: it cannot be read.
            VerificationError: it was altered, or is another lake's.
        """
        return read_parquet(self.checked(file), self.file_key(file.path), file.path)

    def opened(self, file: LakeFile) -> Any:
        """Return a ``ParquetFile`` of a file that was checked against the digest its manifest names.

        Raises:
            StorageError: it cannot be read.
            VerificationError: it was altered.
        """
        return open_parquet(pa.BufferReader(self.checked(file)), self.file_key(file.path))

    def checked(self, file: LakeFile) -> bytes:
        """Return a file's bytes, checked against the digest its manifest names.

        Raises:
            StorageError: it cannot be read.
            VerificationError: it was altered.
        """
        try:
            data = self.storage.read(file.path)
        except OSError as error:
            raise StorageError(f"cannot read {file.path} of the lake: {error.strerror or error}") from error
        if blake3(data).digest() != file.digest:
            raise VerificationError(
                f"{file.path} of the lake was altered: its BLAKE3 is not the one its manifest names",
                remedy="put the file back from its backup; 'stagebox lake verify' says which records are in it",
            )
        return data

    def open(self, file: LakeFile) -> Any:
        """Return a ``ParquetFile`` that reads from the storage piece by piece."""
        filesystem, base = self.storage.arrow()
        return open_parquet(filesystem.open_input_file(base + file.path), self.file_key(file.path))


def concat(tables: Sequence[Any], schema: Any) -> Any:
    """Return one table of ``schema``; columns that a table does not have are null there."""
    joined = pa.concat_tables([*tables, schema.empty_table()], promote_options="default")
    return joined.select(schema.names).cast(schema)
