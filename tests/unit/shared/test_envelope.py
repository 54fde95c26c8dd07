from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.errors import DecodeError, StageboxError, VerificationError

KEY, OTHER = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
PUBLIC = bytes(KEY.verify_key)
DOMAINS = [
    envelope.DOMAIN_PASSPORT,
    envelope.DOMAIN_CHECKPOINT,
    envelope.DOMAIN_WAL,
    envelope.DOMAIN_SEAL,
]


@given(st.binary(max_size=300), st.sampled_from(DOMAINS))
def test_a_sealed_payload_opens_to_itself(payload: bytes, domain: bytes) -> None:
    sealed = envelope.seal(domain, payload, KEY)
    assert envelope.open_envelope(domain, sealed, PUBLIC) == payload
    assert envelope.split(sealed)[0] == payload


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_in_any_byte_is_refused(bit: int) -> None:
    sealed = envelope.seal(envelope.DOMAIN_WAL, b"payload", KEY)
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 1 << bit
        with pytest.raises(StageboxError) as caught:
            envelope.open_envelope(envelope.DOMAIN_WAL, bytes(damaged), PUBLIC)
        assert isinstance(caught.value, DecodeError | VerificationError)


def test_every_truncation_is_refused() -> None:
    sealed = envelope.seal(envelope.DOMAIN_WAL, b"payload", KEY)
    for length in range(len(sealed)):
        with pytest.raises(DecodeError):
            envelope.open_envelope(envelope.DOMAIN_WAL, sealed[:length], PUBLIC)


@given(st.binary(max_size=120))
def test_no_bytes_open_by_chance(data: bytes) -> None:
    with pytest.raises((DecodeError, VerificationError)):
        envelope.open_envelope(envelope.DOMAIN_WAL, data, PUBLIC)


@pytest.mark.parametrize("signed", DOMAINS)
@pytest.mark.parametrize("asked", DOMAINS)
def test_a_signature_holds_for_one_purpose_only(signed: bytes, asked: bytes) -> None:
    sealed = envelope.seal(signed, b"payload", KEY)
    if signed == asked:
        assert envelope.open_envelope(asked, sealed, PUBLIC) == b"payload"
        return
    with pytest.raises(VerificationError, match=asked.rstrip(b"\0").decode()):
        envelope.open_envelope(asked, sealed, PUBLIC)


def test_no_domain_is_the_beginning_of_another() -> None:
    for one in DOMAINS:
        assert not any(one != other and other.startswith(one) for other in DOMAINS)


@pytest.mark.parametrize("domain", [b"", b"\0", b"stagebox.wal.v1", b"a\0b\0"])
def test_a_domain_that_could_run_into_the_payload_is_a_programming_error(domain: bytes) -> None:
    with pytest.raises(ValueError, match="domain"):
        envelope.seal(domain, b"", KEY)
    with pytest.raises(ValueError, match="domain"):
        envelope.open_envelope(domain, envelope.seal(DOMAINS[0], b"", KEY), PUBLIC)


@pytest.mark.parametrize("public", [bytes(OTHER.verify_key), bytes(32), b"", bytes(31), bytes(33)])
def test_another_or_an_impossible_key_is_refused(public: bytes) -> None:
    with pytest.raises(VerificationError):
        envelope.open_envelope(envelope.DOMAIN_WAL, envelope.seal(envelope.DOMAIN_WAL, b"", KEY), public)


def test_an_unknown_field_is_refused_since_nothing_signs_it() -> None:
    payload, signature = envelope.split(envelope.seal(envelope.DOMAIN_WAL, b"payload", KEY))
    data = cbor.encode({"Payload": payload, "Signature": signature, "Note": "x"})
    with pytest.raises(DecodeError, match="unknown field 'Note'"):
        envelope.open_envelope(envelope.DOMAIN_WAL, data, PUBLIC)


def test_size_is_bounded_before_anything_is_verified() -> None:
    sealed = envelope.seal(envelope.DOMAIN_WAL, bytes(1000), KEY)
    assert envelope.open_envelope(envelope.DOMAIN_WAL, sealed, PUBLIC, max_bytes=len(sealed))
    with pytest.raises(DecodeError, match="larger"):
        envelope.open_envelope(envelope.DOMAIN_WAL, sealed, PUBLIC, max_bytes=len(sealed) - 1)


@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, 65_535, 65_536, 70_000])
def test_the_layout_written_directly_is_the_deterministic_encoding(size: int) -> None:
    payload = bytes(size)
    data = envelope.seal(envelope.DOMAIN_WAL, payload, KEY)
    _, signature = envelope.split(data)
    assert data == cbor.encode({"Payload": payload, "Signature": signature})
    assert envelope.split(data) == (payload, signature)


@pytest.mark.parametrize("size", [0, 23, 24, 255, 256])
def test_a_longer_head_than_needed_is_refused(size: int) -> None:
    data = envelope.seal(envelope.DOMAIN_WAL, bytes(size), KEY)
    head = len(b"\xa2\x67Payload")
    old = 1 if size < 24 else 2 if size < 256 else 3
    stretched = data[:head] + b"\x5a" + size.to_bytes(4, "big") + data[head + old :]
    with pytest.raises(DecodeError):
        envelope.split(stretched)
