"""Module records as columns. What a module said is JSON text, as the detail of an event is.

This kind came after the version of the columns that is written: a reader that does not know it takes ``data`` and
passes over the columns. So the bytes of these records are always kept beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from stagebox.columns.documents import as_json
from stagebox.columns.kind import Packed, struct_of
from stagebox.errors import DecodeError
from stagebox.records.header import BOOT_BYTES
from stagebox.records.module import ModuleRecord

_BLANK: Final = (0, bytes(BOOT_BYTES), 0, "", "", "", "", 0, "")


class ModuleColumns:
    """Columns of ``module`` records."""

    type = pa.struct(
        [
            ("module_seq", pa.uint64()),
            ("boot", pa.binary(BOOT_BYTES)),
            ("recorded_ns", pa.uint64()),
            ("module", pa.string()),
            ("version", pa.string()),
            ("insert", pa.string()),
            ("source", pa.string()),
            ("start", pa.uint64()),
            ("detail", pa.string()),
        ]
    )

    def pack(self, records: Sequence[bytes]) -> Packed:
        """Return the columns of ``records``; none is exact."""
        rows = [_row(data) for data in records]
        filled = [row if row is not None else _BLANK for row in rows]
        columns = [pa.array([row[n] for row in filled], field.type) for n, field in enumerate(self.type)]
        present = [row is not None for row in rows]
        return Packed(struct_of(self.type, columns, present), [False] * len(rows))

    def unpack(self, column: Any, rows: Sequence[int]) -> list[bytes]:
        """Return nothing: no record of this kind is exact.

        Raises:
            DecodeError: asked for one all the same.
        """
        if rows:
            raise DecodeError("a module record is not made from its columns")
        return []


def _row(data: bytes) -> tuple[Any, ...] | None:
    try:
        said = ModuleRecord.decode(data)
    except DecodeError:
        return None
    found = as_json(said.data)
    if found is None:
        return None
    return (
        said.seq,
        said.boot,
        said.time_ns,
        said.module,
        said.version,
        said.insert,
        said.source,
        said.start,
        found[0],
    )
