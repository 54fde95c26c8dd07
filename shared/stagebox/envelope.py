"""The signed envelope: deterministic CBOR ``{"Payload": bytes, "Signature": bytes}``.

The signature is Ed25519 over ``domain ‖ Payload``. A domain names one purpose, so a signature made for one
purpose never verifies for another. The payload is verified as received and never re-encoded.
See docs/reference/envelope.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from stagebox import cbor
from stagebox.errors import DecodeError, VerificationError
from stagebox.limits import LIMITS

DOMAIN_PASSPORT = b"stagebox.passport.v1\0"
DOMAIN_CHECKPOINT = b"stagebox.checkpoint.v1\0"
DOMAIN_WAL = b"stagebox.wal.v1\0"
DOMAIN_SEAL = b"stagebox.seal.v1\0"
DOMAIN_TOMBSTONE = b"stagebox.tombstone.v1\0"
DOMAIN_REQUEST = b"stagebox.request.v1\0"
DOMAIN_ANSWER = b"stagebox.answer.v1\0"
DOMAIN_COMMAND = b"stagebox.command.v1\0"
DOMAIN_ACK = b"stagebox.ack.v1\0"
DOMAIN_TRUST = b"stagebox.trust.v1\0"
DOMAIN_DENY_LIST = b"stagebox.denylist.v1\0"
DOMAIN_SUCCESSION = b"stagebox.succession.v1\0"
DOMAIN_MODULE_VENDOR = b"stagebox.module.vendor.v1\0"
DOMAIN_MODULE_CLUSTER = b"stagebox.module.cluster.v1\0"
DOMAIN_PATCH = b"stagebox.patch.v1\0"

SIGNATURE_BYTES = 64

# The deterministic encoding has one layout only, so it is written and recognised without a CBOR library.
_HEAD = b"\xa2\x67Payload"
_TAIL = b"\x69Signature\x58\x40"


def seal(domain: bytes, payload: bytes, key: SigningKey) -> bytes:
    """Return the envelope of ``payload`` signed by ``key`` for the purpose ``domain``."""
    _check_domain(domain)
    signature = key.sign(domain + payload).signature
    return b"".join((_HEAD, _byte_string_head(len(payload)), payload, _TAIL, signature))


def split(data: bytes, *, max_bytes: int = LIMITS.max_envelope_bytes) -> tuple[bytes, bytes]:
    """Return (payload, signature) of an envelope **without verifying it**.

    Raises:
        DecodeError: not a deterministically encoded envelope with exactly these two fields.
    """
    if len(data) <= max_bytes:
        found = _split_layout(data)
        if found is not None:
            return found
    # Anything else is refused; the general decoder says what is wrong with it.
    decoded = cbor.decode_canonical(data, max_bytes=max_bytes, max_items=LIMITS.max_envelope_items)
    fields = cbor.expect_map(decoded, "envelope")
    payload = cbor.take_bytes(fields, "Payload", "envelope")
    signature = cbor.take_bytes(fields, "Signature", "envelope", length=SIGNATURE_BYTES)
    if fields:
        raise DecodeError(f"envelope has an unknown field {sorted(fields)[0]!r}")
    return payload, signature


def _split_layout(data: bytes) -> tuple[bytes, bytes] | None:
    """Return (payload, signature) if ``data`` is exactly the one deterministic layout, else None."""
    end = len(data) - len(_TAIL) - SIGNATURE_BYTES
    if not data.startswith(_HEAD) or data[end : end + len(_TAIL)] != _TAIL:
        return None
    for head_bytes in (1, 2, 3, 5):
        start = len(_HEAD) + head_bytes
        if start <= end and data[len(_HEAD) : start] == _byte_string_head(end - start):
            return data[start:end], data[end + len(_TAIL) :]
    return None


def _byte_string_head(length: int) -> bytes:
    """Return the shortest CBOR head of a byte string (RFC 8949 §3, major type 2)."""
    if length < 24:
        return bytes((0x40 | length,))
    if length < 1 << 8:
        return b"\x58" + length.to_bytes(1, "big")
    if length < 1 << 16:
        return b"\x59" + length.to_bytes(2, "big")
    return b"\x5a" + length.to_bytes(4, "big")


def open_envelope(
    domain: bytes, data: bytes, public: bytes, *, max_bytes: int = LIMITS.max_envelope_bytes
) -> bytes:
    """Return the payload of an envelope after verifying its signature by ``public`` (32 bytes, Ed25519).

    Raises:
        DecodeError: not an envelope.
        VerificationError: the signature is not ``public``'s over this domain and payload.
    """
    _check_domain(domain)
    payload, signature = split(data, max_bytes=max_bytes)
    verify(domain, payload, signature, public)
    return payload


def verify(domain: bytes, payload: bytes, signature: bytes, public: bytes) -> None:
    """Check a detached signature.

    Raises:
        VerificationError: the signature does not verify.
    """
    try:
        VerifyKey(public).verify(domain + payload, signature)
    except (BadSignatureError, ValueError, TypeError):
        purpose = domain.rstrip(b"\0").decode("ascii")
        raise VerificationError(f"signature does not verify for purpose {purpose}") from None


def open_by_any(
    domain: bytes, data: bytes, publics: Sequence[bytes], *, max_bytes: int = LIMITS.max_envelope_bytes
) -> bytes:
    """Return the payload of an envelope that one of ``publics`` signed; the likeliest key comes first.

    Raises:
        DecodeError: not an envelope.
        VerificationError: the signature is none of theirs over this domain and payload.
    """
    _check_domain(domain)
    payload, signature = split(data, max_bytes=max_bytes)
    for public in publics[:-1]:
        try:
            verify(domain, payload, signature, public)
        except VerificationError:
            continue
        return payload
    if not publics:
        raise ValueError("an envelope is verified by at least one key")
    verify(domain, payload, signature, publics[-1])
    return payload


def _check_domain(domain: bytes) -> None:
    if not domain.endswith(b"\0") or b"\0" in domain[:-1] or len(domain) < 2:
        raise ValueError("a signature domain is a non-empty text ended by one NUL")
