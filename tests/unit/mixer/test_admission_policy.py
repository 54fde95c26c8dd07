"""The admission decision as a pure function: no proof can stand in for another."""

from __future__ import annotations

import base64
import datetime
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from stagebox.certificates import build_csr, fingerprint, to_pem
from stagebox.cipher_policy import CIPHER_SUITE
from stagebox.control.denylist import DenyList, denied
from stagebox.identity import ClientId, MixerId, RackId, Role
from stagebox.passport import PassportStatus
from stagebox.subjects import limited_rack_permissions, rack_permissions
from stagebox_keys.nkey import NkeyKind, encode_public
from stagebox_mixer.admission import policy
from stagebox_mixer.admission.chains import Chains
from stagebox_mixer.admission.policy import Admitted, Refused, Trust, subject_lists
from stagebox_mixer.admission.request import AdmissionRequest, Session
from stagebox_mixer.admission.sessions import Known
from stagebox_mixer.admission.standing import Rights
from stagebox_mixer.registry.model import PendingIssue, RackEntry, secret_hash
from support.cluster import Cluster

NONCE = "c2VydmVyLW5vbmNl"
SECRET, NEXT_SECRET = "passport-secret", "the-next-secret"
NOW = datetime.datetime.now(datetime.UTC)
KEY, NEXT_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
NEXT_PUBLIC = NEXT_KEY.public_key().public_bytes_raw()
KNOWN_USER = "rack:stage-left"
KNOWN = Known(KNOWN_USER, 4, 1, Rights.FULL)
NOBODY = DenyList("flux-test")


@pytest.fixture(scope="session")
def trust(cluster: Cluster) -> Trust:
    return Trust(cluster.name, (cluster.keys.issuing.root,), "WAL")


@pytest.fixture(scope="session")
def chains(trust: Trust) -> Chains:
    return Chains(trust.roots)


@pytest.fixture(scope="session")
def request_(cluster: Cluster) -> AdmissionRequest:
    """A rack's request with all three proofs of its present identity."""
    return come(cluster, KEY, SECRET)


@pytest.fixture(scope="session")
def next_request(cluster: Cluster) -> AdmissionRequest:
    """The same rack with all three proofs of the identity that waits: another key, another secret."""
    return come(cluster, NEXT_KEY, NEXT_SECRET)


def come(cluster: Cluster, key: Ed25519PrivateKey, secret: str) -> AdmissionRequest:
    issuing, rack_id = cluster.keys.issuing, RackId(cluster.name, "default", "stage-left")
    return AdmissionRequest(
        session=Session("NSERVER", 7),
        user_nkey="UNEW",
        host="127.0.0.1",
        kind="Websocket",
        current_user="",
        nonce=NONCE,
        nkey=encode_public(NkeyKind.USER, key.public_key().public_bytes_raw()),
        signature=sign(key),
        token=secret,
        tls_version="1.3",
        cipher=CIPHER_SUITE,
        chain=pem(issuing.sign_rack(build_csr(key, "x"), rack_id, now=NOW), issuing.certificate),
    )


def pem(*certificates: x509.Certificate) -> tuple[str, ...]:
    return tuple(to_pem([certificate]).decode() for certificate in certificates)


ENTRY = RackEntry(
    "stage-left", "default", 1, PUBLIC, PassportStatus.ACTIVE, 4, secret_hash(SECRET), "sha256:…", 1, 1
)
PENDING = PendingIssue(
    rack_public=NEXT_PUBLIC,
    secret_hash=secret_hash(NEXT_SECRET),
    serial=5,
    issued_at=1,
    passport_not_after=0,
    certificate="sha256:" + "5" * 64,
    certificate_der=b"",
    certificate_not_after=1,
    request=bytes(32),
)
RENEWING = replace(ENTRY, pending=PENDING)


def sign(key: Ed25519PrivateKey, nonce: str = NONCE) -> str:
    return base64.b64encode(key.sign(nonce.encode())).decode()


def decide(
    request: AdmissionRequest,
    trust: Trust,
    entry: RackEntry | None = ENTRY,
    *,
    known: Known | None = None,
    bans: DenyList = NOBODY,
    now: datetime.datetime = NOW,
) -> Admitted:
    proved = policy.prove(request, trust, Chains(trust.roots), now)
    assert isinstance(proved.identity, RackId)
    return policy.admit_rack(
        request, proved.chain, proved.identity, entry=entry, denied=bans, trust=trust, now=now, known=known
    )


def refused_as(code: str, request: AdmissionRequest, trust: Trust, **given_: object) -> Refused:
    with pytest.raises(Refused) as caught:
        decide(request, trust, **given_)  # type: ignore[arg-type]
    assert caught.value.code == code
    return caught.value


