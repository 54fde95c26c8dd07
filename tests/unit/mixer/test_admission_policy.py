"""The admission decision as a pure function: no proof can stand in for another."""

from __future__ import annotations

import base64
import datetime
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from stagebox.certificates import build_csr
from stagebox.cipher_policy import CIPHER_SUITE
from stagebox.identity import ClientId, MixerId, RackId, Role
from stagebox.passport import PassportStatus
from stagebox_keys.nkey import NkeyKind, encode_public
from stagebox_mixer.admission.policy import (
    Admitted,
    Refused,
    Trust,
    admit_client,
    admit_rack,
    identify,
    subject_lists,
)
from stagebox_mixer.admission.request import AdmissionRequest, Session
from stagebox_mixer.registry.model import RackEntry, secret_hash
from support.cluster import Cluster

NONCE = "c2VydmVyLW5vbmNl"
SECRET = "passport-secret"
NOW = datetime.datetime.now(datetime.UTC)
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
KNOWN_USER = "rack:stage-left"


@pytest.fixture(scope="session")
def trust(cluster: Cluster) -> Trust:
    return Trust(cluster.name, (cluster.keys.issuing.root,), "WAL")


@pytest.fixture(scope="session")
def rack_id(cluster: Cluster) -> RackId:
    return RackId(cluster.name, "default", "stage-left")


@pytest.fixture(scope="session")
def request_(cluster: Cluster, rack_id: RackId) -> AdmissionRequest:
    """A rack's request with all three proofs."""
    issuing = cluster.keys.issuing
    leaf = issuing.sign_rack(build_csr(KEY, "x"), rack_id, now=NOW)
    return AdmissionRequest(
        session=Session("NSERVER", 7),
        user_nkey="UNEW",
        host="127.0.0.1",
        kind="Websocket",
        current_user="",
        nonce=NONCE,
        nkey=encode_public(NkeyKind.USER, PUBLIC),
        signature=sign(KEY),
        token=SECRET,
        tls_version="1.3",
        cipher=CIPHER_SUITE,
        chain=(leaf, issuing.certificate),
    )


ENTRY = RackEntry(
    "stage-left", "default", 1, PUBLIC, PassportStatus.ACTIVE, 1, secret_hash(SECRET), "sha256:…", 1, 1
)


def sign(key: Ed25519PrivateKey, nonce: str = NONCE) -> str:
    return base64.b64encode(key.sign(nonce.encode())).decode()


def decide(
    request: AdmissionRequest, trust: Trust, entry: RackEntry | None = ENTRY, *, known: bool = False
) -> Admitted:
    identity = identify(request, trust, NOW)
    assert isinstance(identity, RackId)
    return admit_rack(request, identity, entry, trust, known_session=known)


def refused_as(code: str, request: AdmissionRequest, trust: Trust, **given_: object) -> None:
    with pytest.raises(Refused) as caught:
        decide(request, trust, **given_)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_three_proofs_admit_until_the_certificate_ends(request_: AdmissionRequest, trust: Trust) -> None:
    admitted = decide(request_, trust)
    assert admitted.user == KNOWN_USER
    assert admitted.expires == request_.chain[0].not_valid_after_utc
    assert admitted.permissions.publish == ("rack.stage-left.>", "$JS.API.DIRECT.GET.WAL.rack.stage-left.wal")


