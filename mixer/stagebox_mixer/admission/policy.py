"""The admission decision. Pure: a request, what the registry knows and the time go in, a decision comes out.

A rack is admitted on three independent proofs: the certificate chain (its SAN names a registered rack, over a
cipher the policy allows), the identity key's signature over the server's nonce, and the passport secret. The
secret picks the issue, the one the rack proved last or the one that waits to be proved, and certificate and nonce
must be of that issue's key. An active rack gets its full rights, a pending or suspended one the limited ones. A
person or tool is admitted on the certificate chain and its role.

nats-server asks again for every live connection when it reloads its configuration, without the token. Such a
request is answered by the certificate and the session admitted before, with the rights of the present status.
"""

from __future__ import annotations

import base64
import binascii
import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509

from stagebox import subjects
from stagebox.cipher_policy import CIPHER_SUITE
from stagebox.control.denylist import DenyList
from stagebox.errors import StageboxError, VerificationError
from stagebox.identity import ClientId, RackId
from stagebox_keys.nkey import NkeyKind, encode_public, verify_signature
from stagebox_mixer.admission.chains import Chains, ProvedChain
from stagebox_mixer.admission.request import AdmissionRequest
from stagebox_mixer.admission.sessions import Known
from stagebox_mixer.admission.standing import Refused, Rights, check_client, check_rack, rights_of
from stagebox_mixer.registry.model import RackEntry, secret_matches

__all__ = ["Admitted", "Refused", "Trust", "admit_client", "admit_rack", "prove", "subject_lists"]

_NS = 1_000_000_000


@dataclass(frozen=True)
class Trust:
    """What a decision rests on besides the registry."""

    cluster: str
    roots: tuple[x509.Certificate, ...]
    wal_stream: str
    rack_cipher: str = CIPHER_SUITE


@dataclass(frozen=True)
class Issue:
    """One identity a rack may come with; ``waiting`` until it has come with it once. Times in ns."""

    rack_public: bytes
    secret_hash: bytes = field(repr=False)
    serial: int
    passport_not_after: int
    waiting: bool


@dataclass(frozen=True)
class Admitted:
    """The answer: a user name, its rights, and when the connection must end.

    ``known`` is what to remember of a rack's session. ``proves`` is the serial of a waiting issue that this
    connection proved, 0 if none.
    """

    user: str
    identity: RackId | ClientId
    permissions: subjects.Permissions
    expires: datetime.datetime
    known: Known | None = None
    proves: int = 0


@dataclass(frozen=True)
class Proved:
    """The first proof: a verified chain and whose it is."""

    chain: ProvedChain
    identity: RackId | ClientId


def prove(request: AdmissionRequest, trust: Trust, chains: Chains, now: datetime.datetime) -> Proved:
    """Return whose certificate this connection proved.

    Raises:
        Refused: no chain, an unverifiable one, another cluster's, or a mixer's own certificate.
    """
    if not request.chain:
        raise Refused("no_certificate", "the connection has no client certificate")
    try:
        chain = chains.prove(request.chain, now)
    except StageboxError as error:
        raise Refused("certificate", error.message) from None
    identity = chain.identity
    if identity.cluster != trust.cluster:
        raise Refused("other_cluster", f"the certificate is of cluster {identity.cluster!r}", identity.uri)
    if not isinstance(identity, RackId | ClientId):
        raise Refused("not_a_client", "a mixer's certificate does not connect to the snake", identity.uri)
    return Proved(chain, identity)


def admit_client(chain: ProvedChain, identity: ClientId, denied: DenyList) -> Admitted:
    """Admit a person or tool by certificate alone; the role sets the rights.

    Raises:
        Refused: the certificate is banned.
    """
    check_client(chain.fingerprint, denied, identity.uri)
    return Admitted(
        user=f"client:{identity.role.value}:{identity.name}",
        identity=identity,
        permissions=subjects.client_permissions(),
        expires=chain.expires,
    )


def issues(entry: RackEntry) -> tuple[Issue, ...]:
    """Return the identities a rack may come with."""
    proved = Issue(
        entry.rack_public, entry.secret_hash, entry.serial, entry.passport_not_after, waiting=False
    )
    if entry.pending is None:
        return (proved,)
    waiting = entry.pending
    return (
        proved,
        Issue(
            waiting.rack_public,
            waiting.secret_hash,
            waiting.serial,
            waiting.passport_not_after,
            waiting=True,
        ),
    )


