"""A mixer's lifecycle services on memory with a clock of the test's own, and a rack's side of them."""

from __future__ import annotations

import datetime
import secrets
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from stagebox import passport as passports
from stagebox.certificates import build_csr, fingerprint, parse_pem, to_der
from stagebox.control.renewal import Renewal, RenewalRequest
from stagebox.control.request import Answer, Request, Verb, open_answer
from stagebox.keyfiles import signing_key
from stagebox.passport import Passport
from stagebox_keys.mixer_keys import MixerKeys
from stagebox_mixer.enrollment.service import EnrollmentAnswer, EnrollmentService
from stagebox_mixer.enrollment.shared_token import SharedToken
from stagebox_mixer.lifecycle.machine import Terms
from stagebox_mixer.lifecycle.service import LifecycleService
from stagebox_mixer.registry.model import RackEntry
from support.mixer_memory import MemoryAudit, MemoryDenials, MemoryRegistry, run_now

NS = 1_000_000_000
DAY_NS = 24 * 3600 * NS
ADMIN = "spiffe://flux-test/client/admin/test-admin"


@dataclass
class Clock:
    """Time that passes when told to, and by 1 ns at every look, so that no two events have the same time."""

    now_ns: int = field(default_factory=lambda: int(datetime.datetime.now(datetime.UTC).timestamp()) * NS)

    def __call__(self) -> int:
        """Return the time in ns."""
        self.now_ns += 1
        return self.now_ns

    def after(self, *, days: float = 0, seconds: float = 0) -> None:
        """Let time pass."""
        self.now_ns += int((days * 86400 + seconds) * NS)


class LifecycleBench:
    """Both services over one memory."""

    def __init__(
        self,
        keys: MixerKeys,
        *,
        auto_approve: bool = True,
        terms: Terms | None = None,
        shared_token: SharedToken | None = None,
    ) -> None:
        self.keys = keys
        self.clock = Clock()
        self.registry = MemoryRegistry()
        self.audit = MemoryAudit()
        self.denials = MemoryDenials(keys.cluster.name, keys.authority)
        self.terms = terms if terms is not None else Terms()
        common: dict[str, Any] = {
            "keys": keys, "registry": self.registry, "audit": self.audit, "denials": self.denials,
            "terms": self.terms, "clock": self.clock,
        }  # fmt: skip
        self.service = LifecycleService(**common)
        self.enrollment = EnrollmentService(**common, auto_approve=auto_approve, shared_token=shared_token)
        self.delivered: list[str] = []
        self.changed: list[str] = []
        self.service.deliver = self.delivered.append
        self.service.changed = self.changed.append

    def entry(self, rack: str) -> RackEntry:
        """Return what is registered."""
        found = self.registry.racks.peek(rack)
        assert found is not None
        return found

    def token(self, rack: str, *, machine_id: int = 0, ttl_s: int = 900) -> str:
        """Make a token."""
        return run_now(
            self.enrollment.create_token(rack=rack, ttl_s=ttl_s, machine_id=machine_id, actor=ADMIN)
        ).token

    def device(self, rack: str, machine_id: int = 0x5EED) -> Device:
        """Enroll a new device as ``rack``."""
        made = Device(self.keys, rack, machine_id)
        made.take_enrollment(run_now(self.enroll(made, self.token(rack))))
        return made

    async def enroll(self, device: Device, token: str) -> EnrollmentAnswer:
        """Send a device's enrollment."""
        return await self.enrollment.enroll(
            token=token,
            csr_pem=build_csr(device.key, "rack"),
            machine_id=device.machine_id,
            expected_rack=device.rack,
            host="192.0.2.1",
        )

    def renew(self, asked: Asked) -> Answer:
        """Send a renewal and return the verified answer."""
        return asked.open(run_now(self.service.renew(asked.data, via="https", host="192.0.2.1")))


@dataclass(frozen=True)
class Held:
    """One identity on a device."""

    key: Ed25519PrivateKey
    chain: tuple[bytes, ...]
    flux: bytes
    passport: Passport

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate."""
        return x509.load_der_x509_certificate(self.chain[0])

    @property
    def fingerprint(self) -> str:
        """The certificate's fingerprint."""
        return fingerprint(self.leaf)

    @property
    def ends_ns(self) -> int:
        """The certificate's end."""
        return int(self.leaf.not_valid_after_utc.timestamp()) * NS