def leaf_of(request: AdmissionRequest) -> x509.Certificate:
    return x509.load_pem_x509_certificate(request.chain[0].encode())


def banning(kind: str, value: str) -> DenyList:
    return NOBODY.with_denied(denied(kind, value), now_ns=1)


def test_three_proofs_admit_until_the_certificate_ends(request_: AdmissionRequest, trust: Trust) -> None:
    admitted = decide(request_, trust)
    assert admitted.user == KNOWN_USER
    assert admitted.expires == leaf_of(request_).not_valid_after_utc
    assert admitted.permissions == rack_permissions("stage-left", "WAL")
    assert admitted.known == KNOWN
    assert admitted.proves == 0


def test_each_missing_or_wrong_proof_has_its_own_reason(request_: AdmissionRequest, trust: Trust) -> None:
    other = Ed25519PrivateKey.generate()
    other_nkey = encode_public(NkeyKind.USER, other.public_key().public_bytes_raw())
    for code, changed in (
        ("no_certificate", replace(request_, chain=())),
        ("certificate", replace(request_, chain=request_.chain[:1])),
        ("certificate", replace(request_, chain=request_.chain[1:])),
        ("certificate", replace(request_, chain=("not", "certificates"))),
        ("cipher", replace(request_, cipher="TLS_AES_128_GCM_SHA256")),
        ("cipher", replace(request_, cipher="")),
        ("nonce", replace(request_, signature=sign(other))),
        ("nonce", replace(request_, nkey=other_nkey, signature=sign(other))),
        ("nonce", replace(request_, signature=sign(KEY, "another-nonce"))),
        ("nonce", replace(request_, nonce="", signature=sign(KEY, ""))),
        ("nonce", replace(request_, nkey="")),
        ("nonce", replace(request_, signature="")),
        ("nonce", replace(request_, signature="é" * 86)),
        ("secret", replace(request_, token="")),
        ("secret", replace(request_, token=SECRET + "x")),
    ):
        refused_as(code, changed, trust)


def test_what_the_registry_says_decides(request_: AdmissionRequest, trust: Trust) -> None:
    refused_as("unknown_rack", request_, trust, entry=None)
    refused_as("unknown_rack", request_, trust, entry=replace(ENTRY, tenant="other"))
    refused_as("removed", request_, trust, entry=replace(ENTRY, removed_at=1))
    refused_as("certificate_key", request_, trust, entry=replace(ENTRY, rack_public=bytes(32)))


@pytest.mark.parametrize("status", [PassportStatus.PENDING, PassportStatus.SUSPENDED])
def test_a_pending_or_suspended_rack_gets_the_limited_rights(
    request_: AdmissionRequest, trust: Trust, status: PassportStatus
) -> None:
    admitted = decide(request_, trust, replace(ENTRY, status=status))
    assert admitted.permissions == limited_rack_permissions("stage-left")
    assert admitted.known == replace(KNOWN, rights=Rights.LIMITED)
    # Limited rights are not a way around a proof.
    refused_as("secret", replace(request_, token="x"), trust, entry=replace(ENTRY, status=status))


# Two identities at once: the one proved last and the one that waits


def test_both_the_proved_and_the_waiting_identity_are_admitted_and_only_the_new_one_promotes(
    request_: AdmissionRequest, next_request: AdmissionRequest, trust: Trust
) -> None:
    old, new = decide(request_, trust, RENEWING), decide(next_request, trust, RENEWING)
    assert (old.known, old.proves) == (KNOWN, 0)
    assert (new.known, new.proves) == (replace(KNOWN, serial=5), 5)


def test_the_proofs_of_two_identities_do_not_mix(
    request_: AdmissionRequest, next_request: AdmissionRequest, trust: Trust
) -> None:
    # The new secret with the old key and certificate, and the reverse.
    refused_as("certificate_key", replace(request_, token=NEXT_SECRET), trust, entry=RENEWING)
    refused_as("certificate_key", replace(next_request, token=SECRET), trust, entry=RENEWING)
    # The new certificate and secret with the old key's signature.
    mixed = replace(next_request, nkey=request_.nkey, signature=request_.signature)
    refused_as("nonce", mixed, trust, entry=RENEWING)


def test_a_waiting_identity_may_keep_the_key(
    request_: AdmissionRequest, next_request: AdmissionRequest, trust: Trust
) -> None:
    entry = replace(ENTRY, pending=replace(PENDING, rack_public=PUBLIC))
    assert decide(replace(request_, token=NEXT_SECRET), trust, entry).proves == 5
    assert decide(request_, trust, entry).proves == 0
    refused_as("certificate_key", next_request, trust, entry=entry)


