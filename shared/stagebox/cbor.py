"""Deterministic CBOR, and a decoder that takes no liberties.

Encoding follows RFC 8949 §4.2.1: shortest integers, lengths and floats, definite lengths, map keys sorted by
their encoded bytes. Every map key is text, for which that order and the older length-first one agree. Decoding
demands exactly one item, no duplicate map keys, definite lengths, no tags, and bounds on size and depth. The only
formats with tags are records (typed arrays of meter frames), which :func:`decode_trusted` reads. Signed payloads are
kept as the received bytes and never re-encoded for verification.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import cbor2

from stagebox.errors import DecodeError
from stagebox.limits import LIMITS


def encode(value: Any) -> bytes:
    """Encode ``value`` deterministically (RFC 8949 §4.2.1)."""
    return cbor2.dumps(value, canonical=True)


def _pairs_without_duplicates(data: bytes, depth: int, max_items: int | None) -> None:
    """Walk the item heads of ``data`` and refuse what a lax decoder would let pass."""
    position, end = 0, len(data)
    left = end + 1 if max_items is None else max_items
    # Each open container is [remaining items, keys seen or None, is the next item a key].
    stack: list[tuple[int, set[bytes] | None]] = []
    pending_key: list[bool] = []
    while True:
        if stack:
            remaining, keys = stack[-1]
            if remaining == 0:
                stack.pop()
                pending_key.pop()
                if not stack:
                    break
                continue
            stack[-1] = (remaining - 1, keys)
        if left == 0:
            raise DecodeError(f"CBOR holds more than {max_items} items")
        left -= 1
        major, argument, position = _head(data, position, end)
        content = position
        if major in (2, 3):
            position += argument
            if position > end:
                raise DecodeError("CBOR string runs past the end of the data")
        if stack and stack[-1][1] is not None:
            keys = stack[-1][1]
            if pending_key[-1]:
                if major != 3:
                    raise DecodeError("CBOR map key is not text")
                # The text alone: a key written with a longer head than needed is still the same key.
                key = data[content:position]
                if keys is not None and key in keys:
                    raise DecodeError("CBOR map has the same key twice")
                if keys is not None:
                    keys.add(key)
            pending_key[-1] = not pending_key[-1]
        if major == 6:
            # The decoder would turn one into an object (a date, a regular expression, a cycle).
            raise DecodeError(f"CBOR tag {argument} is not used by this format")
        if major in (4, 5):
            if len(stack) >= depth:
                raise DecodeError(f"CBOR is nested deeper than {depth} levels")
            count = argument * 2 if major == 5 else argument
            if count > end - position:
                raise DecodeError("CBOR container claims more items than there are bytes")
            stack.append((count, set() if major == 5 else None))
            pending_key.append(True)
        elif not stack:
            break
    if position != end:
        raise DecodeError(f"{end - position} bytes follow the CBOR item")


def _head(data: bytes, position: int, end: int) -> tuple[int, int, int]:
    """Return (major type, argument, position after the head) of the item at ``position``."""
    if position >= end:
        raise DecodeError("CBOR ends in the middle of an item")
    initial = data[position]
    major, info = initial >> 5, initial & 0x1F
    position += 1
    if info < 24:
        return major, info, position
    if info > 27:
        raise DecodeError("CBOR item has an indefinite or reserved length")
    width = 1 << (info - 24)
    if position + width > end:
        raise DecodeError("CBOR ends in the middle of an item head")
    return major, int.from_bytes(data[position : position + width], "big"), position + width


def decode(data: bytes, *, max_bytes: int, max_items: int | None = None) -> Any:
    """Decode exactly one CBOR item.

    Whoever decodes what a stranger sent bounds ``max_items`` too: the time it takes goes by items, not by bytes.

    Raises:
        DecodeError: too large, malformed, trailing bytes, a duplicate map key, a tag, nested too deep, or too many
            items.
    """
    if len(data) > max_bytes:
        raise DecodeError(f"CBOR item of {len(data)} bytes is larger than the {max_bytes} allowed")
    data = bytes(data)
    _pairs_without_duplicates(data, LIMITS.max_cbor_depth, max_items)
    return _decode_bounded(data)


def decode_trusted(data: bytes, *, max_bytes: int) -> Any:
    """Decode CBOR on the path of every record: the bounds of :func:`decode`, without its walk over keys and tags.

    For data whose digest or signature the caller checks.

    Raises:
        DecodeError: too large, malformed, trailing bytes, a duplicate map key, or nested too deep.
    """
    if len(data) > max_bytes:
        raise DecodeError(f"CBOR item of {len(data)} bytes is larger than the {max_bytes} allowed")
    return _decode_bounded(data)


def _decode_bounded(data: bytes) -> Any:
    stream = BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            stream, max_depth=LIMITS.max_cbor_depth, allow_indefinite=False, allow_duplicate_keys=False
        ).decode()
    except Exception as error:
        # cbor2 raises its own tree plus ValueError, OverflowError, UnicodeDecodeError from tag decoders.
        raise DecodeError(f"CBOR does not decode: {type(error).__name__}") from None
    if stream.tell() != len(data):
        raise DecodeError("bytes follow the CBOR item")
    return value


def decode_canonical(data: bytes, *, max_bytes: int, max_items: int | None = None) -> Any:
    """Decode exactly one CBOR item and demand that it is deterministically encoded.

    Raises:
        DecodeError: as :func:`decode`, or the encoding is not the deterministic one.
    """
    value = decode(data, max_bytes=max_bytes, max_items=max_items)
    if encode(value) != data:
        raise DecodeError("CBOR is not deterministically encoded (RFC 8949 §4.2.1)")
    return value


def expect_map(value: Any, what: str) -> dict[str, Any]:
    """Return ``value`` if it is a map with text keys only.

    Raises:
        DecodeError: it is something else.
    """
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise DecodeError(f"{what} is not a CBOR map with text keys")
    return value


def take(fields: dict[str, Any], name: str, kind: type, what: str) -> Any:
    """Remove and return ``fields[name]``, which must be exactly of type ``kind``.

    Raises:
        DecodeError: the field is missing or of another type (a bool is not an int here).
    """
    try:
        value = fields.pop(name)
    except KeyError:
        raise DecodeError(f"{what} has no {name!r}") from None
    if type(value) is not kind:
        raise DecodeError(f"{what} field {name!r} is {type(value).__name__}, expected {kind.__name__}")
    return value


def take_uint(fields: dict[str, Any], name: str, what: str, *, bits: int = 64) -> int:
    """Remove and return an unsigned integer field that fits ``bits``.

    Raises:
        DecodeError: missing, not an integer, negative or too large.
    """
    value: int = take(fields, name, int, what)
    if not 0 <= value < 1 << bits:
        raise DecodeError(f"{what} field {name!r} does not fit in {bits} unsigned bits")
    return value


def take_bytes(fields: dict[str, Any], name: str, what: str, *, length: int | None = None) -> bytes:
    """Remove and return a byte string field, of exactly ``length`` bytes if given.

    Raises:
        DecodeError: missing, not a byte string or of another length.
    """
    value: bytes = take(fields, name, bytes, what)
    if length is not None and len(value) != length:
        raise DecodeError(f"{what} field {name!r} has {len(value)} bytes, expected {length}")
    return value
