"""What a rack's signed request proves by itself, before the registry is asked. Pure; fails closed.

A renewal is believed if one key holds it together: the passport in it is signed by our authority and names the
key, the request is signed by that key, and the certificate in it carries that key, names that rack and was issued
by our CA. Whether the passport is the current one is for :mod:`stagebox_mixer.lifecycle.renewal`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509

from stagebox import passport as passports
from stagebox.certificates import fingerprint, parse_der_chain, public_ed25519, verify_chain
from stagebox.control.renewal import RenewalRequest
from stagebox.control.request import ReceivedRequest, Request, Verb
from stagebox.control.sync import SyncReport
from stagebox.errors import DecodeError, InputError, PassportError, VerificationError
from stagebox.identity import RackId, check_name
from stagebox.passport import Passport
from stagebox_keys.ca import csr_key, parse_csr
from stagebox_mixer.lifecycle.refusals import LifecycleRefused
from stagebox_mixer.lifecycle.renewal import Presented
from stagebox_mixer.registry.model import RackEntry

_NS = 1_000_000_000


@dataclass(frozen=True)
class Anchors:
    """What proofs rest on: the cluster's name and authority, its roots and its issuing certificates."""

    cluster: str
    authority: bytes
    roots: tuple[x509.Certificate, ...]
    issuing: tuple[x509.Certificate, ...]


@dataclass(frozen=True)
class RenewalProof:
    """A verified renewal request: the identity presented, and the CSR with the key it proves."""

    digest: bytes
    presented: Presented
    csr: x509.CertificateSigningRequest
    key: bytes


def check_addressed(received: ReceivedRequest, verb: Verb, cluster: str) -> Request:
    """Return the request, not yet verified, if it is a ``verb`` of a rack of this cluster.

    Raises:
        LifecycleRefused: ``malformed`` or ``other_cluster``.
    """
    request = received.request
    try:
        check_name("rack", request.rack)
    except InputError as error:
        raise LifecycleRefused("malformed", error.message) from None
    if request.verb != verb:
        raise LifecycleRefused("malformed", f"the request is for {request.verb[:32]!r}, not {verb.value!r}")
    if request.cluster != cluster:
        raise LifecycleRefused("other_cluster", "the request is for another cluster")
    return request


def verify_renewal(received: ReceivedRequest, anchors: Anchors, now: datetime.datetime) -> RenewalProof:
    """Verify everything in a renewal request that needs no registry.

    Raises:
        LifecycleRefused: any proof is missing or wrong; the code says which.
    """
    request = check_addressed(received, Verb.RENEW, anchors.cluster)
    try:
        body = RenewalRequest.from_body(request.body)
        chain = parse_der_chain(body.chain, "the presented certificate chain")
    except DecodeError as error:
        raise LifecycleRefused("malformed", error.message) from None
    passport = _passport(body.passport, anchors)
    if (passport.cluster_id, passport.name) != (request.cluster, request.rack):
        raise LifecycleRefused("other_rack", f"the passport is of rack {passport.name!r}")
    _verify_signature(received, passport.rack_public)
    leaf = verify_leaf(chain, passport.rack_id, passport.rack_public, anchors, now)
    try:
        csr = parse_csr(body.csr)
        key = csr_key(csr).public_bytes_raw()
    except (InputError, VerificationError) as error:
        raise LifecycleRefused("csr", error.message) from None
    presented = Presented(
        name=passport.name,
        tenant=passport.tenant,
        machine_id=passport.machine_id,
        rack_public=passport.rack_public,
        status=passport.status,
        serial=passport.serial,
        secret=passport.secret,
        passport_not_after=passport.not_after,
        certificate=fingerprint(leaf),
        certificate_not_after=end_of(leaf),
    )
    return RenewalProof(received.digest, presented, csr, key)


def verify_report(received: ReceivedRequest, entry: RackEntry, anchors: Anchors) -> SyncReport:
    """Verify a ``sync``: signed by the identity key the rack proved last, or by the one waiting to be proved.

    Raises:
        LifecycleRefused: ``signature`` or ``malformed``.
    """
    request = check_addressed(received, Verb.SYNC, anchors.cluster)
    verify_by_entry(received, entry)
    try:
        return SyncReport.from_body(request.body)
    except DecodeError as error:
        raise LifecycleRefused("malformed", error.message) from None


def verify_by_entry(received: ReceivedRequest, entry: RackEntry) -> None:
    """Demand the signature of a registered key; keys that were replaced speak for nobody any more.

    Raises:
        LifecycleRefused: ``signature``.
    """
    keys = [entry.rack_public]
    if entry.pending is not None and entry.pending.rack_public != entry.rack_public:
        keys.append(entry.pending.rack_public)
    for key in keys[:-1]:
        try:
            received.verify(key)
        except VerificationError:
            continue
        return
    _verify_signature(received, keys[-1])


def verify_leaf(
    chain: list[x509.Certificate],
    rack: RackId,
    rack_public: bytes,
    anchors: Anchors,
    now: datetime.datetime,
) -> x509.Certificate:
    """Return the leaf of ``chain`` if our CA issued it to this rack and key; it may have ended since.

    Raises:
        LifecycleRefused: ``certificate``, ``other_rack`` or ``certificate_key``.
    """
    leaf = chain[0]
    at = min(now, leaf.not_valid_after_utc)
    try:
        identity = verify_chain(leaf, [*chain[1:], *anchors.issuing], anchors.roots, at)
        key = public_ed25519(leaf)
    except VerificationError as error:
        raise LifecycleRefused("certificate", error.message) from None
    if identity != rack:
        raise LifecycleRefused("other_rack", f"the certificate is of {identity.uri}")
    if key != rack_public:
        raise LifecycleRefused(
            "certificate_key", "the certificate carries another key than the passport names"
        )
    return leaf


def end_of(certificate: x509.Certificate) -> int:
    """Return the end of a certificate in ns since the Unix epoch."""
    return int(certificate.not_valid_after_utc.timestamp()) * _NS


def _passport(data: bytes, anchors: Anchors) -> Passport:
    try:
        return passports.verify(data, anchors.authority)
    except PassportError as error:
        raise LifecycleRefused("passport", error.message) from None


def _verify_signature(received: ReceivedRequest, public: bytes) -> None:
    try:
        received.verify(public)
    except VerificationError:
        raise LifecycleRefused(
            "signature", f"the request is not signed by the identity key of rack {received.request.rack!r}"
        ) from None
