"""Control messages: what is written reads back, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.control.command import Ack, AckResult, Command, open_ack, open_command
from stagebox.control.denylist import Denied, DenyKind, DenyList, denied, open_deny_list
from stagebox.control.fields import payload_digest
from stagebox.control.renewal import Renewal, RenewalRequest
from stagebox.control.request import Answer, ReceivedRequest, Request, open_answer
from stagebox.control.sync import SyncAnswer, SyncReport
from stagebox.control.trust import TrustBundle, open_trust_bundle
from stagebox.errors import DecodeError, InputError, StageboxError, VerificationError
from stagebox.limits import LIMITS

KEY, STRANGER = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
PUBLIC = bytes(KEY.verify_key)
Message = Request | Answer | Command | Ack | TrustBundle | DenyList

UINT = st.integers(0, 2**64 - 1)
TEXT = st.text(max_size=40)
DIGEST = st.binary(min_size=32, max_size=32)
CHAIN = st.lists(st.binary(max_size=60), min_size=1, max_size=3).map(tuple)
VALUES = st.recursive(
    st.none() | st.booleans() | UINT | st.integers(-(2**63), -1) | TEXT | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
MAPS = st.dictionaries(TEXT, VALUES, max_size=4)
# Names a later version may add: none of today's.
EXTRA = st.dictionaries(st.text("abcxyz", min_size=1, max_size=8), VALUES, max_size=3)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
BANS = st.one_of(
    st.builds(Denied, st.just(DenyKind.RACK), NAMES, UINT),
    st.builds(Denied, st.just(DenyKind.MACHINE), UINT.map(lambda number: f"{number:016x}"), UINT),
    st.builds(Denied, st.just(DenyKind.CERTIFICATE), DIGEST.map(lambda raw: f"sha256:{raw.hex()}"), UINT),
    st.builds(Denied, st.just(DenyKind.MODULE), DIGEST.map(lambda raw: f"sha256:{raw.hex()}"), UINT),
    st.builds(Denied, st.just(DenyKind.VENDOR), DIGEST.map(lambda raw: raw[:16].hex()), UINT),
)


@dataclass(frozen=True)
class Codec:
    """One kind of message: how it is made, its domain and how it is opened."""

    kind: type[Message]
    domain: bytes
    messages: st.SearchStrategy[Any]
    open: Callable[[bytes], Message]

    def seal(self, message: Message) -> bytes:
        return envelope.seal(self.domain, message.encode(), KEY)


def open_any_answer(data: bytes) -> Answer:
    return Answer.decode(envelope.open_envelope(envelope.DOMAIN_ANSWER, data, PUBLIC))


CODECS = [
    Codec(
        Request,
        envelope.DOMAIN_REQUEST,
        st.builds(Request, TEXT, TEXT, TEXT, st.binary(min_size=16, max_size=16), UINT, MAPS, EXTRA),
        lambda data: ReceivedRequest.parse(data).verify(PUBLIC),
    ),
    Codec(
        Answer,
        envelope.DOMAIN_ANSWER,
        st.builds(Answer, TEXT, TEXT, TEXT, DIGEST, UINT, TEXT, TEXT, MAPS, EXTRA),
        open_any_answer,
    ),
    Codec(
        Command,
        envelope.DOMAIN_COMMAND,
        st.builds(Command, TEXT, TEXT, UINT, UINT, UINT, TEXT, MAPS, EXTRA),
        lambda data: open_command(data, PUBLIC)[0],
    ),
    Codec(
        Ack,
        envelope.DOMAIN_ACK,
        st.builds(
            Ack, TEXT, TEXT, UINT, DIGEST, st.binary(min_size=16, max_size=16), UINT,
            st.sampled_from(AckResult), TEXT, EXTRA,
        ),
        lambda data: open_ack(data, PUBLIC),
    ),
    Codec(
        TrustBundle,
        envelope.DOMAIN_TRUST,
        st.builds(TrustBundle, TEXT, UINT, UINT, CHAIN, DIGEST, EXTRA),
        lambda data: open_trust_bundle(data, PUBLIC),
    ),
    Codec(
        DenyList,
        envelope.DOMAIN_DENY_LIST,
        st.builds(
            DenyList, TEXT, UINT, UINT, st.lists(BANS, max_size=5, unique=True).map(sorted).map(tuple), EXTRA
        ),
        lambda data: open_deny_list(data, PUBLIC),
    ),
]  # fmt: skip
every_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.kind.__name__)
DOMAINS = [value for name, value in vars(envelope).items() if name.startswith("DOMAIN_")]


def test_every_purpose_has_a_domain_of_its_own() -> None:
    assert len(set(DOMAINS)) == len(DOMAINS)
    assert all(not other.startswith(domain) for domain in DOMAINS for other in DOMAINS if other != domain)


@every_codec
@given(data=st.data())
def test_what_is_sealed_opens_to_the_same_message(codec: Codec, data: st.DataObject) -> None:
    message = data.draw(codec.messages)
    opened = codec.open(codec.seal(message))
    assert opened == message
    assert opened.encode() == message.encode()


@every_codec
@given(data=st.data())
def test_what_a_later_version_adds_is_kept_and_overrides_nothing(codec: Codec, data: st.DataObject) -> None:
    message = data.draw(codec.messages)
    fields = cbor.expect_map(cbor.decode(message.encode(), max_bytes=LIMITS.max_control_bytes), "payload")
    later = {**fields, "Later": [1, {"x": b"y"}]}
    opened = codec.open(envelope.seal(codec.domain, cbor.encode(later), KEY))
    assert opened.extra == {**message.extra, "Later": [1, {"x": b"y"}]}
    assert opened.encode() == cbor.encode(later)
    assert replace(message, extra={**message.extra, "Cluster": "mine"}).encode() == message.encode()


@every_codec
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_found(codec: Codec, data: st.DataObject) -> None:
    sealed = bytearray(codec.seal(data.draw(codec.messages)))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises((DecodeError, VerificationError)):
        codec.open(bytes(sealed))


@every_codec
@given(noise=st.binary(max_size=400))
def test_random_bytes_raise_a_decode_error_and_nothing_else(codec: Codec, noise: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.open(noise)
    with pytest.raises(DecodeError):
        codec.open(envelope.seal(codec.domain, noise, KEY))


@every_codec
@given(data=st.data())
def test_signed_fields_of_any_shape_decode_or_raise_a_decode_error(codec: Codec, data: st.DataObject) -> None:
    """Also who may sign cannot make a reader stumble: each field may hold anything."""
    fields = cbor.expect_map(
        cbor.decode(data.draw(codec.messages).encode(), max_bytes=LIMITS.max_control_bytes), "payload"
    )
    name = data.draw(st.sampled_from(sorted(fields)))
    fields[name] = data.draw(VALUES)
    payload = cbor.encode(fields)
    try:
        opened = codec.open(envelope.seal(codec.domain, payload, KEY))
    except DecodeError:
        return
    assert opened.encode() == payload or codec.kind is DenyList


@every_codec
@given(data=st.data())
def test_a_signature_for_another_purpose_or_by_another_key_proves_nothing(
    codec: Codec, data: st.DataObject
) -> None:
    payload = data.draw(codec.messages).encode()
    for domain in DOMAINS:
        if domain != codec.domain:
            with pytest.raises(VerificationError):
                codec.open(envelope.seal(domain, payload, KEY))
    with pytest.raises(VerificationError):
        codec.open(envelope.seal(codec.domain, payload, STRANGER))


@every_codec
@given(data=st.data())
def test_the_signature_is_looked_at_before_the_content(codec: Codec, data: st.DataObject) -> None:
    """A forgery is never a question of how well its payload is formed. (A request says first whose key to try.)"""
    if codec.kind is Request:
        return
    with pytest.raises(VerificationError):
        codec.open(envelope.seal(codec.domain, data.draw(st.binary(max_size=50)), STRANGER))


@every_codec
def test_a_message_over_the_limit_is_refused(codec: Codec) -> None:
    payload = cbor.encode({"Version": 1, "Filler": bytes(LIMITS.max_control_bytes)})
    with pytest.raises(DecodeError):
        codec.open(envelope.seal(codec.domain, payload, KEY))


# What binds one message to another


REQUEST = Request("flux-prod", "stage-left", "renew", bytes(16), 1, {"x": 1})


def answer_to(request: Request, **fields: Any) -> bytes:
    made = Answer(request.cluster, request.rack, request.verb, payload_digest(request.encode()), 2)
    return envelope.seal(envelope.DOMAIN_ANSWER, replace(made, **fields).encode(), KEY)


@given(st.sampled_from(["cluster", "rack", "verb"]), TEXT)
def test_an_answer_fits_the_request_it_names_and_no_other(name: str, value: str) -> None:
    assert open_answer(answer_to(REQUEST), PUBLIC, REQUEST).error == ""
    assume(getattr(REQUEST, name) != value)
    with pytest.raises(VerificationError, match="not to our request"):
        open_answer(answer_to(REQUEST, **{name: value}), PUBLIC, REQUEST)


@given(st.binary(min_size=16, max_size=16))
def test_an_answer_to_an_earlier_nonce_is_not_taken_for_fresh(nonce: bytes) -> None:
    assume(nonce != REQUEST.nonce)
    with pytest.raises(VerificationError, match="not to our request"):
        open_answer(answer_to(replace(REQUEST, nonce=nonce)), PUBLIC, REQUEST)


def test_no_secret_shows_in_the_text_of_a_message() -> None:
    secret = b"the-passport-with-its-secret"
    shown = [
        repr(replace(REQUEST, body={"Passport": secret})),
        repr(Command("c", "r", 1, 1, 2, "passport", {"Passport": secret})),
        repr(Answer("c", "r", "renew", bytes(32), 1, body={"Passport": secret})),
        repr(ReceivedRequest.parse(replace(REQUEST, body={"Passport": secret}).seal(KEY))),
        repr(RenewalRequest(b"csr", secret, (b"der",))),
        repr(Renewal((b"der",), b"trust", secret)),
    ]
    assert all("secret" not in text for text in shown)


# Bodies

BODIES: list[tuple[Callable[[dict[str, Any]], Any], st.SearchStrategy[Any]]] = [
    (RenewalRequest.from_body, st.builds(RenewalRequest, st.binary(), st.binary(), CHAIN)),
    (Renewal.from_body, st.builds(Renewal, CHAIN, st.binary(), st.binary())),
    (SyncReport.from_body, st.builds(SyncReport, UINT, TEXT, UINT, UINT, CHAIN, TEXT, TEXT)),
    (SyncAnswer.from_body, st.builds(SyncAnswer, st.binary(), st.booleans(), UINT)),
]
every_body = pytest.mark.parametrize(
    ("parse", "bodies"), BODIES, ids=["renew request", "renew answer", "sync request", "sync answer"]
)


@every_body
@given(data=st.data())
def test_a_body_reads_back_as_it_was_written_and_ignores_what_is_new(
    parse: Callable[[dict[str, Any]], Any], bodies: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    made = data.draw(bodies)
    body = {**made.body(), "Later": 1}
    assert parse(body) == made
    assert body["Later"] == 1, "the caller's map is not consumed"


@every_body
@given(data=st.data())
def test_a_body_of_any_shape_parses_or_raises_a_decode_error(
    parse: Callable[[dict[str, Any]], Any], bodies: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    body = data.draw(bodies).body()
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(VALUES)
    try:
        parse(body)
    except StageboxError as error:
        assert isinstance(error, DecodeError)


# The deny list

BAN = denied("rack", "stage-right", since=5)


@given(st.lists(BANS, max_size=8))
def test_every_change_raises_the_epoch_and_no_change_does_not(bans: list[Denied]) -> None:
    found, epoch = DenyList("flux-prod"), 0
    for ban in bans:
        changed = found.with_denied(ban, now_ns=7)
        epoch += not any(held == ban and held.since >= ban.since for held in found.entries)
        assert changed.epoch == epoch
        assert ban in changed.entries
        assert changed.with_denied(ban, now_ns=9) is changed
        found = changed
    for ban in bans:
        there = ban in found.entries
        found = found.without(ban, now_ns=8)
        epoch += there
        assert found.epoch == epoch
    assert found.entries == ()


def test_a_full_deny_list_says_so_and_still_fits_a_message() -> None:
    entries = tuple(denied("certificate", f"sha256:{number:064x}") for number in range(LIMITS.max_denied))
    full = DenyList("flux-prod", 1, 1, entries)
    assert len(full.encode()) < LIMITS.max_control_bytes
    assert DenyList.decode(full.encode()) == full
    with pytest.raises(InputError, match="full"):
        full.with_denied(BAN, now_ns=2)
    over = replace(full, entries=(*entries, BAN))
    with pytest.raises(DecodeError, match="entries"):
        DenyList.decode(over.encode())


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("rack", "stage.right"), ("rack", ""), ("machine", "ff"), ("machine", "0" * 17), ("machine", "G" * 16),
        ("certificate", "00" * 32), ("certificate", "sha256:" + "0" * 63), ("tenant", "default"), ("", ""),
        ("module", "00" * 32), ("module", "sha256:" + "G" * 64), ("vendor", "0" * 31), ("vendor", "tone-works"),
    ],
)  # fmt: skip
def test_what_is_no_ban_is_refused(kind: str, value: str) -> None:
    with pytest.raises(InputError):
        denied(kind, value)


@pytest.mark.parametrize("filling", [b"\x80", b"\x00", b"\xa0"])
def test_what_a_stranger_sends_is_given_up_after_a_thousand_items(filling: bytes) -> None:
    """Decoded to its end it would hold the mixer's event loop for half a second, before anybody is known."""
    count = LIMITS.max_control_bytes // 2
    many = b"\xa1\x61a\x9a" + count.to_bytes(4, "big") + filling * count
    for decode in (Request.decode, Ack.decode):
        with pytest.raises(DecodeError, match=f"more than {LIMITS.max_control_items} items"):
            decode(many)
    with pytest.raises(DecodeError, match=f"more than {LIMITS.max_envelope_items} items"):
        ReceivedRequest.parse(many)


