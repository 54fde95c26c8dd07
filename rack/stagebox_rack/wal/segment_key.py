"""The key file beside a segment, to the byte. Pure.

It stands apart from the seal so that another KEK needs no new signature, and apart from the Parquet file because that
one's encrypted footer cannot be read without the key.
"""

from __future__ import annotations

from typing import Final

from stagebox import cbor
from stagebox.errors import DecodeError
from stagebox_rack.limits import LIMITS
from stagebox_rack.wal.keyring import WRAPPED_BYTES, Keyring

_VERSION: Final = 1
_KEY_DOMAIN: Final = b"stagebox.wal.segment.v1\0"


def key_context(rack: str, first: int, last: int, file_id: bytes) -> bytes:
    """Return what a segment's wrapped key is bound to."""
    return _KEY_DOMAIN + cbor.encode({"Rack": rack, "First": first, "Last": last, "FileId": file_id})


def encode_key(keyring: Keyring, wrapped: bytes) -> bytes:
    """Return the ``.key`` file's bytes."""
    return cbor.encode({"Version": _VERSION, "KekVersion": keyring.version, "WrappedDek": wrapped})


def decode_key(data: bytes) -> tuple[int, bytes]:
    """Return (KEK version, wrapped key) of a ``.key`` file.

    Raises:
        DecodeError: malformed or of an unknown version.
    """
    what = "segment key file"
    fields = cbor.expect_map(cbor.decode_canonical(data, max_bytes=LIMITS.wal_key_file_bytes), what)
    version = cbor.take_uint(fields, "Version", what)
    if version != _VERSION:
        raise DecodeError(f"{what} has version {version}, this software understands {_VERSION}")
    kek_version = cbor.take_uint(fields, "KekVersion", what, bits=32)
    return kek_version, cbor.take_bytes(fields, "WrappedDek", what, length=WRAPPED_BYTES)


def open_key(data: bytes, keyring: Keyring, context: bytes, where: str) -> bytes:
    """Return the data key held by a ``.key`` file.

    Raises:
        DecodeError: malformed or of an unknown version.
        VerificationError: another KEK, another segment, or altered.
    """
    kek_version, wrapped = decode_key(data)
    return keyring.unwrap(wrapped, context, version=kek_version, where=where)