def test_the_old_identity_is_dead_once_the_new_one_is_proved(
    request_: AdmissionRequest, next_request: AdmissionRequest, trust: Trust
) -> None:
    promoted = replace(
        ENTRY, rack_public=NEXT_PUBLIC, secret_hash=secret_hash(NEXT_SECRET), serial=5, earlier_keys=(PUBLIC,)
    )
    assert decide(next_request, trust, promoted).proves == 0
    refused_as("certificate_key", request_, trust, entry=promoted)
    kept_key = replace(ENTRY, secret_hash=secret_hash(NEXT_SECRET), serial=5)
    refused_as("secret", request_, trust, entry=kept_key)


def test_a_wrong_secret_behind_the_right_key_and_certificate_tells_of_a_copy(
    request_: AdmissionRequest, trust: Trust
) -> None:
    assert refused_as("secret", replace(request_, token="last year's"), trust).proved == "certificate and key"
    promoted = replace(ENTRY, rack_public=NEXT_PUBLIC, serial=5, earlier_keys=(PUBLIC,))
    assert refused_as("certificate_key", request_, trust, entry=promoted).proved
    # Who proves less says nothing about the key.
    for code, request in (
        ("nonce", replace(request_, token="x", signature=sign(NEXT_KEY))),
        ("secret", replace(request_, token="")),
    ):
        assert refused_as(code, request, trust).proved == ""
    assert refused_as("nonce", replace(request_, signature=""), trust, entry=promoted).proved == ""


def test_a_connection_ends_with_the_passport_if_that_ends_first(
    request_: AdmissionRequest, trust: Trust
) -> None:
    end = NOW.replace(microsecond=0) + datetime.timedelta(days=1)
    entry = replace(ENTRY, passport_not_after=int(end.timestamp()) * 10**9)
    assert decide(request_, trust, entry).expires == end
    refused_as("passport_expired", request_, trust, entry=entry, now=end)
    later = replace(ENTRY, passport_not_after=2**62)
    assert decide(request_, trust, later).expires == leaf_of(request_).not_valid_after_utc


# Bans


def test_a_ban_of_name_machine_or_any_certificate_refuses_whoever_proves_everything(
    request_: AdmissionRequest, trust: Trust
) -> None:
    registered = replace(RENEWING, certificate="sha256:" + "4" * 64)
    for kind, value in (
        ("rack", "stage-left"),
        ("machine", f"{1:016x}"),
        ("certificate", fingerprint(leaf_of(request_))),
        ("certificate", registered.certificate),
        ("certificate", PENDING.certificate),
    ):
        refused_as("denied", request_, trust, entry=registered, bans=banning(kind, value))
    # It holds for a session that was let in before, for a rack that is not registered, and for no other.
    refused_as("denied", rerun_of(request_), trust, known=KNOWN, bans=banning("rack", "stage-left"))
    refused_as("denied", request_, trust, entry=None, bans=banning("rack", "stage-left"))
    others = (("rack", "stage-right"), ("machine", f"{2:016x}"), ("certificate", "sha256:" + "0" * 64))
    for kind, value in others:
        assert decide(request_, trust, bans=banning(kind, value)).user == KNOWN_USER


# What the server asks again at a reload


def rerun_of(request: AdmissionRequest) -> AdmissionRequest:
    return replace(request, token="", nkey="", signature="", current_user=KNOWN_USER)


def test_only_a_session_admitted_before_is_asked_about_without_its_token(
    request_: AdmissionRequest, trust: Trust
) -> None:
    rerun = rerun_of(request_)
    assert decide(rerun, trust, known=KNOWN).user == KNOWN_USER
    refused_as("nonce", rerun, trust, known=None)
    refused_as("nonce", replace(rerun, current_user=""), trust, known=KNOWN)
    refused_as("nonce", replace(rerun, current_user="rack:stage-right"), trust, known=KNOWN)
    refused_as("nonce", rerun, trust, known=replace(KNOWN, user="rack:stage-right"))
    # A token that is given is checked, also on a known session.
    refused_as("secret", replace(request_, current_user=KNOWN_USER, token="wrong"), trust, known=KNOWN)
    # The registry and the certificate still decide.
    refused_as("removed", rerun, trust, known=KNOWN, entry=replace(ENTRY, removed_at=1))
    refused_as("certificate_key", rerun, trust, known=KNOWN, entry=replace(ENTRY, rack_public=bytes(32)))


def test_at_a_reload_a_session_gets_the_rights_of_the_present_status(
    request_: AdmissionRequest, trust: Trust
) -> None:
    suspended = replace(ENTRY, status=PassportStatus.SUSPENDED)
    admitted = decide(rerun_of(request_), trust, suspended, known=KNOWN)
    assert admitted.permissions == limited_rack_permissions("stage-left")
    assert decide(rerun_of(request_), trust, known=KNOWN).permissions == rack_permissions("stage-left", "WAL")


