"""What every control payload shares: version, bounds and the digest by which one names another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from stagebox import cbor
from stagebox.errors import DecodeError
from stagebox.limits import LIMITS

VERSION = 1
DIGEST_BYTES = 32
NONCE_BYTES = 16


def payload_digest(payload: bytes) -> bytes:
    """Return BLAKE3-256 of a payload: how an answer names its request and an ack its command."""
    return blake3(payload).digest()


def open_payload(payload: bytes, what: str, *, max_items: int = LIMITS.max_control_items) -> dict[str, Any]:
    """Decode a control payload's map and take its version.

    Raises:
        DecodeError: malformed, not deterministically encoded, or of an unknown version.
    """
    decoded = cbor.decode_canonical(payload, max_bytes=LIMITS.max_control_bytes, max_items=max_items)
    fields = cbor.expect_map(decoded, what)
    version = cbor.take_uint(fields, "Version", what)
    if version != VERSION:
        raise DecodeError(f"{what} has version {version}, this software understands {VERSION}")
    return fields


def close_payload(extra: Mapping[str, Any], fields: Mapping[str, Any]) -> bytes:
    """Encode a control payload: unknown fields kept, then the known ones and the version."""
    return cbor.encode({**extra, **fields, "Version": VERSION})


def take_map(fields: dict[str, Any], name: str, what: str) -> dict[str, Any]:
    """Remove and return a map with text keys.

    Raises:
        DecodeError: missing or something else.
    """
    return cbor.expect_map(cbor.take(fields, name, dict, what), f"{what} {name}")


def take_chain(fields: dict[str, Any], name: str, what: str) -> tuple[bytes, ...]:
    """Remove and return a list of DER certificates, leaf first, not yet parsed.

    Raises:
        DecodeError: missing, empty, too long, or not byte strings.
    """
    chain = cbor.take(fields, name, list, what)
    if not 1 <= len(chain) <= LIMITS.max_chain_certificates:
        raise DecodeError(f"{what} field {name!r} holds {len(chain)} certificates")
    if not all(type(der) is bytes and len(der) <= LIMITS.max_certificate_bytes for der in chain):
        raise DecodeError(f"{what} field {name!r} is not a list of certificates")
    return tuple(chain)
