"""The passport (``state.flux``): the signed CBOR envelope that is a rack's identity.

It is verified against the cluster key pinned at enrollment, never against the one it embeds; it is bound to
one machine and one cluster. Unknown fields are kept, unknown versions refused. Byte layout and vectors:
docs/reference/passport.md.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.errors import DecodeError, InputError, PassportError, VerificationError
from stagebox.identity import RackId, check_name
from stagebox.limits import LIMITS

VERSION = 1


class PassportStatus(enum.StrEnum):
    """What the cluster allows this rack to do."""

    PENDING = "pending"
    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True)
class Passport:
    """The payload of ``state.flux``. Times are ns since the Unix epoch; keys are raw Ed25519 (32 bytes)."""

    cluster_id: str
    machine_id: int
    name: str
    tenant: str
    status: PassportStatus
    secret: str = field(repr=False)
    cluster_public: bytes
    rack_public: bytes
    serial: int
    issued_at: int
    not_after: int
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def rack_id(self) -> RackId:
        """The SPIFFE identity this passport speaks of."""
        return RackId(self.cluster_id, self.tenant, self.name)

    def encode(self) -> bytes:
        """Return the deterministic CBOR payload."""
        return cbor.encode(
            {
                **self.extra,
                "Version": VERSION,
                "ClusterID": self.cluster_id,
                "machine_id": self.machine_id,
                "Name": self.name,
                "Tenant": self.tenant,
                "Status": self.status.value,
                "Secret": self.secret,
                "ClusterPublic": self.cluster_public,
                "RackPublic": self.rack_public,
                "Serial": self.serial,
                "IssuedAt": self.issued_at,
                "NotAfter": self.not_after,
            }
        )


def issue(passport: Passport, authority: SigningKey) -> bytes:
    """Return the signed ``state.flux`` bytes."""
    return envelope.seal(envelope.DOMAIN_PASSPORT, passport.encode(), authority)


def decode(payload: bytes) -> Passport:
    """Decode a payload whose signature has been verified.

    Raises:
        PassportError: unknown version, a missing or malformed field.
    """
    try:
        fields = cbor.expect_map(
            cbor.decode_canonical(payload, max_bytes=LIMITS.max_passport_bytes), "passport"
        )
        version = cbor.take_uint(fields, "Version", "passport")
        if version != VERSION:
            raise PassportError(
                f"the passport has version {version}, this software understands {VERSION}",
                remedy="upgrade stagebox on this rack, or enroll it again",
            )
        return Passport(
            cluster_id=check_name("cluster", cbor.take(fields, "ClusterID", str, "passport")),
            machine_id=cbor.take_uint(fields, "machine_id", "passport"),
            name=check_name("rack", cbor.take(fields, "Name", str, "passport")),
            tenant=check_name("tenant", cbor.take(fields, "Tenant", str, "passport")),
            status=PassportStatus(cbor.take(fields, "Status", str, "passport")),
            secret=cbor.take(fields, "Secret", str, "passport"),
            cluster_public=cbor.take_bytes(fields, "ClusterPublic", "passport", length=32),
            rack_public=cbor.take_bytes(fields, "RackPublic", "passport", length=32),
            serial=cbor.take_uint(fields, "Serial", "passport"),
            issued_at=cbor.take_uint(fields, "IssuedAt", "passport"),
            not_after=cbor.take_uint(fields, "NotAfter", "passport"),
            extra=fields,
        )
    except (DecodeError, InputError) as error:
        raise PassportError(f"the passport is malformed: {error.message}") from None
    except ValueError:
        raise PassportError("the passport has an unknown Status") from None


def verify(data: bytes, pinned_cluster: bytes) -> Passport:
    """Verify ``state.flux`` against the pinned cluster key and return the passport.

    Raises:
        PassportError: not an envelope, not signed by the pinned cluster, or malformed.
    """
    try:
        payload = envelope.open_envelope(
            envelope.DOMAIN_PASSPORT, data, pinned_cluster, max_bytes=LIMITS.max_passport_bytes
        )
    except DecodeError as error:
        raise PassportError(
            f"the passport is damaged: {error.message}",
            remedy="restore state.flux from a backup of this rack, or enroll it again",
        ) from None
    except VerificationError:
        raise PassportError(
            "the passport is not signed by the pinned cluster: altered, or of another cluster",
            remedy="restore state.flux, or enroll this rack with its own cluster",
        ) from None
    passport = decode(payload)
    if passport.cluster_public != pinned_cluster:
        raise PassportError(
            "the passport embeds another cluster key than the pinned one", remedy="enroll this rack again"
        )
    return passport


def check_binding(passport: Passport, *, machine_id: int, rack_public: bytes) -> None:
    """Demand that the passport belongs to this machine and this identity key.

    Raises:
        PassportError: a copied disk or a foreign key.
    """
    if passport.machine_id != machine_id:
        raise PassportError(
            f"the passport of rack {passport.name!r} belongs to another machine "
            f"({passport.machine_id:016x}, this is {machine_id:016x})",
            remedy="a copied disk does not start elsewhere: enroll this machine with its own token",
        )
    if passport.rack_public != rack_public:
        raise PassportError(
            f"the passport of rack {passport.name!r} was issued for another identity key",
            remedy="restore identity.key and state.flux from the same backup, or enroll again",
        )


def read(path: Path, pinned_cluster: bytes) -> Passport:
    """Read and verify a passport file.

    Raises:
        PassportError: missing, unreadable, oversized or not verified.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(LIMITS.max_passport_bytes + 1)
    except FileNotFoundError:
        raise PassportError(
            f"there is no passport {path}", remedy="enroll this rack: stagebox admin enroll --help"
        ) from None
    except OSError as error:
        raise PassportError(f"cannot read the passport {path}: {error.strerror}") from None
    return verify(data, pinned_cluster)
