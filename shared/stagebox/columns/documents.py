"""Events, alerts and statuses as columns. Their free part is JSON text, so that any tool can ask into it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from stagebox import cbor
from stagebox.columns.kind import Packed, struct_of
from stagebox.errors import DecodeError
from stagebox.limits import LIMITS
from stagebox.records.header import BOOT_BYTES, VERSION

_HEAD: Final = ("v", "seq", "boot", "t")


class DocumentColumns:
    """Columns of records that are a name (wire key ``name``) and a map (wire key ``body``)."""

    def __init__(self, seq: str, name: tuple[str, str], body: tuple[str, str]) -> None:
        """``name`` and ``body`` are (column, wire key)."""
        self._name_key, self._body_key = name[1], body[1]
        self._keys = {*_HEAD, self._name_key, self._body_key}
        self._columns = (seq, "boot", "recorded_ns", name[0], body[0])
        types = (pa.uint64(), pa.binary(BOOT_BYTES), pa.uint64(), pa.string(), pa.string())
        self.type = pa.struct(list(zip(self._columns, types, strict=True)))

    def pack(self, records: Sequence[bytes]) -> Packed:
        """Return the columns of ``records``; what JSON cannot hold to the byte is not exact."""
        rows = [self._row(data) for data in records]
        blank = (0, bytes(BOOT_BYTES), 0, "", "")
        filled = [row[0] if row is not None else blank for row in rows]
        columns = [pa.array([row[n] for row in filled], field.type) for n, field in enumerate(self.type)]
        present = [row is not None for row in rows]
        return Packed(struct_of(self.type, columns, present), [row is not None and row[1] for row in rows])

    def unpack(self, column: Any, rows: Sequence[int]) -> list[bytes]:
        """Return the records of ``rows`` as they were made."""
        values = [field.to_pylist() for field in column.flatten()]
        return [self._encode(*(field[row] for field in values)) for row in rows]

    def _row(self, data: bytes) -> tuple[tuple[int, bytes, int, str, str], bool] | None:
        try:
            wire = cbor.decode_trusted(data, max_bytes=LIMITS.max_record_bytes)
        except DecodeError:
            return None
        if not isinstance(wire, Mapping) or not self._fits(wire):
            return None
        found = as_json(wire[self._body_key])
        if found is None:
            return None
        body, plain = found
        row = (wire["seq"], wire["boot"], wire["t"], wire[self._name_key], body)
        return row, plain and wire.keys() == self._keys and self._encode(*row) == data

    def _fits(self, wire: Mapping[str, Any]) -> bool:
        return (
            wire.get("v") == VERSION
            and all(type(wire.get(key)) is int and 0 <= wire[key] < 1 << 64 for key in ("seq", "t"))
            and type(wire.get("boot")) is bytes
            and len(wire["boot"]) == BOOT_BYTES
            and type(wire.get(self._name_key)) is str
            and type(wire.get(self._body_key)) is dict
        )

    def _encode(self, seq: int, boot: bytes, time_ns: int, name: str, body: str) -> bytes:
        head = {"v": VERSION, "seq": seq, "boot": boot, "t": time_ns}
        return cbor.encode({**head, self._name_key: name, self._body_key: json.loads(body)})


def as_json(value: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Return JSON text of a decoded map, and whether nothing in it was turned into text to get there.

    None if there is no such text: a key that is not text, or a value that contains itself. CBOR can say both.
    """
    foreign: list[object] = []

    def as_text(other: object) -> str:
        foreign.append(other)
        return other.hex() if isinstance(other, bytes) else str(other)

    try:
        text = json.dumps(value, default=as_text, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return None
    return text, not foreign
