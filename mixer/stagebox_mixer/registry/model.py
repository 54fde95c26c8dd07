"""Registry entries and their stored form. Pure.

Entries are deterministic CBOR maps with a version; unknown fields are kept. Secrets and tokens are stored as
hashes only: both are random with 160 bits or more, so a plain fast hash keeps them safe.
"""

from __future__ import annotations

import enum
import hmac
from dataclasses import dataclass, field
from typing import Any, TypeVar

from blake3 import blake3

from stagebox import cbor
from stagebox.errors import DecodeError
from stagebox.passport import PassportStatus

VERSION = 1
_MAX_ENTRY_BYTES = 64 << 10
_E = TypeVar("_E", bound=enum.StrEnum)


def secret_hash(secret: str) -> bytes:
    """Return what is stored of a passport secret (BLAKE3-256 with its own context)."""
    return blake3(secret.encode("utf-8"), derive_key_context="stagebox.passport_secret.v1").digest()


def token_hash(token: str) -> str:
    """Return the key under which an enrollment token is stored (hex of BLAKE3-256 with its own context)."""
    return blake3(token.encode("utf-8"), derive_key_context="stagebox.enrollment_token.v1").hexdigest()


def secret_matches(stored: bytes, given: str) -> bool:
    """Compare in constant time; an empty secret never matches."""
    return bool(given) and hmac.compare_digest(stored, secret_hash(given))


@dataclass(frozen=True)
class RackEntry:
    """One rack. Times are ns since the Unix epoch; ``rack_public`` is the raw Ed25519 key."""

    name: str
    tenant: str
    machine_id: int
    rack_public: bytes
    status: PassportStatus
    serial: int
    secret_hash: bytes = field(repr=False)
    certificate: str
    certificate_not_after: int
    enrolled_at: int
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the stored form."""
        return cbor.encode(
            {
                **self.extra,
                "v": VERSION,
                "name": self.name,
                "tenant": self.tenant,
                "machine_id": self.machine_id,
                "rack_public": self.rack_public,
                "status": self.status.value,
                "serial": self.serial,
                "secret_hash": self.secret_hash,
                "certificate": self.certificate,
                "certificate_not_after": self.certificate_not_after,
                "enrolled_at": self.enrolled_at,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> RackEntry:
        """Parse the stored form.

        Raises:
            DecodeError: malformed or of an unknown version.
        """
        what = "registry entry"
        fields = _open(data, what)
        return cls(
            name=cbor.take(fields, "name", str, what),
            tenant=cbor.take(fields, "tenant", str, what),
            machine_id=cbor.take_uint(fields, "machine_id", what),
            rack_public=cbor.take_bytes(fields, "rack_public", what, length=32),
            status=_enum(PassportStatus, fields, "status", what),
            serial=cbor.take_uint(fields, "serial", what),
            secret_hash=cbor.take_bytes(fields, "secret_hash", what, length=32),
            certificate=cbor.take(fields, "certificate", str, what),
            certificate_not_after=cbor.take_uint(fields, "certificate_not_after", what),
            enrolled_at=cbor.take_uint(fields, "enrolled_at", what),
            extra=fields,
        )


class TokenState(enum.StrEnum):
    """The life of a one-time token."""

    ISSUED = "issued"
    USED = "used"


@dataclass(frozen=True)
class TokenEntry:
    """One enrollment token; ``machine_id`` 0 means any machine, ``used_by`` is empty until it is used."""

    rack: str
    tenant: str
    machine_id: int
    state: TokenState
    expires_at: int
    created_at: int
    created_by: str
    used_by: bytes = b""
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the stored form."""
        return cbor.encode(
            {
                **self.extra,
                "v": VERSION,
                "rack": self.rack,
                "tenant": self.tenant,
                "machine_id": self.machine_id,
                "state": self.state.value,
                "expires_at": self.expires_at,
                "created_at": self.created_at,
                "created_by": self.created_by,
                "used_by": self.used_by,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> TokenEntry:
        """Parse the stored form.

        Raises:
            DecodeError: malformed or of an unknown version.
        """
        what = "token entry"
        fields = _open(data, what)
        return cls(
            rack=cbor.take(fields, "rack", str, what),
            tenant=cbor.take(fields, "tenant", str, what),
            machine_id=cbor.take_uint(fields, "machine_id", what),
            state=_enum(TokenState, fields, "state", what),
            expires_at=cbor.take_uint(fields, "expires_at", what),
            created_at=cbor.take_uint(fields, "created_at", what),
            created_by=cbor.take(fields, "created_by", str, what),
            used_by=cbor.take_bytes(fields, "used_by", what),
            extra=fields,
        )


def _open(data: bytes, what: str) -> dict[str, Any]:
    fields = cbor.expect_map(cbor.decode(data, max_bytes=_MAX_ENTRY_BYTES), what)
    version = cbor.take_uint(fields, "v", what)
    if version != VERSION:
        raise DecodeError(f"{what} has version {version}, this mixer understands {VERSION}")
    return fields


def _enum(kind: type[_E], fields: dict[str, Any], name: str, what: str) -> _E:
    value = cbor.take(fields, name, str, what)
    try:
        return kind(value)
    except ValueError:
        raise DecodeError(f"{what} has an unknown {name} {value!r}") from None
