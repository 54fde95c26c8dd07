"""What the mixer issues to a rack: certificate, passport, trust bundle. The same entry gives the same bytes.

A passport's secret is derived, not stored: BLAKE3 keyed with a key of its own over cluster, rack, serial and the
digest of the request it answers. So a repeated request gets the same passport again, and the registry holds only
hashes.
"""

from __future__ import annotations

import base64
import datetime

from blake3 import blake3
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stagebox import cbor
from stagebox.certificates import fingerprint, to_der
from stagebox.control.renewal import Renewal
from stagebox.control.trust import TrustBundle
from stagebox.envelope import DOMAIN_PASSPORT, DOMAIN_TRUST
from stagebox.identity import RackId
from stagebox.passport import Passport
from stagebox_keys.mixer_keys import MixerKeys
from stagebox_keys.storage import PASSPORT_SECRET_LABEL
from stagebox_mixer.lifecycle.machine import Certified
from stagebox_mixer.lifecycle.proof import Anchors, end_of
from stagebox_mixer.registry.model import PendingIssue, RackEntry

_NS = 1_000_000_000
_FIRST_BUNDLE = 1


class Issuer:
    """Signs with the mixer's keys; holds no state."""

    def __init__(self, keys: MixerKeys, *, certificate_days: float) -> None:
        self._keys = keys
        self._days = certificate_days
        self._secret_key = keys.storage_key(PASSPORT_SECRET_LABEL)

    @property
    def anchors(self) -> Anchors:
        """What proofs of this cluster rest on."""
        issuing = self._keys.issuing
        return Anchors(
            self._keys.cluster.name, self._keys.authority.public, (issuing.root,), (issuing.certificate,)
        )

    def secret_of(self, rack: str, serial: int, request: bytes) -> str:
        """Return the passport secret of one issue: 43 characters of URL-safe text, 256 bits."""
        message = cbor.encode([self._keys.cluster.name, rack, serial, request])
        digest = blake3(message, key=self._secret_key).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")

    def certify(self, csr: x509.CertificateSigningRequest, rack: RackId, *, now_ns: int) -> Certified:
        """Sign a rack's certificate.

        Raises:
            VerificationError: the CSR asks for another identity. KeyFileError: the issuing CA has expired.
        """
        now = datetime.datetime.fromtimestamp(now_ns / _NS, datetime.UTC)
        leaf = self._keys.issuing.sign_rack(csr, rack, now=now, days=self._days)
        return Certified(leaf.public_bytes(Encoding.DER), fingerprint(leaf), end_of(leaf))

    def passport(self, entry: RackEntry, issue: PendingIssue) -> bytes:
        """Return the signed ``state.flux`` of one issue of ``entry``."""
        passport = Passport(
            cluster_id=self._keys.cluster.name,
            machine_id=entry.machine_id,
            name=entry.name,
            tenant=entry.tenant,
            status=entry.status,
            secret=self.secret_of(entry.name, issue.serial, issue.request),
            cluster_public=self._keys.authority.public,
            rack_public=issue.rack_public,
            serial=issue.serial,
            issued_at=issue.issued_at,
            not_after=issue.passport_not_after,
        )
        return self._keys.authority.seal(DOMAIN_PASSPORT, passport.encode())

    def renewal(self, entry: RackEntry, issue: PendingIssue) -> Renewal:
        """Return what answers a granted renewal."""
        return Renewal(
            chain=(issue.certificate_der, *to_der([self._keys.issuing.certificate])),
            trust=self.trust_bundle(),
            passport=self.passport(entry, issue),
        )

    def trust_bundle(self) -> bytes:
        """Return the signed trust bundle in force: one root, one authority, the first of its series."""
        root = self._keys.issuing.root
        bundle = TrustBundle(
            cluster=self._keys.cluster.name,
            serial=_FIRST_BUNDLE,
            issued=int(root.not_valid_before_utc.timestamp()) * _NS,
            roots=tuple(to_der([root])),
            cluster_public=self._keys.authority.public,
        )
        return self._keys.authority.seal(DOMAIN_TRUST, bundle.encode())
