"""How tables of records are written as encrypted Parquet, so that pyarrow, DuckDB and pandas read them with the key.

DuckDB reads encrypted files only with one data page a column chunk, so that is what is written; row groups stay well
under its 32 MB. Whole numbers are delta encoded, the few texts that repeat go through a dictionary.
"""

from __future__ import annotations

import functools
import io
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.parquet import encryption

from stagebox.errors import VerificationError

_REPEATED: Final = ("kind", "subject")
_DELTA_TYPES: Final = ("INT32", "INT64")
_ONE_PAGE: Final = {"data_page_size": 64 << 20, "max_rows_per_page": 10**9, "write_batch_size": 1 << 20}
_BY_SCHEMA: Final = 64


def to_parquet(table: Any, dek: bytes, *, row_group_rows: int | None = None) -> bytes:
    """Return the file: zstd, encrypted under the 32-byte ``dek`` (AES_GCM_V1, uniform, encrypted footer)."""
    sink = pa.BufferOutputStream()
    with writer(sink, table.schema, dek) as out:
        out.write_table(table, row_group_size=max(1, row_group_rows or table.num_rows))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def writer(sink: Any, schema: Any, dek: bytes) -> Any:
    """Return a ``pyarrow.parquet.ParquetWriter`` of such a file, to be written a row group at a time."""
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        compression_level=3,
        encryption_properties=encryption.create_encryption_properties(dek),
        **_encodings(schema),
        **_ONE_PAGE,
    )


def open_parquet(source: Any, dek: bytes) -> Any:
    """Return a ``pyarrow.parquet.ParquetFile`` of a path or file that decrypts with ``dek``."""
    return pq.ParquetFile(source, decryption_properties=encryption.create_decryption_properties(dek))


def read_parquet(data: bytes, dek: bytes, name: str) -> Any:
    """Return the table in ``data``.

    Raises:
        VerificationError: another key, or the file was altered or cut; ``name`` says which file.
    """
    try:
        return open_parquet(pa.BufferReader(data), dek).read()
    except (OSError, pa.ArrowInvalid) as error:
        raise VerificationError(
            f"{name} does not decrypt: {error}", remedy="was it written under another key, or altered?"
        ) from None


def _encodings(schema: Any) -> dict[str, Any]:
    return dict(_encodings_of(schema.remove_metadata()))


@functools.lru_cache(_BY_SCHEMA)
def _encodings_of(schema: Any) -> tuple[tuple[str, Any], ...]:
    """Return the writer options for the leaves of ``schema``, whose paths only Parquet itself can name."""
    empty = io.BytesIO()
    pq.write_table(schema.empty_table(), empty)
    leaves = pq.ParquetFile(empty).schema
    paths = [(leaves.column(index).path, leaves.column(index).physical_type) for index in range(len(leaves))]
    repeated = [path for path, _ in paths if path in _REPEATED]
    delta = {path: "DELTA_BINARY_PACKED" for path, kind in paths if kind in _DELTA_TYPES}
    return (("use_dictionary", repeated or False), ("column_encoding", delta or None))
