"""Records of one shape, handled as one matrix of bytes: what makes thousands of records a second cheap.

Two records have one shape when they differ only in the content of their integers and byte strings, all of the same
widths. One record of a shape is decoded and encoded again with care; for the others it is enough that every byte
outside those contents is the same, and that their integers are as short as they can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stagebox.errors import DecodeError

Bytes = npt.NDArray[np.uint8]
_TAG, _TEXT, _STRING, _UINT = 6, 3, 2, 0


@dataclass(frozen=True)
class Field:
    """The content of one value: ``width`` bytes from ``start``; ``integer`` if they are a big-endian number.

    An integer below 24 has no content of its own: ``width`` is 0 and ``small`` holds it.
    """

    start: int
    width: int
    integer: bool
    small: int = 0


class Shape:
    """The layout of a CBOR map whose values are unsigned integers and (tagged) byte strings."""

    def __init__(self, example: bytes) -> None:
        """Learn the layout of ``example``, deterministic CBOR that the caller has checked.

        Raises:
            DecodeError: it holds something else.
        """
        self.fields: Mapping[str, Field] = dict(_fields(example))
        self.example = np.frombuffer(example, np.uint8)
        fixed = np.ones(len(example), bool)
        for field in self.fields.values():
            fixed[field.start : field.start + field.width] = False
        self._fixed = np.flatnonzero(fixed)

    def matches(self, records: Bytes) -> npt.NDArray[np.bool_]:
        """Tell which rows of uint8[records, bytes] have this shape."""
        same: npt.NDArray[np.bool_] = (records[:, self._fixed] == self.example[self._fixed]).all(axis=1)
        for field in self.fields.values():
            if field.integer and field.width:
                least = 24 if field.width == 1 else 1 << (4 * field.width)
                same &= self._numbers(records, field) >= least
        return same

    def numbers(self, records: Bytes, key: str) -> npt.NDArray[np.uint64]:
        """Return an integer field of every row."""
        return self._numbers(records, self.fields[key])

    def content(self, records: Bytes, key: str) -> Bytes:
        """Return a byte string field of every row, uint8[records, width]."""
        field = self.fields[key]
        return records[:, field.start : field.start + field.width]

    def blank(self, count: int) -> Bytes:
        """Return ``count`` copies of the example to be filled in."""
        return np.tile(self.example, (count, 1))

    def put(self, records: Bytes, key: str, values: npt.NDArray[Any]) -> None:
        """Set a field of every row: numbers, or uint8[records, width]."""
        field = self.fields[key]
        if field.integer:
            packed = values.astype(">u8").view(np.uint8).reshape(len(records), 8)
            values = packed[:, 8 - field.width :]
        records[:, field.start : field.start + field.width] = values

    @staticmethod
    def _numbers(records: Bytes, field: Field) -> npt.NDArray[np.uint64]:
        if not field.width:
            return np.full(len(records), field.small, np.uint64)
        padded = np.zeros((len(records), 8), np.uint8)
        padded[:, 8 - field.width :] = records[:, field.start : field.start + field.width]
        return padded.view(">u8").astype(np.uint64).reshape(-1)


def integer_width(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return how many bytes each value takes after its head: 0, 1, 2, 4 or 8."""
    widths: npt.NDArray[np.int64] = np.array([0, 1, 2, 4, 8])[
        np.searchsorted(np.array([24, 1 << 8, 1 << 16, 1 << 32], np.uint64), values, side="right")
    ]
    return widths


def _fields(data: bytes) -> list[tuple[str, Field]]:
    major, pairs, position = _head(data, 0)
    if major != 5:
        raise DecodeError("a record is no map")
    found: list[tuple[str, Field]] = []
    for _ in range(pairs):
        major, length, position = _head(data, position)
        if major != _TEXT:
            raise DecodeError("a record has a key that is no text")
        key = data[position : position + length].decode()
        position += length
        major, value, after = _head(data, position)
        if major == _TAG:
            major, value, after = _head(data, after)
        if major == _UINT:
            width = after - position - 1
            found.append((key, Field(position + 1, width, integer=True, small=value if not width else 0)))
            position = after
        elif major == _STRING:
            found.append((key, Field(after, value, integer=False)))
            position = after + value
        else:
            raise DecodeError(f"a record's field {key!r} is neither a number nor bytes")
    return found


def _head(data: bytes, position: int) -> tuple[int, int, int]:
    """Return (major type, argument, position after the head) of data that decoded before."""
    major, info = data[position] >> 5, data[position] & 0x1F
    position += 1
    if info < 24:
        return major, info, position
    width = 1 << (info - 24)
    return major, int.from_bytes(data[position : position + width], "big"), position + width