def test_a_full_deny_list_is_within_the_bounds() -> None:
    entries = tuple(Denied(DenyKind.CERTIFICATE, f"sha256:{n:064x}", n) for n in range(LIMITS.max_denied))
    full = DenyList("flux-prod", 1, 1, entries)
    assert DenyList.decode(full.encode()) == full


def test_a_full_deny_list_is_not_walked_for_each_module() -> None:
    class Entries(tuple[Denied, ...]):
        walked = 0

        def __iter__(self) -> Iterator[Denied]:
            Entries.walked += 1
            return super().__iter__()

    bans = DenyList(
        "flux-prod", 1, 1, Entries(denied("module", f"sha256:{n:064x}") for n in range(LIMITS.max_denied))
    )
    for number in range(1000):
        assert bans.matches_module((number.to_bytes(32, "big"),), ()) is not None
    assert Entries.walked == 1


def test_a_revoked_module_is_hit_by_either_digest_and_by_its_vendor() -> None:
    module, vendor = bytes(range(32)), bytes(range(16))
    bans = DenyList("flux-prod").with_denied(denied("module", f"sha256:{module.hex()}"), now_ns=1)
    assert bans.matches_module((bytes(32), module), ()) == denied("module", f"sha256:{module.hex()}")
    assert bans.matches_module((bytes(32),), (vendor,)) is None
    bans = bans.with_denied(denied("vendor", vendor.hex()), now_ns=2)
    assert bans.matches_module((), (bytes(16), vendor)) == denied("vendor", vendor.hex())
    # A module's digest is no certificate's, and no rack is hit by it.
    assert bans.matches(rack="stage-right", certificates=(f"sha256:{module.hex()}",)) is None
    certificate = DenyList("flux-prod").with_denied(denied("certificate", f"sha256:{module.hex()}"), now_ns=1)
    assert certificate.matches_module((module,), ()) is None