@dataclass(frozen=True)
class Asked:
    """A renewal request under way: with which identity, for which key."""

    cluster_public: bytes
    request: Request
    data: bytes
    shown: Held
    key: Ed25519PrivateKey

    def open(self, data: bytes) -> Answer:
        """Verify the answer."""
        return open_answer(data, self.cluster_public, self.request)


class Device:
    """A rack as far as its identity goes: one in use, one staged; it never takes an older passport."""

    def __init__(self, keys: MixerKeys, rack: str, machine_id: int) -> None:
        self.cluster, self.public = keys.cluster.name, keys.authority.public
        self.rack, self.machine_id = rack, machine_id
        self.key = Ed25519PrivateKey.generate()
        self.main: Held | None = None
        self.staged: Held | None = None
        self.serials: list[int] = []

    @property
    def held(self) -> list[Held]:
        """What it can connect with, in the order it tries."""
        return [identity for identity in (self.staged, self.main) if identity is not None]

    @property
    def serial(self) -> int:
        """The highest serial it holds."""
        return max((identity.passport.serial for identity in self.held), default=0)

    def take_enrollment(self, answer: EnrollmentAnswer) -> bool:
        """Store an enrollment; an older one than what it holds is refused."""
        chain = [*parse_pem(answer.certificate_pem, "leaf"), *parse_pem(answer.chain_pem, "chain")]
        made = self._hold(self.key, tuple(to_der(chain)), answer.passport)
        if made is None:
            return False
        self.main, self.staged = made, None
        return True

    def ask(self, shown: Held, now_ns: int, *, key: Ed25519PrivateKey | None = None, **changes: Any) -> Asked:
        """Make a renewal request with ``shown``; ``changes`` break it."""
        wanted = key if key is not None else shown.key
        csr = x509.load_pem_x509_csr(build_csr(wanted, "rack")).public_bytes(Encoding.DER)
        body = RenewalRequest(
            csr=changes.get("csr", csr),
            passport=changes.get("passport", shown.flux),
            chain=changes.get("chain", shown.chain),
        )
        request = Request(
            changes.get("cluster", self.cluster),
            changes.get("rack", self.rack),
            Verb.RENEW.value,
            changes.get("nonce", secrets.token_bytes(16)),
            now_ns,
            body.body(),
        )
        data = request.seal(signing_key(changes.get("signer", shown.key)))
        return Asked(self.public, request, data, shown, wanted)

    def take_renewal(self, asked: Asked, answer: Answer) -> bool:
        """Stage what a renewal brought. The mixer answered what it was shown, so that one is proved."""
        if answer.error:
            return False
        renewal = Renewal.from_body(answer.body)
        if self.staged is not None and self.staged == asked.shown:
            self.main, self.staged = self.staged, None
        made = self._hold(asked.key, renewal.chain, renewal.passport)
        if made is None:
            return False
        self.staged = made
        return True

    def take_passport(self, flux: bytes) -> bool:
        """Stage a passport that a command brought, with the key and certificate it fits."""
        public = passports.verify(flux, self.public).rack_public
        for identity in self.held:
            if identity.passport.rack_public == public:
                made = self._hold(identity.key, identity.chain, flux)
                self.staged = made if made is not None else self.staged
                return made is not None
        return False

    def promote(self, used: Held) -> None:
        """Drop the old identity: ``used`` has just been proved by connecting."""
        if used == self.staged:
            self.main, self.staged = self.staged, None

    def _hold(self, key: Ed25519PrivateKey, chain: tuple[bytes, ...], flux: bytes) -> Held | None:
        passport = passports.verify(flux, self.public)
        passports.check_binding(
            passport, machine_id=self.machine_id, rack_public=key.public_key().public_bytes_raw()
        )
        if passport.serial <= self.serial:
            return None
        self.serials.append(passport.serial)
        return Held(key, chain, flux, passport)
