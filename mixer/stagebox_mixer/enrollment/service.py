"""Enrollment with its I/O: redeem a token, sign a certificate, register the rack, issue its passport.

Order of writes: the token is marked used (compare-and-set), the audit row is written, the registry entry is
written, then the answer goes out. A crash or a lost reply in between is repaired by the same key coming again
with the same token: it gets a new certificate and a passport with a higher serial and a new secret.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stagebox import passport as passports
from stagebox.certificates import root_pin
from stagebox.control.denylist import DenyList
from stagebox.control.fields import DIGEST_BYTES
from stagebox.errors import PassportError
from stagebox.identity import DEFAULT_TENANT, RackId, check_name
from stagebox.passport import PassportStatus
from stagebox_keys.ca import csr_key, parse_csr
from stagebox_keys.mixer_keys import MixerKeys
from stagebox_mixer.audit import Row
from stagebox_mixer.enrollment.machine import EnrollmentRefused, redeem
from stagebox_mixer.enrollment.shared_token import SharedToken
from stagebox_mixer.enrollment.tokens import ListedToken, Tokens
from stagebox_mixer.lifecycle import machine
from stagebox_mixer.lifecycle.audited import AuditedRacks, AuditLog, Change, RackRegistry
from stagebox_mixer.lifecycle.desk import Denials
from stagebox_mixer.lifecycle.issuing import Issuer
from stagebox_mixer.lifecycle.machine import Candidate, Terms
from stagebox_mixer.lifecycle.refusals import LifecycleRefused, check_not_denied
from stagebox_mixer.registry.model import PendingIssue, RackEntry, token_hash
from stagebox_mixer.registry.store import Conflict


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
    """What ``admin token create`` prints once; ``id`` names the token in lists."""

    id: str
    token: str
    rack: str
    expires_at: int
    ca_pin: str


@dataclass(frozen=True)
class _Allowed:
    """Under which name and tenant a key may enroll; ``reason`` goes to the audit."""

    rack: str
    tenant: str
    reason: str


class EnrollmentService:
    """Makes tokens and redeems them. ``clock`` gives ns since the Unix epoch, ``entropy`` random bytes."""

    def __init__(
        self,
        *,
        keys: MixerKeys,
        registry: RackRegistry,
        audit: AuditLog,
        denials: Denials,
        auto_approve: bool,
        terms: Terms | None = None,
        shared_token: SharedToken | None = None,
        clock: Callable[[], int] = time.time_ns,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._keys = keys
        self._registry = registry
        self._racks = AuditedRacks(registry.racks, audit)
        self._tokens = Tokens(registry.tokens, audit, clock)
        self._audit = audit
        self._denials = denials
        self._auto_approve = auto_approve
        self._terms = terms if terms is not None else Terms()
        self._issuer = Issuer(keys, certificate_days=self._terms.certificate_days)
        self._shared = shared_token
        self._clock = clock
        self._entropy = entropy

    @property
    def ca_pin(self) -> str:
        """The pin a rack compares before it trusts this mixer."""
        return root_pin(self._keys.issuing.root)

    async def create_token(self, *, rack: str, ttl_s: int, machine_id: int, actor: str) -> NewToken:
        """Make a one-time token for one rack; only its hash is stored.

        Raises:
            InputError: illegal name or lifetime. LifecycleRefused: the rack or machine is denied.
            BusError: the registry cannot be written.
        """
        made = await self._tokens.create(
            rack=rack, ttl_s=ttl_s, machine_id=machine_id, actor=actor, bans=await self._denials.read()
        )
        return NewToken(made.id, made.token, rack, made.entry.expires_at, self.ca_pin)

    async def list_tokens(self) -> list[ListedToken]:
        """Return every stored token, the newest first.

        Raises:
            BusError: the registry cannot be read.
        """
        return await self._tokens.all()

    async def revoke_token(self, token_id: str, *, actor: str) -> ListedToken:
        """Make sure that a token cannot be used (again); it may be revoked twice.

        Raises:
            InputError: there is no such token. BusError: the registry cannot be used.
        """
        return await self._tokens.revoke(token_id, actor=actor)

    async def enroll(
        self,
        *,
        token: str,
        csr_pem: bytes,
        machine_id: int,
        expected_rack: str | None,
        host: str,
        held: bytes = b"",
    ) -> EnrollmentAnswer:
        """Redeem ``token`` for the key in ``csr_pem``; ``held`` is the passport the rack has, if any.

        A held passport of this rack that is newer than the registry shows that the registry is an older copy: the
        new one gets a higher serial than that, or the rack would refuse it.

        Raises:
            EnrollmentRefused: the token does not allow it, or the rack is denied (audited).
            InputError, VerificationError: a bad CSR.
            BusError: the registry cannot be read or written; nothing was promised.
        """
        csr = parse_csr(csr_pem)
        rack_public = csr_key(csr).public_bytes_raw()
        if expected_rack is not None:
            check_name("rack", expected_rack)
        bans = await self._denials.read()
        try:
            if self._shared is not None and self._shared.is_it(token):
                allowed = await self._redeem_shared(
                    self._shared, bans, rack_public, machine_id, expected_rack
                )
            else:
                allowed = await self._redeem(token, bans, rack_public, machine_id, expected_rack)
            return await self._register(csr, bans, rack_public, machine_id, allowed, host, held)
        except EnrollmentRefused as refusal:
            self._audit.refused(
                Row(host, "enroll", expected_rack or "unknown", "refused", refusal.code, {"host": host})
            )
            raise

    async def _redeem(
        self, token: str, bans: DenyList, rack_public: bytes, machine_id: int, expected_rack: str | None
    ) -> _Allowed:
        key = token_hash(token)
        while True:
            stored = await self._registry.tokens.get(key)
            redemption = redeem(
                stored.entry if stored is not None else None,
                rack_public=rack_public,
                machine_id=machine_id,
                expected_rack=expected_rack,
                now_ns=self._clock(),
            )
            _check_not_denied(bans, redemption.entry.rack, machine_id)
            allowed = _Allowed(
                redemption.entry.rack, redemption.entry.tenant, "repeated" if redemption.repeated else ""
            )
            if redemption.repeated or stored is None:
                return allowed
            try:
                await self._registry.tokens.put(key, redemption.entry, revision=stored.revision)
            except Conflict:
                continue  # another request used it first: decide again on what it wrote
            return allowed

    async def _redeem_shared(
        self,
        shared: SharedToken,
        bans: DenyList,
        rack_public: bytes,
        machine_id: int,
        expected_rack: str | None,
    ) -> _Allowed:
        entry = await self._racks.get(expected_rack) if expected_rack is not None else None
        name = shared.check(expected_rack, entry, rack_public)
        _check_not_denied(bans, name, machine_id)
        return _Allowed(name, DEFAULT_TENANT, "shared_token")

    async def _register(
        self,
        csr: x509.CertificateSigningRequest,
        bans: DenyList,
        rack_public: bytes,
        machine_id: int,
        allowed: _Allowed,
        host: str,
        held: bytes,
    ) -> EnrollmentAnswer:
        now_ns = self._clock()
        rack = RackId(self._keys.cluster.name, allowed.tenant, allowed.rack)
        floor = self._serial_of(held, rack)
        certificate = self._issuer.certify(csr, rack, now_ns=now_ns)
        candidate = Candidate(rack.name, rack.tenant, machine_id, rack_public, certificate)
        request = self._entropy(DIGEST_BYTES)
        issues: list[PendingIssue] = []

        def decide(entry: RackEntry | None) -> Change:
            if allowed.reason == "shared_token" and self._shared is not None:
                self._shared.check(rack.name, entry, rack_public)
            if entry is not None and machine.is_same(entry, candidate):
                _check_not_denied(bans, rack.name, machine_id, entry)
            after, issue = machine.enroll(
                entry, candidate, auto_approve=self._auto_approve, request=request,
                secret_of=self._issuer.secret_of, terms=self._terms, now_ns=now_ns, floor=floor,
            )  # fmt: skip
            issues[:] = [issue]
            facts = _facts(entry, issue)
            if floor > (entry.highest_serial if entry is not None else 0):
                facts["held"] = floor
            return Change(after, Row(host, "enroll", rack.name, "ok", allowed.reason, facts))

        entry = await self._racks.change(rack.name, decide)
        return self._answer(entry, issues[0], certificate.der)

    def _serial_of(self, held: bytes, rack: RackId) -> int:
        """Return the serial of a held passport, 0 if it is none that this cluster signed for this rack."""
        if not held:
            return 0
        try:
            passport = passports.verify(held, self._keys.authority.public)
        except PassportError:
            return 0
        return passport.serial if passport.rack_id == rack else 0

    def _answer(self, entry: RackEntry, issue: PendingIssue, leaf_der: bytes) -> EnrollmentAnswer:
        return EnrollmentAnswer(
            rack=entry.name,
            status=entry.status,
            certificate_pem=x509.load_der_x509_certificate(leaf_der).public_bytes(Encoding.PEM),
            chain_pem=self._keys.issuing.chain_pem,
            roots_pem=self._keys.issuing.root_pem,
            passport=self._issuer.passport(entry, issue),
            cluster_public=self._keys.authority.public,
        )


def _check_not_denied(bans: DenyList, rack: str, machine_id: int, entry: RackEntry | None = None) -> None:
    """Refuse a banned name or machine, and what is registered for ``entry``; an identity to be replaced is not."""
    try:
        check_not_denied(bans, rack, entry, machine_id=machine_id)
    except LifecycleRefused as refusal:
        raise EnrollmentRefused(refusal.code, refusal.message, refusal.remedy or "") from None


def _facts(before: RackEntry | None, issue: PendingIssue) -> dict[str, str | int]:
    replaced = before is not None and before.rack_public != issue.rack_public
    return {
        "serial": issue.serial,
        "certificate": issue.certificate,
        "key": issue.rack_public.hex(),
        "replaced_key": before.rack_public.hex() if before is not None and replaced else "",
    }