def test_each_missing_or_wrong_proof_has_its_own_reason(request_: AdmissionRequest, trust: Trust) -> None:
    other = Ed25519PrivateKey.generate()
    other_nkey = encode_public(NkeyKind.USER, other.public_key().public_bytes_raw())
    for code, changed in (
        ("no_certificate", replace(request_, chain=())),
        ("certificate", replace(request_, chain=request_.chain[:1])),
        ("certificate", replace(request_, chain=request_.chain[1:])),
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
    refused_as("pending", request_, trust, entry=replace(ENTRY, status=PassportStatus.PENDING))
    refused_as("suspended", request_, trust, entry=replace(ENTRY, status=PassportStatus.SUSPENDED))
    refused_as("certificate_key", request_, trust, entry=replace(ENTRY, rack_public=bytes(32)))


def test_only_a_session_admitted_before_is_asked_about_without_its_token(
    request_: AdmissionRequest, trust: Trust
) -> None:
    rerun = replace(request_, token="", nkey="", signature="", current_user=KNOWN_USER)
    assert decide(rerun, trust, known=True).user == KNOWN_USER
    refused_as("nonce", rerun, trust, known=False)
    refused_as("nonce", replace(rerun, current_user=""), trust, known=True)
    refused_as("nonce", replace(rerun, current_user="rack:stage-right"), trust, known=True)
    # A token that is given is checked, also on a known session.
    refused_as("secret", replace(request_, current_user=KNOWN_USER, token="wrong"), trust, known=True)
    # The registry and the certificate still decide.
    refused_as("suspended", rerun, trust, known=True, entry=replace(ENTRY, status=PassportStatus.SUSPENDED))
    refused_as("certificate_key", rerun, trust, known=True, entry=replace(ENTRY, rack_public=bytes(32)))


@given(
    known=st.booleans(),
    token=st.sampled_from(["", "guess"]),
    user=st.sampled_from(["", KNOWN_USER, "rack:x"]),
)
def test_without_the_secret_only_a_rerun_of_a_known_session_passes(
    request_: AdmissionRequest, trust: Trust, known: bool, token: str, user: str
) -> None:
    changed = replace(request_, token=token, current_user=user)
    if known and token == "" and user == KNOWN_USER:
        decide(changed, trust, known=known)
    else:
        refused_as("secret", changed, trust, known=known)


def test_another_clusters_name_and_a_mixers_certificate_are_refused(
    request_: AdmissionRequest, cluster: Cluster, trust: Trust
) -> None:
    issuing = cluster.keys.issuing
    foreign = issuing.sign_rack(build_csr(KEY, "x"), RackId("other", "default", "stage-left"), now=NOW)
    with pytest.raises(Refused) as caught:
        identify(replace(request_, chain=(foreign, issuing.certificate)), trust, NOW)
    assert caught.value.code == "other_cluster"
    public = generate_private_key(SECP256R1()).public_key()
    server = issuing.sign_server(public, ["mixer"], [], now=NOW, spiffe=MixerId(cluster.name, "mixer"))
    with pytest.raises(Refused) as caught:
        identify(replace(request_, chain=(server, issuing.certificate)), trust, NOW)
    assert caught.value.code == "certificate"  # it is no client certificate to begin with


def test_a_certificate_is_judged_at_the_time_given(request_: AdmissionRequest, trust: Trust) -> None:
    leaf = request_.chain[0]
    second = datetime.timedelta(seconds=1)
    for moment in (leaf.not_valid_before_utc - second, leaf.not_valid_after_utc + second):
        with pytest.raises(Refused) as caught:
            identify(request_, trust, moment)
        assert caught.value.code == "certificate"


@pytest.mark.parametrize("role", list(Role))
def test_a_clients_role_sets_its_rights(
    request_: AdmissionRequest, cluster: Cluster, trust: Trust, role: Role
) -> None:
    issuing = cluster.keys.issuing
    public = generate_private_key(SECP256R1()).public_key()
    leaf = issuing.sign_client(public, ClientId(cluster.name, role, "desk"), now=NOW)
    request = replace(request_, chain=(leaf, issuing.certificate), cipher="TLS_AES_128_GCM_SHA256", token="")
    identity = identify(request, trust, NOW)
    assert isinstance(identity, ClientId)
    admitted = admit_client(request, identity)
    assert admitted.user == f"client:{role.value}:desk"
    assert admitted.permissions.publish == (() if role is Role.VIEWER else ("mixer.cmd.*",))
    # nsserver reads an empty list as "everything": nothing must be said as a denial.
    assert subject_lists(admitted.permissions)[0] == ((">",) if role is Role.VIEWER else ())
