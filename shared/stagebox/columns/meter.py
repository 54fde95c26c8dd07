"""Meter frames of version 2 as columns: levels stay hundredths of a decibel, one list a frame, a value a channel.

What has no value is null. Frames of another version, or with fields this version does not know, are kept as bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from cbor2 import CBORTag

from stagebox import cbor
from stagebox.columns.kind import Packed, struct_of
from stagebox.columns.shapes import Bytes, Shape, integer_width
from stagebox.errors import DecodeError
from stagebox.limits import LIMITS
from stagebox.records.header import BOOT_BYTES
from stagebox.records.meter import (
    CHANNEL_KEYS,
    NO_VALUE_8,
    NO_VALUE_16,
    PROGRAMME_FIELDS,
    VERSION,
    encode_packed,
)

_INT16_LE: Final = 77
_INT8: Final = 72
_PROGRAMMES: Final = tuple(f"programme_{name}" for name in PROGRAMME_FIELDS)
_SHAPES: Final = 64
"""Shapes of one length in one call; a rack's sources have a few, and what is beyond is kept as bytes."""
# Column → key on the wire.
_NUMBERS: Final = {
    "meter_seq": "seq",
    "captured_ns": "t",
    "start": "start",
    "frames": "n",
    "rate": "rate",
}
_WIDE: Final = frozenset({"meter_seq", "captured_ns", "start"})
# Column → (key on the wire, type there, value that stands for none).
_LISTS: Final[Mapping[str, tuple[str, str, int | None]]] = {
    **{name: (key, "<i2", NO_VALUE_16) for name, key in CHANNEL_KEYS.items()},
    "flags": ("flags", "u1", None),
    "correlation": ("corr", "i1", NO_VALUE_8),
}
_WIRE_KEYS: Final = frozenset(
    {"v", "boot", "prog", *_NUMBERS.values(), *(key for key, _, _ in _LISTS.values())}
)
_ARROW: Final = {"<i2": pa.int16(), "u1": pa.uint8(), "i1": pa.int8()}


class MeterColumns:
    """Columns of ``meter`` records."""

    type = pa.struct(
        [
            ("boot", pa.binary(BOOT_BYTES)),
            *((name, pa.uint64() if name in _WIDE else pa.uint32()) for name in _NUMBERS),
            *((name, pa.list_(pa.field("item", _ARROW[dtype]))) for name, (_, dtype, _) in _LISTS.items()),
            *((name, pa.list_(pa.field("item", pa.int16()))) for name in _PROGRAMMES),
        ]
    )

    def pack(self, records: Sequence[bytes]) -> Packed:
        """Return the columns of ``records``."""
        groups = _groups(records)
        present = np.zeros(len(records), bool)
        for shape, rows, _ in groups:
            del shape
            present[rows] = True
        boots = np.zeros((len(records), BOOT_BYTES), np.uint8)
        for shape, rows, matrix in groups:
            boots[rows] = shape.content(matrix, "boot")
        columns = [_fixed_binary(boots)]
        for name, key in _NUMBERS.items():
            values = np.zeros(len(records), np.uint64 if name in _WIDE else np.uint32)
            for shape, rows, matrix in groups:
                values[rows] = shape.numbers(matrix, key)
            columns.append(pa.array(values))
        for key, dtype, none in _LISTS.values():
            parts = [(rows, _typed(shape.content(matrix, key), dtype)) for shape, rows, matrix in groups]
            columns.append(_gathered(len(records), parts, dtype, none))
        for number in range(len(_PROGRAMMES)):
            parts = [
                (rows, _typed(shape.content(matrix, "prog"), "<i2")[:, number :: len(_PROGRAMMES)])
                for shape, rows, matrix in groups
            ]
            columns.append(_gathered(len(records), parts, "<i2", NO_VALUE_16))
        flags = present.tolist()
        return Packed(struct_of(self.type, columns, flags), flags)

    def unpack(self, column: Any, rows: Sequence[int]) -> list[bytes]:
        """Return the frames of ``rows`` as they were made."""
        wanted = column.take(pa.array(rows, pa.int64()))
        fields = dict(zip((field.name for field in self.type), wanted.flatten(), strict=True))
        numbers = {name: fields[name].to_numpy(zero_copy_only=False).astype(np.uint64) for name in _NUMBERS}
        boots = np.frombuffer(b"".join(fields["boot"].to_pylist()), np.uint8).reshape(-1, BOOT_BYTES)
        lists = {name: _List(fields[name], dtype, none) for name, (_, dtype, none) in _LISTS.items()}
        programmes = [_List(fields[name], "<i2", NO_VALUE_16) for name in _PROGRAMMES]
        result: list[bytes] = [b""] * len(rows)
        # One shape: the same widths of every number, and the same count of channels, pairs and programmes.
        widths = [integer_width(values) for values in numbers.values()]
        counts = [*(values.lengths for values in lists.values()), programmes[0].lengths]
        shapes = _alike([*widths, *counts], len(rows))
        for number in range(int(shapes.max(initial=-1)) + 1):
            mine = np.flatnonzero(shapes == number)
            content = {key: lists[name].of(mine) for name, (key, _, _) in _LISTS.items()}
            content["prog"] = (
                np.stack([part.of(mine).view("<i2") for part in programmes], axis=2)
                .reshape(len(mine), -1)
                .view(np.uint8)
            )
            content["boot"] = boots[mine]
            made = _made({_NUMBERS[name]: values[mine] for name, values in numbers.items()}, content)
            for row, record in zip(mine.tolist(), made, strict=True):
                result[row] = record
        return result


