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
    return open_versioned(data, what, (VERSION,))[1:]


def open_versioned(
    data: bytes, what: str, versions: tuple[int, ...]
) -> tuple[int, int, bytes, int, dict[str, Any]]:
    """Decode a live record of one of ``versions``; return (version, seq, boot, time_ns, the remaining fields).

    Raises:
        DecodeError: malformed, or another version.
    """
    fields = cbor.expect_map(cbor.decode_trusted(data, max_bytes=LIMITS.max_record_bytes), what)
    version = cbor.take_uint(fields, "v", what)
    if version not in versions:
        known = " and ".join(str(number) for number in versions)
        raise DecodeError(f"{what} has version {version}, this software understands {known}")
    seq = cbor.take_uint(fields, "seq", what)
    boot = cbor.take_bytes(fields, "boot", what, length=BOOT_BYTES)
    time_ns = cbor.take_uint(fields, "t", what)
    return version, seq, boot, time_ns, fields


def close_record(
    seq: int, boot: bytes, time_ns: int, fields: dict[str, Any], *, version: int = VERSION
) -> bytes:
    """Encode a live record: the common fields, then ``fields``."""
    return cbor.encode({**fields, "v": version, "seq": seq, "boot": boot, "t": time_ns})
