"""The admission decision. Pure: a request, what the registry knows and the time go in, a decision comes out.

A rack is admitted on three independent proofs: the certificate chain (its SAN names a registered, active rack
and it carries the registered key, over a cipher the policy allows), the identity key's signature over the
server's nonce, and the passport secret. A person or tool is admitted on the certificate chain and its role.

nats-server asks again for every live connection when it reloads its configuration, without the token. Such a
request is answered by the certificate and the session admitted before; nothing is granted that was not then.
"""

from __future__ import annotations

import base64
import binascii
import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from stagebox import subjects
from stagebox.certificates import fingerprint, public_ed25519, verify_chain
from stagebox.cipher_policy import CIPHER_SUITE
from stagebox.errors import StageboxError, VerificationError
from stagebox.identity import ClientId, RackId
from stagebox.passport import PassportStatus
from stagebox_keys.nkey import NkeyKind, encode_public, verify_signature
from stagebox_mixer.admission.request import AdmissionRequest
from stagebox_mixer.registry.model import RackEntry, secret_matches


class Refused(VerificationError):
    """The connection is not admitted; ``code`` is the reason in the audit, ``identity`` who it claims to be."""

    def __init__(self, code: str, message: str, identity: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.identity = identity


@dataclass(frozen=True)
class Trust:
    """What a decision rests on besides the registry."""

    cluster: str
    roots: tuple[x509.Certificate, ...]
    wal_stream: str
    rack_cipher: str = CIPHER_SUITE


@dataclass(frozen=True)
class Admitted:
    """The answer: a user name, its rights, and when the connection must end (the certificate's end)."""

    user: str
    identity: RackId | ClientId
    permissions: subjects.Permissions
    expires: datetime.datetime
    fingerprint: str


def identify(request: AdmissionRequest, trust: Trust, now: datetime.datetime) -> RackId | ClientId:
    """Return whose certificate this connection proved.

    Raises:
        Refused: no chain, an unverifiable one, another cluster's, or a mixer's own certificate.
    """
    if not request.chain:
        raise Refused("no_certificate", "the connection has no client certificate")
    try:
        identity = verify_chain(request.chain[0], request.chain[1:], trust.roots, now)
    except StageboxError as error:
        raise Refused("certificate", error.message) from None
    if identity.cluster != trust.cluster:
        raise Refused("other_cluster", f"the certificate is of cluster {identity.cluster!r}", identity.uri)
    if not isinstance(identity, RackId | ClientId):
        raise Refused("not_a_client", "a mixer's certificate does not connect to the snake", identity.uri)
    return identity


def admit_client(request: AdmissionRequest, identity: ClientId) -> Admitted:
    """Admit a person or tool by certificate alone; the role sets the rights."""
    return Admitted(
        user=f"client:{identity.role.value}:{identity.name}",
        identity=identity,
        permissions=subjects.client_permissions(),
        expires=request.chain[0].not_valid_after_utc,
        fingerprint=fingerprint(request.chain[0]),
    )


def admit_rack(
    request: AdmissionRequest, identity: RackId, entry: RackEntry | None, trust: Trust, *, known_session: bool
) -> Admitted:
    """Admit a rack on its three proofs, or on certificate and session at a server reload.

    Raises:
        Refused: any proof is missing or wrong.
    """
    user = f"rack:{identity.name}"
    leaf = request.chain[0]
    if entry is None:
        raise Refused("unknown_rack", f"no rack {identity.name!r} is registered", identity.uri)
    if entry.tenant != identity.tenant:
        raise Refused("unknown_rack", f"rack {identity.name!r} is of another tenant", identity.uri)
    if entry.status is not PassportStatus.ACTIVE:
        raise Refused(entry.status.value, f"rack {identity.name!r} is {entry.status.value}", identity.uri)
    if request.cipher != trust.rack_cipher:
        raise Refused("cipher", f"a rack must use {trust.rack_cipher}, not {request.cipher}", identity.uri)
    if _leaf_key(leaf, identity) != entry.rack_public:
        raise Refused(
            "certificate_key", "the certificate carries another key than the registered", identity.uri
        )
    rerun = known_session and not request.token and request.current_user == user
    if not rerun:
        _check_nonce(request, entry, identity)
        if not secret_matches(entry.secret_hash, request.token):
            raise Refused("secret", "the passport secret is not the current one", identity.uri)
    return Admitted(
        user=user,
        identity=identity,
        permissions=subjects.rack_permissions(identity.name, trust.wal_stream),
        expires=leaf.not_valid_after_utc,
        fingerprint=fingerprint(leaf),
    )


def _leaf_key(leaf: x509.Certificate, identity: RackId) -> bytes:
    try:
        return public_ed25519(leaf)
    except VerificationError as error:
        raise Refused("certificate_key", error.message, identity.uri) from None


def _check_nonce(request: AdmissionRequest, entry: RackEntry, identity: RackId) -> None:
    expected = encode_public(NkeyKind.USER, entry.rack_public)
    if request.nkey != expected or not request.nonce:
        raise Refused("nonce", "the connection does not claim the registered identity key", identity.uri)
    try:
        signature = base64.urlsafe_b64decode(request.signature + "=" * (-len(request.signature) % 4))
        verify_signature(expected, NkeyKind.USER, request.nonce.encode("ascii"), signature)
    except (VerificationError, binascii.Error, ValueError):
        raise Refused(
            "nonce", "the signature over the server's nonce does not verify", identity.uri
        ) from None


def subject_lists(permissions: subjects.Permissions) -> tuple[Sequence[str], Sequence[str]]:
    """Return (publish deny, subscribe deny): an empty allow list means everything to nats-server."""
    return (
        () if permissions.publish else (">",),
        () if permissions.subscribe else (">",),
    )