def test_revoked_modules_travel_where_a_release_that_knows_none_keeps_them_unread() -> None:
    plain = DenyList("flux-prod", 1, 1, (BAN,))
    assert "Modules" not in cbor.decode(plain.encode(), max_bytes=1 << 10)
    both = plain.with_denied(denied("module", "sha256:" + "0e" * 32, since=3), now_ns=3)
    fields = cbor.decode(both.encode(), max_bytes=1 << 10)
    assert fields["Denied"] == [["rack", "stage-right", 5]]
    assert fields["Modules"] == [["module", "sha256:" + "0e" * 32, 3]]
    # To it the field is one more that it does not know, and it gives the same bytes on.
    assert replace(plain, epoch=2, time_ns=3, extra={"Modules": fields["Modules"]}).encode() == both.encode()


def test_a_list_full_of_revocations_fits_a_message_and_is_full_for_racks_too() -> None:
    half = LIMITS.max_denied // 2
    entries = tuple(denied("module", f"sha256:{number:064x}") for number in range(half))
    entries += tuple(denied("vendor", f"{number:032x}") for number in range(LIMITS.max_denied - half))
    full = DenyList("flux-prod", 1, 1, entries)
    assert len(full.encode()) < LIMITS.max_control_bytes
    assert DenyList.decode(full.encode()) == full
    with pytest.raises(InputError, match="full"):
        full.with_denied(BAN, now_ns=2)
    with pytest.raises(DecodeError, match="entries"):
        DenyList.decode(replace(full, entries=(*entries, BAN)).encode())