def admit_rack(
    request: AdmissionRequest,
    chain: ProvedChain,
    identity: RackId,
    *,
    entry: RackEntry | None,
    denied: DenyList,
    trust: Trust,
    now: datetime.datetime,
    known: Known | None,
) -> Admitted:
    """Admit a rack on its three proofs, or on certificate and session (``known``) at a server reload.

    Raises:
        Refused: any proof is missing or wrong, or the rack may not be connected at all.
    """
    user = f"rack:{identity.name}"
    if entry is not None and entry.tenant != identity.tenant:
        raise Refused("unknown_rack", f"rack {identity.name!r} is of another tenant", identity.uri)
    entry = check_rack(identity.name, chain.fingerprint, entry, denied, identity.uri)
    if request.cipher != trust.rack_cipher:
        raise Refused("cipher", f"a rack must use {trust.rack_cipher}, not {request.cipher}", identity.uri)
    rerun = known is not None and known.user == user == request.current_user and not request.token
    if rerun and known is not None:
        issue = _issue_of_session(known, chain, identity, entry)
    else:
        issue = _issue_by_proofs(request, chain, identity, entry)
    ends = _passport_end(issue)
    if ends is not None and now >= ends:
        raise Refused("passport_expired", f"the passport of rack {identity.name!r} has ended", identity.uri)
    rights = rights_of(entry)
    return Admitted(
        user=user,
        identity=identity,
        permissions=(
            subjects.rack_permissions(identity.name, trust.wal_stream)
            if rights is Rights.FULL
            else subjects.limited_rack_permissions(identity.name)
        ),
        expires=min(chain.expires, ends) if ends is not None else chain.expires,
        known=Known(user, issue.serial, entry.machine_id, rights),
        proves=issue.serial if issue.waiting and not rerun else 0,
    )


def _issue_by_proofs(
    request: AdmissionRequest, chain: ProvedChain, identity: RackId, entry: RackEntry
) -> Issue:
    """Return the issue whose secret was given, once certificate and nonce have proved its key too."""
    possible = issues(entry)
    chosen = next((issue for issue in possible if secret_matches(issue.secret_hash, request.token)), None)
    keys = [chosen.rack_public] if chosen is not None else [issue.rack_public for issue in possible]
    if chain.ed25519 is None or chain.ed25519 not in keys:
        if chain.ed25519 in entry.earlier_keys:
            _check_nonce(request, chain.ed25519, identity)
            raise Refused(
                "certificate_key", "certificate and key are ones this rack had before", identity.uri,
                proved="an earlier certificate and its key",
            )  # fmt: skip
        raise Refused(
            "certificate_key", "the certificate carries another key than the registered", identity.uri
        )
    _check_nonce(request, chain.ed25519, identity)
    if chosen is None:
        raise Refused(
            "secret", "the passport secret is not the current one", identity.uri,
            proved="certificate and key" if request.token else "",
        )  # fmt: skip
    return chosen


def _issue_of_session(known: Known, chain: ProvedChain, identity: RackId, entry: RackEntry) -> Issue:
    for issue in issues(entry):
        if issue.serial == known.serial:
            if chain.ed25519 != issue.rack_public:
                raise Refused(
                    "certificate_key", "the certificate carries another key than the registered", identity.uri
                )
            return issue
    raise Refused("superseded", f"the passport {known.serial} is not the current one", identity.uri)


def _check_nonce(request: AdmissionRequest, public: bytes | None, identity: RackId) -> None:
    if public is None or not request.nonce or request.nkey != encode_public(NkeyKind.USER, public):
        raise Refused("nonce", "the connection does not claim the certified identity key", identity.uri)
    try:
        signature = base64.urlsafe_b64decode(request.signature + "=" * (-len(request.signature) % 4))
        verify_signature(request.nkey, NkeyKind.USER, request.nonce.encode("ascii"), signature)
    except (VerificationError, binascii.Error, ValueError):
        raise Refused(
            "nonce", "the signature over the server's nonce does not verify", identity.uri
        ) from None


def _passport_end(issue: Issue) -> datetime.datetime | None:
    if not issue.passport_not_after:
        return None  # issued before the registry kept it
    return datetime.datetime.fromtimestamp(issue.passport_not_after // _NS, datetime.UTC)


def subject_lists(permissions: subjects.Permissions) -> tuple[Sequence[str], Sequence[str]]:
    """Return (publish deny, subscribe deny): an empty allow list means everything to nats-server."""
    return (
        () if permissions.publish else (">",),
        () if permissions.subscribe else (">",),
    )