def test_a_session_of_an_older_passport_does_not_outlive_a_reload(
    request_: AdmissionRequest, next_request: AdmissionRequest, trust: Trust
) -> None:
    rerun, newer = rerun_of(request_), replace(KNOWN, serial=5)
    assert decide(rerun, trust, RENEWING, known=KNOWN).known == KNOWN
    assert decide(rerun_of(next_request), trust, RENEWING, known=newer).known == newer
    # A reload proves no secret, so it promotes nothing.
    assert decide(rerun_of(next_request), trust, RENEWING, known=newer).proves == 0
    refused_as("superseded", rerun, trust, known=KNOWN, entry=replace(ENTRY, serial=5))
    refused_as("certificate_key", rerun, trust, known=newer, entry=RENEWING)


@given(
    known=st.booleans(),
    token=st.sampled_from(["", "guess"]),
    user=st.sampled_from(["", KNOWN_USER, "rack:x"]),
)
def test_without_the_secret_only_a_rerun_of_a_known_session_passes(
    request_: AdmissionRequest, trust: Trust, known: bool, token: str, user: str
) -> None:
    changed = replace(request_, token=token, current_user=user)
    session = KNOWN if known else None
    if known and token == "" and user == KNOWN_USER:
        decide(changed, trust, known=session)
    else:
        refused_as("secret", changed, trust, known=session)


def test_another_clusters_name_and_a_mixers_certificate_are_refused(
    request_: AdmissionRequest, cluster: Cluster, trust: Trust, chains: Chains
) -> None:
    issuing = cluster.keys.issuing
    foreign = issuing.sign_rack(build_csr(KEY, "x"), RackId("other", "default", "stage-left"), now=NOW)
    with pytest.raises(Refused) as caught:
        policy.prove(replace(request_, chain=pem(foreign, issuing.certificate)), trust, chains, NOW)
    assert caught.value.code == "other_cluster"
    public = generate_private_key(SECP256R1()).public_key()
    server = issuing.sign_server(public, ["mixer"], [], now=NOW, spiffe=MixerId(cluster.name, "mixer"))
    with pytest.raises(Refused) as caught:
        policy.prove(replace(request_, chain=pem(server, issuing.certificate)), trust, chains, NOW)
    assert caught.value.code == "certificate"  # it is no client certificate to begin with


def test_a_certificate_is_judged_at_the_time_given_also_when_it_was_verified_before(
    request_: AdmissionRequest, trust: Trust, chains: Chains
) -> None:
    leaf = leaf_of(request_)
    second = datetime.timedelta(seconds=1)
    policy.prove(request_, trust, chains, NOW)
    for moment in (leaf.not_valid_before_utc - second, leaf.not_valid_after_utc + second):
        with pytest.raises(Refused) as caught:
            policy.prove(request_, trust, chains, moment)
        assert caught.value.code == "certificate"
    assert policy.prove(request_, trust, chains, NOW).identity.name == "stage-left"


def test_a_remembered_chain_vouches_for_no_other(
    request_: AdmissionRequest, next_request: AdmissionRequest, trust: Trust
) -> None:
    chains = Chains(trust.roots, remembered=1)
    for request in (request_, next_request, request_):  # the second pushes the first out
        proved = policy.prove(request, trust, chains, NOW)
        assert proved.chain.fingerprint == fingerprint(leaf_of(request))
    for broken in (request_.chain[:1], request_.chain[::-1], (request_.chain[1],)):
        with pytest.raises(Refused):
            policy.prove(replace(request_, chain=broken), trust, chains, NOW)


@pytest.mark.parametrize("role", list(Role))
def test_a_client_reads_and_publishes_nothing_and_is_refused_when_its_certificate_is_banned(
    request_: AdmissionRequest, cluster: Cluster, trust: Trust, chains: Chains, role: Role
) -> None:
    issuing = cluster.keys.issuing
    public = generate_private_key(SECP256R1()).public_key()
    leaf = issuing.sign_client(public, ClientId(cluster.name, role, "desk"), now=NOW)
    request = replace(
        request_, chain=pem(leaf, issuing.certificate), cipher="TLS_AES_128_GCM_SHA256", token=""
    )
    proved = policy.prove(request, trust, chains, NOW)
    assert isinstance(proved.identity, ClientId)
    admitted = policy.admit_client(proved.chain, proved.identity, NOBODY)
    assert admitted.user == f"client:{role.value}:desk"
    assert admitted.permissions.publish == ()
    # nats-server reads an empty list as "everything": nothing must be said as a denial.
    assert subject_lists(admitted.permissions)[0] == (">",)
    with pytest.raises(Refused) as caught:
        policy.admit_client(proved.chain, proved.identity, banning("certificate", fingerprint(leaf)))
    assert caught.value.code == "denied"