def _alike(columns: Sequence[npt.NDArray[Any]], count: int) -> npt.NDArray[np.int64]:
    """Return a number for each row, the same one for rows that are the same in all ``columns``."""
    groups = np.zeros(count, np.int64)
    for column in columns:
        if (column != column[:1]).any():
            _, values = np.unique(column, return_inverse=True)
            _, groups = np.unique(groups * count + values, return_inverse=True)
    return groups


def _made(numbers: Mapping[str, npt.NDArray[np.uint64]], content: Mapping[str, Bytes]) -> list[bytes]:
    """Return the records of one shape."""
    first = {key: values[0].tobytes() for key, values in content.items()}
    example = encode_packed(
        seq=int(numbers["seq"][0]),
        boot=first["boot"],
        time_ns=int(numbers["t"][0]),
        start=int(numbers["start"][0]),
        frames=int(numbers["n"][0]),
        rate=int(numbers["rate"][0]),
        levels={key: first[key] for key in CHANNEL_KEYS.values()},
        flags=first["flags"],
        correlation=first["corr"],
        programmes=first["prog"],
    )
    shape = Shape(example)
    matrix = shape.blank(len(content["boot"]))
    for key, values in numbers.items():
        if shape.fields[key].width:
            shape.put(matrix, key, values)
        elif (values != shape.fields[key].small).any():
            # Numbers below 24 lie in their head, which differs: such records are few, the first ones of a boot.
            return [_made(_row(numbers, row), _row(content, row))[0] for row in range(len(matrix))]
    for key, part in content.items():
        shape.put(matrix, key, part)
    size = matrix.shape[1]
    joined = matrix.tobytes()
    return [joined[at : at + size] for at in range(0, len(joined), size)]


def _row(columns: Mapping[str, npt.NDArray[Any]], row: int) -> dict[str, npt.NDArray[Any]]:
    return {key: values[row : row + 1] for key, values in columns.items()}


def _groups(records: Sequence[bytes]) -> list[tuple[Shape, npt.NDArray[np.int64], Bytes]]:
    """Return (shape, rows, their bytes as a matrix) for every shape found; frames that are none are in no group."""
    by_length: dict[int, list[int]] = {}
    for row, data in enumerate(records):
        by_length.setdefault(len(data), []).append(row)
    groups: list[tuple[Shape, npt.NDArray[np.int64], Bytes]] = []
    for length, rows in by_length.items():
        left = np.array(rows)
        matrix = np.frombuffer(b"".join(records[row] for row in rows), np.uint8).reshape(len(rows), length)
        for _ in range(_SHAPES):
            if not len(left):
                break
            shape = _shape(records[left[0]])
            if shape is None:
                left, matrix = left[1:], matrix[1:]
                continue
            same = shape.matches(matrix)
            groups.append((shape, left[same], matrix[same]))
            left, matrix = left[~same], matrix[~same]
    return groups


def _shape(data: bytes) -> Shape | None:
    """Return the shape of a frame that is exactly what :func:`encode_packed` makes, else None."""
    try:
        wire = cbor.decode_trusted(data, max_bytes=LIMITS.max_record_bytes)
        if not isinstance(wire, dict) or wire.keys() != _WIRE_KEYS or not _plain(wire):
            return None
        return Shape(data) if cbor.encode(wire) == data else None
    except DecodeError:
        return None


def _plain(wire: Mapping[str, Any]) -> bool:
    widths = {key: 64 if name in _WIDE else 32 for name, key in _NUMBERS.items()}
    return (
        wire["v"] == VERSION
        and type(wire["v"]) is int
        and all(type(wire[key]) is int and 0 <= wire[key] < 1 << bits for key, bits in widths.items())
        and type(wire["boot"]) is bytes
        and len(wire["boot"]) == BOOT_BYTES
        and type(wire["flags"]) is bytes
        and all(_is_array(wire[key], _INT16_LE, 2) for key in CHANNEL_KEYS.values())
        and _is_array(wire["corr"], _INT8, 1)
        and _is_array(wire["prog"], _INT16_LE, 2 * len(PROGRAMME_FIELDS))
    )


def _is_array(value: Any, tag: int, unit: int) -> bool:
    return (
        isinstance(value, CBORTag)
        and value.tag == tag
        and type(value.value) is bytes
        and len(value.value) % unit == 0
    )


def _fixed_binary(rows: Bytes) -> Any:
    return pa.Array.from_buffers(
        pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))]
    )


def _typed(content: Bytes, dtype: str) -> npt.NDArray[Any]:
    return np.ascontiguousarray(content).view(dtype)


def _gathered(
    count: int, parts: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]], dtype: str, none: int | None
) -> Any:
    """Return the list array whose rows are the rows of ``parts``; rows in no part are empty."""
    offsets = np.zeros(count + 1, np.int32)
    for rows, values in parts:
        offsets[rows + 1] = values.shape[1]
    np.cumsum(offsets, out=offsets)
    flat = np.zeros(int(offsets[-1]), np.dtype(dtype).newbyteorder("="))
    for rows, values in parts:
        flat[offsets[rows][:, np.newaxis] + np.arange(values.shape[1])] = values
    mask = flat == none if none is not None else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, mask=mask))


class _List:
    """The values of a list column, ready to be put back on the wire."""

    def __init__(self, column: Any, dtype: str, none: int | None) -> None:
        self.lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        values = column.flatten()
        if values.null_count:
            values = values.fill_null(none)
        self._values = values.to_numpy(zero_copy_only=False).astype(dtype)

    def of(self, rows: npt.NDArray[np.int64]) -> Bytes:
        """Return the bytes of ``rows``, which all have as many values, uint8[rows, bytes]."""
        length = int(self.lengths[rows[0]])
        picked = self._values[self._offsets[rows][:, np.newaxis] + np.arange(length)]
        return np.ascontiguousarray(picked).view(np.uint8).reshape(len(rows), -1)
