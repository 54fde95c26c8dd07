"""Small state files that find their own damage: a deterministic CBOR map beside its sum. Pure.

::

    {"Payload": bytes, "Sum": BLAKE3-256 of Payload}        Payload = map with "Version" 1

The sum finds damage; who could forge it owns the rack.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from stagebox import cbor
from stagebox.errors import DecodeError

VERSION = 1


def encode(fields: Mapping[str, Any]) -> bytes:
    """Return a file's content."""
    payload = cbor.encode({**fields, "Version": VERSION})
    return cbor.encode({"Payload": payload, "Sum": blake3(payload).digest()})


def decode(data: bytes, what: str, *, max_bytes: int) -> dict[str, Any]:
    """Return the fields of a file's content, without the version.

    Raises:
        DecodeError: damaged, or of an unknown version.
    """
    outer = cbor.expect_map(cbor.decode_canonical(data, max_bytes=max_bytes), what)
    payload = cbor.take_bytes(outer, "Payload", what)
    if cbor.take_bytes(outer, "Sum", what) != blake3(payload).digest() or outer:
        raise DecodeError(f"{what} is damaged: its sum does not match")
    fields = cbor.expect_map(cbor.decode_canonical(payload, max_bytes=max_bytes), what)
    version = cbor.take_uint(fields, "Version", what)
    if version != VERSION:
        raise DecodeError(f"{what} has version {version}, this software understands {VERSION}")
    return fields
