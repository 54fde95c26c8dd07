"""Acks, checkpoints and seals as columns. They carry signatures, so their bytes are always kept beside the columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from stagebox import cbor, envelope
from stagebox.columns.kind import Packed, struct_of
from stagebox.errors import DecodeError
from stagebox.limits import LIMITS

_UINT = (pa.uint64(), lambda value: type(value) is int and 0 <= value < 1 << 64)
_TEXT = (pa.string(), lambda value: type(value) is str)
_BYTES = (pa.binary(), lambda value: type(value) is bytes)

Check = Callable[[Any], bool]


class SignedColumns:
    """Columns of envelopes: named fields of the payload. Nothing here verifies a signature."""

    def __init__(self, fields: Mapping[str, tuple[str, tuple[Any, Check]]]) -> None:
        """``fields``: column → (payload key, its type and check)."""
        self._fields = fields
        self.type = pa.struct([(name, kind[0]) for name, (_, kind) in fields.items()])

    def pack(self, records: Sequence[bytes]) -> Packed:
        """Return the columns of ``records``; none is exact."""
        rows = [self._row(data) for data in records]
        columns = [
            pa.array([row[index] if row is not None else None for row in rows], field.type)
            for index, field in enumerate(self.type)
        ]
        present = [row is not None for row in rows]
        return Packed(struct_of(self.type, columns, present), [False] * len(rows))

    def unpack(self, column: Any, rows: Sequence[int]) -> list[bytes]:
        """Return nothing: no record of this kind is exact.

        Raises:
            DecodeError: asked for one all the same.
        """
        if rows:
            raise DecodeError("a signed record cannot be made from its columns")
        return []

    def _row(self, data: bytes) -> tuple[Any, ...] | None:
        try:
            payload, _ = envelope.split(data)
            fields = cbor.decode_trusted(payload, max_bytes=LIMITS.max_envelope_bytes)
        except DecodeError:
            return None
        if not isinstance(fields, dict):
            return None
        return tuple(
            fields[key] if key in fields and check(fields[key]) else None
            for key, (_, check) in self._fields.values()
        )


ACK: Final = SignedColumns(
    {
        "command_seq": ("Seq", _UINT),
        "command": ("Command", _BYTES),
        "boot": ("Boot", _BYTES),
        "acked_ns": ("Time", _UINT),
        "result": ("Result", _TEXT),
        "reason": ("Reason", _TEXT),
    }
)
CHECKPOINT: Final = SignedColumns(
    {
        "checkpoint_seq": ("Seq", _UINT),
        "boot": ("Boot", _BYTES),
        "previous": ("Prev", _BYTES),
        "from_ns": ("From", _UINT),
        "to_ns": ("To", _UINT),
    }
)
SEAL: Final = SignedColumns(
    {
        "first": ("First", _UINT),
        "last": ("Last", _UINT),
        "records": ("Count", _UINT),
        "head": ("Head", _BYTES),
        "file_blake3": ("FileBlake3", _BYTES),
        "torn_bytes": ("TornBytes", _UINT),
        "clock": ("Clock", _TEXT),
    }
)
TOMBSTONE: Final = SignedColumns(
    {
        "first": ("First", _UINT),
        "last": ("Last", _UINT),
        "reason": ("Reason", _TEXT),
        "acknowledged": ("Acknowledged", _UINT),
    }
)
