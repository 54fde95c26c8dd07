"""Registry entries survive a round trip, keep what they do not know, and hold no secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox import cbor
from stagebox.errors import DecodeError
from stagebox.passport import PassportStatus
from stagebox_mixer.registry.model import (
    PendingIssue,
    RackEntry,
    TokenEntry,
    TokenState,
    secret_hash,
    secret_matches,
    token_hash,
)

uint64 = st.integers(0, (1 << 64) - 1)
key = st.binary(min_size=32, max_size=32)
extra = st.dictionaries(
    st.from_regex(r"x-[a-z]{1,8}", fullmatch=True), st.integers(0, 9) | st.text(max_size=9)
)

issues = st.builds(
    PendingIssue,
    rack_public=key,
    secret_hash=key,
    serial=uint64,
    issued_at=uint64,
    passport_not_after=uint64,
    certificate=st.text(max_size=80),
    certificate_der=st.binary(max_size=200),
    certificate_not_after=uint64,
    request=key,
)
LATER = {
    "passport_not_after", "last_serial", "command_seq", "grace_uses", "renewed_at", "removed_at", "renewal",
    "problem", "pending", "earlier_keys",
}  # fmt: skip
racks = st.builds(
    RackEntry,
    name=st.text(max_size=20),
    tenant=st.text(max_size=20),
    machine_id=uint64,
    rack_public=key,
    status=st.sampled_from(PassportStatus),
    serial=uint64,
    secret_hash=key,
    certificate=st.text(max_size=80),
    certificate_not_after=uint64,
    enrolled_at=uint64,
    passport_not_after=uint64,
    last_serial=uint64,
    pending=st.none() | issues,
    earlier_keys=st.lists(key, max_size=3).map(tuple),
    command_seq=uint64,
    grace_uses=uint64,
    renewed_at=uint64,
    removed_at=uint64,
    renewal=st.sampled_from(["mixer", "operator"]),
    problem=st.text(max_size=20),
    extra=extra,
)
tokens = st.builds(
    TokenEntry,
    rack=st.text(max_size=20),
    tenant=st.text(max_size=20),
    machine_id=uint64,
    state=st.sampled_from(TokenState),
    expires_at=uint64,
    created_at=uint64,
    created_by=st.text(max_size=40),
    used_by=st.binary(max_size=32),
    extra=extra,
)


@given(racks)
def test_a_rack_entry_round_trips_with_fields_of_a_newer_version(entry: RackEntry) -> None:
    assert RackEntry.decode(entry.encode()) == entry


@given(tokens)
def test_a_token_entry_round_trips_with_fields_of_a_newer_version(entry: TokenEntry) -> None:
    assert TokenEntry.decode(entry.encode()) == entry


@given(racks, st.data())
def test_a_missing_or_wrong_field_is_a_decode_error(entry: RackEntry, data: st.DataObject) -> None:
    fields = cbor.expect_map(cbor.decode(entry.encode(), max_bytes=1 << 16), "entry")
    name = data.draw(st.sampled_from(sorted(set(fields) - set(entry.extra))))
    if name not in LATER and data.draw(st.booleans()):
        fields.pop(name)
    else:
        fields[name] = 1.5
    with pytest.raises(DecodeError):
        RackEntry.decode(cbor.encode(fields))


@given(racks)
def test_an_entry_of_the_first_release_is_read_with_what_it_lacks_empty(entry: RackEntry) -> None:
    fields = cbor.expect_map(cbor.decode(entry.encode(), max_bytes=1 << 16), "entry")
    old = RackEntry.decode(cbor.encode({name: fields[name] for name in fields if name not in LATER}))
    assert (old.pending, old.earlier_keys, old.removed_at) == (None, (), 0)
    assert (old.serial, old.highest_serial, old.keys) == (entry.serial, entry.serial, (entry.rack_public,))


def test_an_unknown_version_is_refused() -> None:
    entry = TokenEntry("r", "t", 0, TokenState.ISSUED, 1, 0, "ops")
    fields = cbor.expect_map(cbor.decode(entry.encode(), max_bytes=1 << 16), "entry")
    with pytest.raises(DecodeError, match="version 2, this mixer understands 1"):
        TokenEntry.decode(cbor.encode({**fields, "v": 2}))


@given(st.text(max_size=40), st.text(max_size=40))
def test_only_the_right_secret_matches(secret: str, guess: str) -> None:
    stored = secret_hash(secret)
    assert secret_matches(stored, guess) is (guess == secret and guess != "")


def test_an_empty_secret_never_matches_even_its_own_hash() -> None:
    assert not secret_matches(secret_hash(""), "")


def test_secrets_and_tokens_are_hashed_in_their_own_contexts() -> None:
    assert token_hash("same") != secret_hash("same").hex()
    # Fixed by the stored form: changing either would orphan what is registered.
    assert token_hash("sbt-test") == "049b2f3d273d9558d476ee046913b960002dff07918c9da62fdc61f800d55a34"
    assert secret_hash("sbt-test").hex() == "9caec8b7d217e21a922f77b7fd8a661547550140bfb5cedcb9c3cf7fee61f2ea"


def test_neither_secret_nor_hash_shows_in_a_repr() -> None:
    entry = RackEntry("r", "t", 1, bytes(32), PassportStatus.ACTIVE, 1, b"\xab" * 32, "c", 1, 1)
    assert "abab" not in repr(entry)
    assert "\\xab" not in repr(entry)
