"""Enrollment with its I/O: redeem a token, sign a certificate, register the rack, issue its passport.

Order of writes: the token is marked used (compare-and-set), the audit row is written, the registry entry is
written, then the answer goes out. A crash or a lost reply in between is repaired by the same key coming again
with the same token: it gets a new certificate and a passport with a higher serial and a new secret.
"""

from __future__ import annotations

import datetime
import secrets
import time
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.serialization import Encoding

from stagebox.certificates import fingerprint, root_pin
from stagebox.envelope import DOMAIN_PASSPORT
from stagebox.errors import InputError
from stagebox.identity import DEFAULT_TENANT, RackId, check_name
from stagebox.passport import Passport, PassportStatus
from stagebox_keys.ca import csr_key, parse_csr
from stagebox_keys.mixer_keys import MixerKeys
from stagebox_mixer.audit import Audit, Row
from stagebox_mixer.enrollment.machine import EnrollmentRefused, Redemption, redeem
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import RackEntry, TokenEntry, TokenState, secret_hash, token_hash
from stagebox_mixer.registry.store import Conflict, Registry, Stored

_NS = 1_000_000_000
_DAY_NS = 24 * 3600 * _NS


@dataclass(frozen=True)
class EnrollmentAnswer:
    """What the rack stores."""

    rack: str
    status: PassportStatus
    certificate_pem: bytes
    chain_pem: bytes
    roots_pem: bytes
    passport: bytes
    cluster_public: bytes


@dataclass(frozen=True)
class NewToken:
    """What ``admin token create`` prints once."""

    token: str
    rack: str
    expires_at: int
    ca_pin: str


