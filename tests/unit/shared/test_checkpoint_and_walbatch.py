from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.errors import DecodeError, StageboxError, VerificationError
from stagebox.limits import LIMITS
from stagebox.records.checkpoint import Checkpoint, StreamDigests, payload_hash
from stagebox.records.walbatch import FIRST_PREVIOUS, WalBatch, WalRecord, payload_digest

KEY = SigningKey(bytes(32))
PUBLIC = bytes(KEY.verify_key)
UINT64 = st.integers(0, (1 << 64) - 1)
BYTES16, BYTES32 = st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32)
EXTRA = st.dictionaries(
    st.text(max_size=6).map(lambda key: f"x-{key}"), st.integers() | st.text(max_size=5), max_size=2
).filter(lambda extra: all(abs(value) < 1 << 63 for value in extra.values() if isinstance(value, int)))
STREAM = st.builds(StreamDigests, UINT64, st.lists(BYTES32, min_size=1, max_size=5).map(tuple))
CHECKPOINTS = st.builds(
    Checkpoint,
    st.text(max_size=10), BYTES16, UINT64, BYTES32, UINT64, UINT64,
    st.dictionaries(st.text(max_size=15), STREAM, max_size=4),
    st.lists(st.binary(max_size=30), max_size=3).map(tuple),
    EXTRA,
)  # fmt: skip
WAL_RECORD = st.builds(WalRecord, st.text(max_size=8), UINT64, st.text(max_size=20), st.binary(max_size=50))
BATCHES = st.builds(
    WalBatch,
    st.text(max_size=10), st.integers(1, 1 << 40), BYTES32,
    st.lists(WAL_RECORD, min_size=1, max_size=6).map(tuple), BYTES16, EXTRA,
)  # fmt: skip

CHECKPOINT = Checkpoint(
    "stage-left", bytes(16), 1, bytes(32), 10, 20,
    {"rack.stage-left.status": StreamDigests(1, (bytes(32), bytes([1]) * 32))}, (b"leaf", b"issuing"),
)  # fmt: skip
BATCH = WalBatch("stage-left", 1, FIRST_PREVIOUS, (WalRecord("event", 5, "rack.stage-left.event", b"data"),))
SIGNED: list[tuple[bytes, bytes, bytes, Callable[[bytes], Any]]] = [
    (envelope.DOMAIN_CHECKPOINT, CHECKPOINT.sign(KEY), CHECKPOINT.encode(), Checkpoint.decode),
    (envelope.DOMAIN_WAL, BATCH.sign(KEY), BATCH.encode(), WalBatch.decode),
]


@given(CHECKPOINTS)
def test_a_checkpoint_decodes_to_itself_and_to_the_same_bytes(checkpoint: Checkpoint) -> None:
    data = checkpoint.encode()
    assert Checkpoint.decode(data) == checkpoint
    cbor.decode_canonical(data, max_bytes=LIMITS.max_checkpoint_bytes)
    assert payload_hash(data) == blake3(data).digest()


@given(BATCHES)
def test_a_batch_decodes_to_itself_and_to_the_same_bytes(batch: WalBatch) -> None:
    data = batch.encode()
    assert WalBatch.decode(data) == batch
    cbor.decode_canonical(data, max_bytes=LIMITS.max_wal_batch_bytes)
    assert batch.digest() == payload_digest(data) == blake3(data).digest()
    assert batch.last - batch.first + 1 == len(batch.records)


@given(BATCHES, BATCHES)
def test_two_batches_share_a_digest_only_if_they_are_the_same(one: WalBatch, other: WalBatch) -> None:
    assert (one.digest() == other.digest()) is (one == other)


@pytest.mark.parametrize(("domain", "wire", "payload", "decode"), SIGNED, ids=["checkpoint", "batch"])
def test_the_wire_form_is_the_payload_in_its_own_envelope(
    domain: bytes, wire: bytes, payload: bytes, decode: Callable[[bytes], Any]
) -> None:
    assert envelope.open_envelope(domain, wire, PUBLIC) == payload
    for position in range(len(wire)):
        damaged = bytearray(wire)
        damaged[position] ^= 0x10
        with pytest.raises(StageboxError):
            envelope.open_envelope(domain, bytes(damaged), PUBLIC)
    for other in (envelope.DOMAIN_PASSPORT, envelope.DOMAIN_SEAL):
        with pytest.raises(VerificationError):
            envelope.open_envelope(other, wire, PUBLIC)


