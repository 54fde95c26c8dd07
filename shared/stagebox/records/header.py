"""The fields every live record starts with: version, sequence, boot and time."""

from __future__ import annotations

from typing import Any

from stagebox import cbor
from stagebox.errors import DecodeError
from stagebox.limits import LIMITS

VERSION = 1
BOOT_BYTES = 16


def open_record(data: bytes, what: str) -> tuple[int, bytes, int, dict[str, Any]]:
    """Decode a live record's map; return (seq, boot, time_ns, the remaining fields).

    Raises:
        DecodeError: malformed, or an unknown version.
    """
    fields = cbor.expect_map(cbor.decode_trusted(data, max_bytes=LIMITS.max_record_bytes), what)
    version = cbor.take_uint(fields, "v", what)
    if version != VERSION:
        raise DecodeError(f"{what} has version {version}, this software understands {VERSION}")
    seq = cbor.take_uint(fields, "seq", what)
    boot = cbor.take_bytes(fields, "boot", what, length=BOOT_BYTES)
    time_ns = cbor.take_uint(fields, "t", what)
    return seq, boot, time_ns, fields


def close_record(seq: int, boot: bytes, time_ns: int, fields: dict[str, Any]) -> bytes:
    """Encode a live record: the common fields, then ``fields``."""
    return cbor.encode({**fields, "v": VERSION, "seq": seq, "boot": boot, "t": time_ns})
