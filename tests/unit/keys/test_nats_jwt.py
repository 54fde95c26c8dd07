from __future__ import annotations

import base64
import json
from typing import Any

import nkeys
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.errors import InputError, VerificationError
from stagebox_keys import nats_jwt
from stagebox_keys.nats_jwt import EVERYTHING, NOTHING, Account, Permissions
from stagebox_keys.nkey import Nkey, NkeyKind, decode_public, encode_public, verify_signature

OPERATOR = Nkey.generate(NkeyKind.OPERATOR)
ACCOUNT = Nkey.generate(NkeyKind.ACCOUNT)
SIGNING = Nkey.generate(NkeyKind.ACCOUNT)
USER = Nkey.generate(NkeyKind.USER)
SERVER = Nkey.generate(NkeyKind.SERVER)


def user_token(**changes: Any) -> str:
    options: dict[str, Any] = {"issued_s": 1_000, "expires_s": 2_000} | changes
    return nats_jwt.user_jwt(SIGNING, ACCOUNT.public, USER.public, "rack-a", EVERYTHING, **options)


@given(st.binary(min_size=32, max_size=32), st.sampled_from(list(NkeyKind)))
def test_public_key_text_round_trips(raw: bytes, kind: NkeyKind) -> None:
    text = encode_public(kind, raw)
    assert text[0] == kind.letter
    assert decode_public(text, kind) == raw


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 55),
    st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
)
def test_a_mistyped_public_key_is_refused(raw: bytes, at: int, letter: str) -> None:
    text = encode_public(NkeyKind.ACCOUNT, raw)
    wrong = text[:at] + letter + text[at + 1 :]
    if wrong != text:
        with pytest.raises(InputError):
            decode_public(wrong, NkeyKind.ACCOUNT)


def test_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="another kind"):
        decode_public(USER.public, NkeyKind.ACCOUNT)


def test_the_reference_library_reads_our_seed_as_the_same_key() -> None:
    pair = nkeys.from_seed(USER.seed().encode())
    assert pair.public_key.decode() == USER.public
    assert pair.sign(b"nonce") == USER.sign(b"nonce")


def test_repr_shows_no_seed() -> None:
    assert USER.seed() not in repr(USER)
    assert USER.private.private_bytes_raw().hex() not in repr(USER)


def test_a_token_verifies_against_its_issuer() -> None:
    claims = nats_jwt.verify(user_token(), now_s=1_500, kind="user", issuer=SIGNING.public)
    assert claims["sub"] == USER.public
    nats = claims["nats"]
    assert isinstance(nats, dict)
    assert nats["issuer_account"] == ACCOUNT.public


@given(st.data())
def test_a_flipped_bit_in_a_token_is_found(data: st.DataObject) -> None:
    token = user_token()
    raw = bytearray(token.encode())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << (bit % 8)
    altered = raw.decode("latin-1")
    try:
        decoded = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in altered.split(".")]
        original = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split(".")]
        # The last character of unpadded base64 has bits that stand for nothing.
        unchanged = decoded[2:] == original[2:] and altered.rpartition(".")[0] == token.rpartition(".")[0]
    except ValueError:
        unchanged = False
    if not unchanged:
        with pytest.raises((InputError, VerificationError)):
            nats_jwt.verify(altered, now_s=1_500, kind="user", issuer=SIGNING.public)


def test_a_token_of_another_issuer_is_refused_even_with_a_good_signature() -> None:
    with pytest.raises(VerificationError, match="issued by"):
        nats_jwt.verify(user_token(), now_s=1_500, kind="user", issuer=ACCOUNT.public)


@pytest.mark.parametrize("now_s", [2_000, 2_001])
def test_a_token_ends_at_its_expiry(now_s: int) -> None:
    with pytest.raises(VerificationError, match="expired"):
        nats_jwt.verify(user_token(), now_s=now_s, kind="user")


def test_a_token_of_another_type_is_refused() -> None:
    with pytest.raises(VerificationError, match="type 'user'"):
        nats_jwt.verify(user_token(), now_s=1_500, kind="account")


def test_a_user_key_signs_no_token() -> None:
    with pytest.raises(InputError, match="may not sign"):
        nats_jwt.user_jwt(USER, ACCOUNT.public, USER.public, "x", EVERYTHING, issued_s=1)


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "é.é.é", "e30.e30.e30", "W10.W10.W10", "x" * 70_000])
def test_what_is_not_a_token_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="token"):
        nats_jwt.decode_unverified(text)


def test_the_algorithm_cannot_be_downgraded() -> None:
    _, claims, signature = user_token().split(".")
    for header in ({"typ": "JWT", "alg": "none"}, {"typ": "JWT", "alg": "ed25519"}, {}):
        forged = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
        with pytest.raises(InputError, match="header"):
            nats_jwt.verify(f"{forged}.{claims}.{signature}", now_s=1_500, kind="user")


def test_the_token_id_is_the_hash_of_the_claims_and_differs_between_tokens() -> None:
    first, second = (nats_jwt.decode_unverified(user_token(issued_s=when)) for when in (1_000, 1_001))
    assert len(str(first["jti"])) == 52
    assert first["jti"] != second["jti"]


def test_permissions_that_allow_nothing_deny_everything() -> None:
    assert NOTHING.claims() == {"pub": {"deny": [">"]}, "sub": {"deny": [">"]}}


def test_reply_permission_is_written_in_nanoseconds() -> None:
    claims = Permissions(subscribe=("mixer.req.>",), responses=1, responses_s=5).claims()
    assert claims["resp"] == {"max": 1, "ttl": 5_000_000_000}


def test_an_account_token_spells_out_every_limit() -> None:
    account = Account("STAGEBOX", ACCOUNT.public, (SIGNING.public,), jetstream=True)
    claims = nats_jwt.verify(
        nats_jwt.account_jwt(OPERATOR, account, issued_s=1), now_s=2, kind="account", issuer=OPERATOR.public
    )
    nats = claims["nats"]
    assert isinstance(nats, dict)
    assert nats["signing_keys"] == [SIGNING.public]
    unlimited = {key for key, value in nats["limits"].items() if value == -1}
    assert {"conn", "leaf", "subs", "mem_storage", "disk_storage", "streams", "consumer"} <= unlimited


def test_an_authorization_response_either_admits_or_refuses() -> None:
    for both in ({}, {"jwt": "x", "error": "y"}):
        with pytest.raises(InputError, match="either"):
            nats_jwt.authorization_response_jwt(
                SIGNING, ACCOUNT.public, user_nkey=USER.public, server_id=SERVER.public, issued_s=1, **both
            )


def test_a_signature_by_another_key_is_refused() -> None:
    with pytest.raises(VerificationError):
        verify_signature(USER.public, NkeyKind.USER, b"nonce", Nkey.generate(NkeyKind.USER).sign(b"nonce"))
    verify_signature(USER.public, NkeyKind.USER, b"nonce", USER.sign(b"nonce"))