class EnrollmentService:
    """Makes tokens and redeems them."""

    def __init__(
        self,
        *,
        keys: MixerKeys,
        registry: Registry,
        audit: Audit,
        auto_approve: bool,
        certificate_days: int = LIMITS.rack_certificate_days,
    ) -> None:
        self._keys = keys
        self._registry = registry
        self._audit = audit
        self._auto_approve = auto_approve
        self._certificate_days = certificate_days

    @property
    def ca_pin(self) -> str:
        """The pin a rack compares before it trusts this mixer."""
        return root_pin(self._keys.issuing.root)

    async def create_token(self, *, rack: str, ttl_s: int, machine_id: int, actor: str) -> NewToken:
        """Make a one-time token for one rack; only its hash is stored.

        Raises:
            InputError: illegal name or lifetime. BusError: the registry cannot be written.
        """
        check_name("rack", rack)
        if not 1 <= ttl_s <= LIMITS.token_max_ttl_s:
            raise InputError(
                f"a token lifetime of {ttl_s} s is not between 1 s and {LIMITS.token_max_ttl_s // 3600} h",
                remedy="use --ttl, for example --ttl 15m",
            )
        token = "sbt-" + secrets.token_urlsafe(24)
        now = time.time_ns()
        entry = TokenEntry(
            rack=rack,
            tenant=DEFAULT_TENANT,
            machine_id=machine_id,
            state=TokenState.ISSUED,
            expires_at=now + ttl_s * _NS,
            created_at=now,
            created_by=actor,
        )
        await self._audit.record(Row(actor, "token_create", rack, "ok", detail={"ttl_s": ttl_s}))
        await self._registry.tokens.put(token_hash(token), entry, revision=None)
        return NewToken(token, rack, entry.expires_at, self.ca_pin)

    async def enroll(
        self, *, token: str, csr_pem: bytes, machine_id: int, expected_rack: str | None, host: str
    ) -> EnrollmentAnswer:
        """Redeem ``token`` for the key in ``csr_pem``.

        Raises:
            EnrollmentRefused: the token does not allow it (audited). InputError, VerificationError: a bad CSR.
            BusError: the registry cannot be read or written; nothing was promised.
        """
        csr = parse_csr(csr_pem)
        rack_public = csr_key(csr).public_bytes_raw()
        try:
            redemption = await self._redeem(token, rack_public, machine_id, expected_rack)
        except EnrollmentRefused as refusal:
            self._audit.refused(
                Row(host, "enroll", expected_rack or "unknown", "refused", refusal.code, {"host": host})
            )
            raise
        rack_id = RackId(self._keys.cluster.name, redemption.entry.tenant, redemption.entry.rack)
        now = datetime.datetime.now(datetime.UTC)
        leaf = self._keys.issuing.sign_rack(csr, rack_id, now=now, days=self._certificate_days)
        return await self._register(
            rack_id, rack_public, machine_id, leaf_pem=leaf.public_bytes(Encoding.PEM),
            fingerprint=fingerprint(leaf), not_after=_ns(leaf.not_valid_after_utc),
            repeated=redemption.repeated, host=host,
        )  # fmt: skip

    async def approve(self, name: str, *, actor: str) -> RackEntry:
        """Let a pending rack in; it fetches its active passport by enrolling again with the same token.

        Raises:
            InputError: no such rack, or it is not pending.
        """
        stored = await self._registry.racks.get(check_name("rack", name))
        if stored is None:
            raise InputError(f"no rack {name!r} is registered", remedy="stagebox admin racks list")
        if stored.entry.status is not PassportStatus.PENDING:
            raise InputError(f"rack {name!r} is {stored.entry.status.value}, not pending")
        await self._audit.record(Row(actor, "approve", name, "ok"))
        entry = replace(stored.entry, status=PassportStatus.ACTIVE)
        await self._registry.racks.put(name, entry, revision=stored.revision)
        return entry

    async def _redeem(
        self, token: str, rack_public: bytes, machine_id: int, expected_rack: str | None
    ) -> Redemption:
        key = token_hash(token)
        while True:
            stored = await self._registry.tokens.get(key)
            redemption = redeem(
                stored.entry if stored is not None else None,
                rack_public=rack_public,
                machine_id=machine_id,
                expected_rack=expected_rack,
                now_ns=time.time_ns(),
            )
            if redemption.repeated or stored is None:
                return redemption
            try:
                await self._registry.tokens.put(key, redemption.entry, revision=stored.revision)
            except Conflict:
                continue  # another request used it first: decide again on what it wrote
            return redemption

    async def _register(
        self,
        rack_id: RackId,
        rack_public: bytes,
        machine_id: int,
        *,
        leaf_pem: bytes,
        fingerprint: str,
        not_after: int,
        repeated: bool,
        host: str,
    ) -> EnrollmentAnswer:
        while True:
            stored = await self._registry.racks.get(rack_id.name)
            now = time.time_ns()
            issued = Passport(
                cluster_id=rack_id.cluster,
                machine_id=machine_id,
                name=rack_id.name,
                tenant=rack_id.tenant,
                status=self._status(stored, rack_public),
                secret=secrets.token_urlsafe(32),
                cluster_public=self._keys.authority.public,
                rack_public=rack_public,
                serial=1 if stored is None else stored.entry.serial + 1,
                issued_at=now,
                not_after=now + LIMITS.passport_days * _DAY_NS,
            )
            entry = RackEntry(
                name=rack_id.name,
                tenant=rack_id.tenant,
                machine_id=machine_id,
                rack_public=rack_public,
                status=issued.status,
                serial=issued.serial,
                secret_hash=secret_hash(issued.secret),
                certificate=fingerprint,
                certificate_not_after=not_after,
                enrolled_at=now,
                extra={} if stored is None else stored.entry.extra,
            )
            await self._audit.record(
                Row(host, "enroll", rack_id.name, "ok", "repeated" if repeated else "", _facts(stored, entry))
            )
            try:
                await self._registry.racks.put(
                    rack_id.name, entry, revision=None if stored is None else stored.revision
                )
            except Conflict:
                continue
            return self._answer(issued, leaf_pem)

    def _status(self, stored: Stored[RackEntry] | None, rack_public: bytes) -> PassportStatus:
        if stored is not None and stored.entry.status is PassportStatus.SUSPENDED:
            return PassportStatus.SUSPENDED  # a token gives an identity, it does not lift a suspension
        if self._auto_approve:
            return PassportStatus.ACTIVE
        if stored is not None and stored.entry.rack_public == rack_public:
            return stored.entry.status
        return PassportStatus.PENDING

    def _answer(self, issued: Passport, leaf_pem: bytes) -> EnrollmentAnswer:
        return EnrollmentAnswer(
            rack=issued.name,
            status=issued.status,
            certificate_pem=leaf_pem,
            chain_pem=self._keys.issuing.chain_pem,
            roots_pem=self._keys.issuing.root_pem,
            passport=self._keys.authority.seal(DOMAIN_PASSPORT, issued.encode()),
            cluster_public=self._keys.authority.public,
        )


def _facts(stored: Stored[RackEntry] | None, entry: RackEntry) -> dict[str, str | int]:
    replaced = stored is not None and stored.entry.rack_public != entry.rack_public
    return {
        "serial": entry.serial,
        "certificate": entry.certificate,
        "key": entry.rack_public.hex(),
        "replaced_key": stored.entry.rack_public.hex() if stored is not None and replaced else "",
    }


def _ns(moment: datetime.datetime) -> int:
    return int(moment.timestamp()) * _NS
