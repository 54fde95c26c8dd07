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
class PendingIssue:
    """An identity issued to a rack that has not connected with it yet; until it does, the one before it holds too.

    ``request`` (32 bytes) is what it was issued for: the digest of the rack's request, or random. The passport's
    secret is derived from it, so the same answer can be given again without storing the secret. ``certificate_der``
    is empty where the rack keeps the certificate it has.
    """

    rack_public: bytes
    secret_hash: bytes = field(repr=False)
    serial: int
    issued_at: int
    passport_not_after: int
    certificate: str
    certificate_der: bytes
    certificate_not_after: int
    request: bytes

    def fields(self) -> dict[str, Any]:
        """Return the stored form."""
        return {
            "rack_public": self.rack_public,
            "secret_hash": self.secret_hash,
            "serial": self.serial,
            "issued_at": self.issued_at,
            "passport_not_after": self.passport_not_after,
            "certificate": self.certificate,
            "certificate_der": self.certificate_der,
            "certificate_not_after": self.certificate_not_after,
            "request": self.request,
        }

    @classmethod
    def from_fields(cls, raw: dict[str, Any]) -> PendingIssue:
        """Parse the stored form.

        Raises:
            DecodeError: malformed.
        """
        what, fields = "pending issue", dict(raw)
        return cls(
            rack_public=cbor.take_bytes(fields, "rack_public", what, length=32),
            secret_hash=cbor.take_bytes(fields, "secret_hash", what, length=32),
            serial=cbor.take_uint(fields, "serial", what),
            issued_at=cbor.take_uint(fields, "issued_at", what),
            passport_not_after=cbor.take_uint(fields, "passport_not_after", what),
            certificate=cbor.take(fields, "certificate", str, what),
            certificate_der=cbor.take_bytes(fields, "certificate_der", what),
            certificate_not_after=cbor.take_uint(fields, "certificate_not_after", what),
            request=cbor.take_bytes(fields, "request", what, length=32),
        )


@dataclass(frozen=True)
class RackEntry:
    """One rack. Times are ns since the Unix epoch; ``rack_public`` is the raw Ed25519 key.

    The flat fields are the identity it last proved; ``pending`` the one issued after it. ``last_serial`` is the
    highest passport serial ever issued under this name and ``command_seq`` the highest command sequence; neither
    ever goes back, not even when the rack is removed (``removed_at`` is not 0) and enrolled anew.
    ``earlier_keys`` signed journal batches that may still be on their way. ``grace_uses`` counts renewals after
    the certificate's end since the last one in time, ``renewed_at`` the time of the last renewal the rack asked
    for. ``problem`` is what the rack says hinders its renewal.
    """

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
    passport_not_after: int = 0
    last_serial: int = 0
    pending: PendingIssue | None = None
    earlier_keys: tuple[bytes, ...] = ()
    command_seq: int = 0
    grace_uses: int = 0
    renewed_at: int = 0
    removed_at: int = 0
    renewal: str = "mixer"
    problem: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def highest_serial(self) -> int:
        """The highest serial issued; entries from before ``last_serial`` was kept have only ``serial``."""
        return max(self.serial, self.last_serial)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Every key that may have signed a journal batch of this rack, the current one first."""
        waiting = (self.pending.rack_public,) if self.pending is not None else ()
        return tuple(dict.fromkeys((self.rack_public, *waiting, *self.earlier_keys)))

    def encode(self) -> bytes:
        """Return the stored form."""
        return cbor.encode(
            {
                **self.extra,
                "v": VERSION,
                "passport_not_after": self.passport_not_after,
                "last_serial": self.last_serial,
                "pending": self.pending.fields() if self.pending is not None else None,
                "earlier_keys": list(self.earlier_keys),
                "command_seq": self.command_seq,
                "grace_uses": self.grace_uses,
                "renewed_at": self.renewed_at,
                "removed_at": self.removed_at,
                "renewal": self.renewal,
                "problem": self.problem,
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
            **_later_fields(fields, what),
            extra=fields,
        )


class TokenState(enum.StrEnum):
    """The life of a one-time token."""

    ISSUED = "issued"
    USED = "used"
    REVOKED = "revoked"


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


def _later_fields(fields: dict[str, Any], what: str) -> dict[str, Any]:
    """Take the fields that entries of the first release lack; what is there must be well-formed."""
    found: dict[str, Any] = {}
    for name in (
        "passport_not_after",
        "last_serial",
        "command_seq",
        "grace_uses",
        "renewed_at",
        "removed_at",
    ):
        if name in fields:
            found[name] = cbor.take_uint(fields, name, what)
    for name in ("renewal", "problem"):
        if name in fields:
            found[name] = cbor.take(fields, name, str, what)
    pending = fields.pop("pending", None)
    if pending is not None:
        found["pending"] = PendingIssue.from_fields(cbor.expect_map(pending, what))
    keys = fields.pop("earlier_keys", [])
    if not isinstance(keys, list) or not all(type(key) is bytes and len(key) == 32 for key in keys):
        raise DecodeError(f"{what} field 'earlier_keys' is not a list of keys")
    found["earlier_keys"] = tuple(keys)
    return found


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
