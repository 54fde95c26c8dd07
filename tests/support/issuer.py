"""A cluster in a few lines: issues racks' identities and answers their requests, honestly or as a test wants it."""

from __future__ import annotations

import dataclasses
import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from nacl.signing import SigningKey

from stagebox import envelope, passport
from stagebox.certificates import to_der, to_pem
from stagebox.control.denylist import DenyList
from stagebox.control.renewal import Renewal, RenewalRequest
from stagebox.control.request import Answer, ReceivedRequest
from stagebox.control.trust import TrustBundle
from stagebox.keyfiles import save_private_key
from stagebox.passport import Passport, PassportStatus
from stagebox_rack import state
from stagebox_rack.identity.store import IdentityStore, Issued
from stagebox_rack.state import Enrolled, StatePaths
from support.pki import DAY, NOW, Ca, uri

MACHINE = 0x0123_4567_89AB_CDEF
CLUSTER = "flux-prod"
RACK = "stage-left"
_NS = 1_000_000_000


@dataclass
class Issuer:
    """One cluster and what it has issued to its one rack."""

    authority: SigningKey = field(default_factory=lambda: SigningKey(bytes(32)))
    root: Ca = field(default_factory=lambda: Ca("root"))
    serial: int = 0
    trust_serial: int = 1
    life: datetime.timedelta = 30 * DAY
    answers: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.issuing = Ca("issuing", self.root)

    @property
    def public(self) -> bytes:
        return bytes(self.authority.verify_key)

    def passport(self, public: bytes, **changes: Any) -> Passport:
        """Return the next passport for a key; the serial is used up."""
        self.serial += 1
        made = Passport(
            cluster_id=CLUSTER, machine_id=MACHINE, name=RACK, tenant="default", status=PassportStatus.ACTIVE,
            secret=f"secret-{self.serial}", cluster_public=self.public, rack_public=public,
            serial=self.serial, issued_at=int(NOW.timestamp()) * _NS,
            not_after=int((NOW + 3650 * DAY).timestamp()) * _NS,
        )  # fmt: skip
        return dataclasses.replace(made, **changes)

    def flux(self, issued: Passport) -> bytes:
        return passport.issue(issued, self.authority)

    def certificate(self, public: bytes, *, not_after: datetime.datetime | None = None) -> x509.Certificate:
        ends = not_after if not_after is not None else NOW + self.life
        name = f"spiffe://{CLUSTER}/tenant/default/rack/{RACK}"
        key = Ed25519PublicKey.from_public_bytes(public)
        return self.issuing.issue(
            key, [uri(name)], not_before=min(ends - self.life, NOW - DAY), not_after=ends
        )

    def chain(self, public: bytes, **options: Any) -> tuple[x509.Certificate, ...]:
        return (self.certificate(public, **options), self.issuing.certificate)

    def trust(self, **changes: Any) -> bytes:
        roots = tuple(to_der([self.root.certificate]))
        bundle = TrustBundle(CLUSTER, self.trust_serial, 1, roots, self.public)
        changed = dataclasses.replace(bundle, **changes)
        return envelope.seal(envelope.DOMAIN_TRUST, changed.encode(), self.authority)

    def deny_list(self, epoch: int, key: SigningKey | None = None, cluster: str = CLUSTER) -> bytes:
        signer = key if key is not None else self.authority
        return envelope.seal(envelope.DOMAIN_DENY_LIST, DenyList(cluster, epoch).encode(), signer)

    def enroll(
        self,
        directory: Path,
        *,
        status: PassportStatus = PassportStatus.ACTIVE,
        not_after: datetime.datetime | None = None,
        servers: tuple[str, ...] = ("wss://mixer:4222",),
    ) -> IdentityStore:
        """Enroll the rack into ``directory``."""
        paths = StatePaths(directory)
        state.prepare(paths)
        key = Ed25519PrivateKey.generate()
        save_private_key(paths.identity_key, key, None)
        public = key.public_key().public_bytes_raw()
        state.store(paths, Enrolled(
            passport=self.flux(self.passport(public, status=status)),
            certificate_pem=to_pem(self.chain(public, not_after=not_after)),
            roots_pem=self.root.pem,
            cluster_public=self.public,
            servers=servers,
        ))  # fmt: skip
        return IdentityStore(paths, MACHINE)

    def issue(self, key: SigningKey, **changes: Any) -> Issued:
        """Return what a renewal for ``key`` gives."""
        public = bytes(key.verify_key)
        made = self.passport(public, **changes)
        return Issued(made, self.flux(made), key, self.chain(public))

    def answer(self, data: bytes, **changes: Any) -> bytes:
        """Answer a renewal request as the mixer does: the same bytes again for the same request."""
        received = ReceivedRequest.parse(data)
        if received.digest not in self.answers or changes:
            body = RenewalRequest.from_body(received.request.body)
            csr_key = x509.load_der_x509_csr(body.csr).public_key()
            assert isinstance(csr_key, Ed25519PublicKey)
            public = csr_key.public_bytes_raw()
            made = changes.pop("passport", None) or self.passport(public)
            renewal = Renewal(
                chain=tuple(to_der(changes.pop("chain", None) or self.chain(public))),
                trust=changes.pop("trust", None) or self.trust(),
                passport=changes.pop("flux", None) or self.flux(made),
            )
            sealed = self.reply(data, body=renewal.body(), **changes)
            if changes:
                return sealed
            self.answers[received.digest] = sealed
        return self.answers[received.digest]

    def reply(self, data: bytes, *, key: SigningKey | None = None, **fields: Any) -> bytes:
        """Return a signed answer to a request, with any body or error."""
        received = ReceivedRequest.parse(data)
        request = received.request
        given: dict[str, Any] = {
            "cluster": request.cluster, "rack": request.rack, "verb": request.verb,
            "request": received.digest, "time_ns": 1, **fields,
        }  # fmt: skip
        signer = key if key is not None else self.authority
        return envelope.seal(envelope.DOMAIN_ANSWER, Answer(**given).encode(), signer)
