"""What a record kind gives a table: its columns, how records fill them, and how records come back out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa


@dataclass(frozen=True)
class Packed:
    """``column`` has one struct a record, null where the record is not of the kind's form.

    ``exact`` says which records :meth:`KindColumns.unpack` gives back to the byte; the bytes of the others must be
    kept beside the columns.
    """

    column: Any
    exact: Sequence[bool]


class KindColumns(Protocol):
    """The columns of one kind of record."""

    type: Any

    def pack(self, records: Sequence[bytes]) -> Packed:
        """Return the columns of ``records``; never raises for what is in them."""
        ...

    def unpack(self, column: Any, rows: Sequence[int]) -> list[bytes]:
        """Return the records of ``rows``, which :meth:`pack` called exact."""
        ...


def struct_of(struct: Any, columns: Sequence[Any], present: Sequence[bool]) -> Any:
    """Return a struct array of ``struct``'s fields that is null where ``present`` is False."""
    absent = pa.array([not there for there in present], pa.bool_())
    return pa.StructArray.from_arrays(columns, fields=list(struct), mask=absent)