@pytest.mark.parametrize(("domain", "wire", "payload", "decode"), SIGNED, ids=["checkpoint", "batch"])
def test_versions_missing_fields_types_and_truncation_are_refused(
    domain: bytes, wire: bytes, payload: bytes, decode: Callable[[bytes], Any]
) -> None:
    fields: dict[str, Any] = cbor.decode(payload, max_bytes=len(payload))
    for version in (0, 2, "1"):
        with pytest.raises(DecodeError, match="ersion"):
            decode(cbor.encode({**fields, "Version": version}))
    for name in fields:
        with pytest.raises(DecodeError):
            decode(cbor.encode({key: value for key, value in fields.items() if key != name}))
        for wrong in (None, True, -1, 1.5, b"x", [1], {"a": 1}):
            with pytest.raises(DecodeError):
                decode(cbor.encode({**fields, name: wrong}))
    for length in range(len(payload)):
        with pytest.raises(DecodeError):
            decode(payload[:length])
    kept = decode(cbor.encode({**fields, "Future": [1]}))
    assert kept.extra == {"Future": [1]}


def test_a_checkpoint_over_a_limit_is_refused() -> None:
    fields: dict[str, Any] = cbor.decode(CHECKPOINT.encode(), max_bytes=1 << 20)
    stream = {"First": 1, "Digests": bytes(32)}
    too_many_streams = {f"rack.r.meter.s{n}": stream for n in range(LIMITS.max_streams_per_checkpoint + 1)}
    too_many_digests = {
        "rack.r.status": {"First": 1, "Digests": bytes(32 * (LIMITS.max_digests_per_stream + 1))}
    }
    for streams in (too_many_streams, too_many_digests):
        with pytest.raises(DecodeError):
            Checkpoint.decode(cbor.encode({**fields, "Streams": streams}))
    with pytest.raises(DecodeError, match="Chain"):
        Checkpoint.decode(cbor.encode({**fields, "Chain": [b""] * (LIMITS.max_chain_certificates + 1)}))


@pytest.mark.parametrize("digests", [b"", bytes(31), bytes(33), "x" * 32, [bytes(32)]])
def test_digests_are_a_whole_number_of_32_bytes(digests: object) -> None:
    fields: dict[str, Any] = cbor.decode(CHECKPOINT.encode(), max_bytes=1 << 20)
    with pytest.raises(DecodeError):
        Checkpoint.decode(
            cbor.encode({**fields, "Streams": {"rack.r.status": {"First": 1, "Digests": digests}}})
        )


@pytest.mark.parametrize(
    "row",
    [
        [], ["event", 1, "s"], ["event", 1, "s", b"", 0], [1, 1, "s", b""], ["event", "1", "s", b""],
        ["event", -1, "s", b""], ["event", True, "s", b""], ["event", 1 << 64, "s", b""],
        ["event", 1, b"s", b""], ["event", 1, "s", "text"], {"kind": "event"}, None,
    ],
)  # fmt: skip
def test_a_malformed_row_is_refused(row: object) -> None:
    fields: dict[str, Any] = cbor.decode(BATCH.encode(), max_bytes=1 << 20)
    with pytest.raises(DecodeError):
        WalBatch.decode(cbor.encode({**fields, "Records": [*fields["Records"], row]}))


def test_a_batch_is_never_empty_and_starts_at_one() -> None:
    fields: dict[str, Any] = cbor.decode(BATCH.encode(), max_bytes=1 << 20)
    with pytest.raises(DecodeError, match="empty"):
        WalBatch.decode(cbor.encode({**fields, "Records": []}))
    with pytest.raises(DecodeError, match="before 1"):
        WalBatch.decode(cbor.encode({**fields, "First": 0}))


def test_leaving_out_repeating_or_reordering_a_record_changes_the_digest() -> None:
    records = tuple(WalRecord("event", n, "rack.r.event", b"%d" % n) for n in range(3))
    whole = WalBatch("r", 1, FIRST_PREVIOUS, records)
    others = (records[:2], (*records, records[2]), (records[1], records[0], records[2]))
    digests = {WalBatch("r", 1, FIRST_PREVIOUS, changed).digest() for changed in others}
    assert len(digests) == 3
    assert whole.digest() not in digests
