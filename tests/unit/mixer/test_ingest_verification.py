"""What a journal batch must prove, as pure functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from stagebox import envelope
from stagebox.passport import PassportStatus
from stagebox.records.checkpoint import FIRST_PREVIOUS, Checkpoint, StreamDigests
from stagebox.records.digest import record_digest
from stagebox.records.walbatch import WalBatch, WalRecord
from stagebox_mixer.ingest.verification import (
    BatchRejected,
    CheckpointAudit,
    Continuation,
    VerifiedBatch,
    continues,
    open_batch,
)
from stagebox_mixer.lake.state import ChainHead
from stagebox_mixer.registry.model import PendingIssue, RackEntry
from support.rackside import Journal

RACK = "stage-left"
KEY = SigningKey.generate()
PUBLIC = bytes(KEY.verify_key)
SUBJECT = f"rack.{RACK}.event"


def verified(batch: WalBatch) -> VerifiedBatch:
    return open_batch(batch.sign(KEY), rack=RACK, keys=[PUBLIC])


def code_of(data: bytes, *, rack: str = RACK, public: bytes = PUBLIC) -> str:
    with pytest.raises(BatchRejected) as caught:
        open_batch(data, rack=rack, keys=[public])
    return caught.value.code


def test_a_batch_opens_for_its_rack_with_the_payload_exactly_as_signed() -> None:
    batch = Journal(RACK, KEY).batch(b"one", b"two")
    opened = verified(batch)
    assert opened.batch == batch
    assert opened.payload == batch.encode()
    assert opened.head == ChainHead(2, batch.digest())


@given(st.data())
def test_a_flipped_bit_anywhere_is_found(data: st.DataObject) -> None:
    signed = bytearray(Journal(RACK, KEY, bytes(16)).signed(b"payload"))
    bit = data.draw(st.integers(0, len(signed) * 8 - 1))
    signed[bit // 8] ^= 1 << bit % 8
    assert code_of(bytes(signed)) in ("malformed", "signature")


@given(st.binary(max_size=200))
def test_garbage_is_malformed(data: bytes) -> None:
    assert code_of(data) == "malformed"


@pytest.mark.parametrize(
    ("kind", "time_ns"), [("event", 1 << 63), ("event", (1 << 64) - 1), ("arrivals", 1), ("_batches", 1)]
)
def test_a_record_that_the_lake_could_not_sort_is_refused_with_its_batch(kind: str, time_ns: int) -> None:
    records = (WalRecord("event", 1, SUBJECT, b"fine"), WalRecord(kind, time_ns, SUBJECT, b"x"))
    assert code_of(WalBatch(RACK, 1, FIRST_PREVIOUS, records).sign(KEY)) == "malformed"


@given(st.text(max_size=8), st.integers(0, (1 << 63) - 1))
def test_every_other_kind_and_time_of_a_record_is_taken(kind: str, time_ns: int) -> None:
    batch = WalBatch(RACK, 1, FIRST_PREVIOUS, (WalRecord(kind, time_ns, SUBJECT, b"x"),))
    assert verified(batch).batch == batch


def test_a_signature_for_another_purpose_or_by_another_key_does_not_count() -> None:
    batch = Journal(RACK, KEY).batch(b"x")
    assert code_of(envelope.seal(envelope.DOMAIN_CHECKPOINT, batch.encode(), KEY)) == "signature"
    assert code_of(batch.sign(SigningKey.generate())) == "signature"
    assert code_of(batch.sign(KEY), public=bytes(32)) == "signature"
    assert code_of(batch.sign(KEY), rack="stage-right") == "other_rack"


def public(key: SigningKey) -> bytes:
    return bytes(key.verify_key)


EARLIER, NEXT = SigningKey.generate(), SigningKey.generate()
PENDING = PendingIssue(
    rack_public=public(NEXT), secret_hash=bytes(32), serial=2, issued_at=1, passport_not_after=2,
    certificate="sha256:" + "00" * 32, certificate_der=b"der", certificate_not_after=2, request=bytes(32),
)  # fmt: skip
ENTRY = RackEntry(
    name=RACK, tenant="default", machine_id=1, rack_public=PUBLIC, status=PassportStatus.ACTIVE, serial=1,
    secret_hash=bytes(32), certificate="", certificate_not_after=0, enrolled_at=0,
    earlier_keys=(public(EARLIER),), pending=PENDING,
)  # fmt: skip


@pytest.mark.parametrize("key", [KEY, EARLIER, NEXT], ids=["current", "earlier", "issued, not yet proved"])
def test_a_batch_counts_whichever_of_the_racks_keys_signed_it(key: SigningKey) -> None:
    batch = Journal(RACK, key).batch(b"x")
    assert open_batch(batch.sign(key), rack=RACK, keys=ENTRY.keys).batch == batch


@pytest.mark.parametrize(
    "since",
    [
        {"status": PassportStatus.SUSPENDED},
        {"status": PassportStatus.PENDING},
        {"removed_at": 5, "pending": None},
    ],
    ids=["suspended", "pending", "removed"],
)
def test_what_a_rack_shipped_before_it_was_suspended_or_removed_stays_verifiable(
    since: dict[str, Any],
) -> None:
    entry = RackEntry.decode(replace(ENTRY, **since).encode())
    for key in (KEY, EARLIER):
        assert open_batch(Journal(RACK, key).signed(b"x"), rack=RACK, keys=entry.keys)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.data())
def test_any_delivery_order_commits_no_batch_twice_and_counts_what_was_skipped(
    sizes: list[int], data: st.DataObject
) -> None:
    """Whatever is repeated, left out or comes late: committed and missing records add up to the head."""
    journal = Journal(RACK, KEY)
    batches = [verified(journal.batch(*(b"%d" % number for number in range(size)))) for size in sizes]
    order = data.draw(st.lists(st.integers(0, len(batches) - 1), max_size=20))
    head, taken, records, missing = ChainHead(), [], 0, 0
    for index in order:
        batch = batches[index].batch
        continuation = continues(head, batches[index])
        assert (continuation is Continuation.AFTER_GAP) == (batch.first > head.last + 1)
        if continuation is not Continuation.COMMITTED:
            missing += batch.first - head.last - 1
            records += len(batch.records)
            head = batches[index].head
            taken.append(index)
    assert taken == sorted(set(taken))
    assert records + missing == head.last


def test_a_fork_is_found_at_the_head_and_behind_it() -> None:
    journal = Journal(RACK, KEY)
    fork = replace(journal)
    head = verified(journal.batch(b"one")).head
    with pytest.raises(BatchRejected) as caught:
        continues(head, verified(fork.batch(b"other")))
    assert caught.value.code == "fork"
    with pytest.raises(BatchRejected) as caught:
        continues(head, verified(fork.batch(b"next")))
    assert caught.value.code == "fork"


def test_an_overlapping_batch_is_rejected() -> None:
    head = verified(Journal(RACK, KEY).batch(b"1", b"2")).head
    overlapping = replace(Journal(RACK, KEY).batch(b"2", b"3"), first=2)
    with pytest.raises(BatchRejected) as caught:
        continues(head, verified(overlapping))
    assert caught.value.code == "overlap"


# Checkpoints


def record(data: bytes) -> WalRecord:
    return WalRecord("event", 1, SUBJECT, data)


def checkpoint(*data: bytes, key: SigningKey = KEY, rack: str = RACK) -> WalRecord:
    digests = tuple(record_digest(SUBJECT, item) for item in data)
    streams = {SUBJECT: StreamDigests(1, digests)} if digests else {}
    made = Checkpoint(rack, bytes(16), 1, FIRST_PREVIOUS, 1, 2, streams, ())
    return WalRecord("checkpoint", 2, f"rack.{RACK}.checkpoint", made.sign(key))


def test_records_from_before_a_new_key_are_proved_by_checkpoints_of_either() -> None:
    check = audit()
    check.observe(record(b"1"))
    check.observe(record(b"2"))
    check.keys = [public(NEXT), PUBLIC]
    check.observe(checkpoint(b"1", key=KEY))
    check.observe(checkpoint(b"2", key=NEXT))
    assert (check.checkpoints, check.proved) == (2, 2)


def audit(max_digests: int = 10) -> CheckpointAudit:
    return CheckpointAudit(RACK, [PUBLIC], max_digests)


def test_each_record_is_proved_once_by_the_checkpoint_that_lists_it() -> None:
    check = audit()
    for item in (record(b"1"), record(b"2"), record(b"3"), checkpoint(b"1", b"2", b"never sent")):
        check.observe(item)
    assert (check.checkpoints, check.proved) == (1, 2)
    check.observe(checkpoint(b"1", b"2", b"3"))
    assert (check.checkpoints, check.proved) == (2, 3)


def test_the_same_bytes_on_another_subject_are_not_proved() -> None:
    check = audit()
    check.observe(record(b"1")._replace(subject=f"rack.{RACK}.alert"))
    check.observe(checkpoint(b"1"))
    assert check.proved == 0


@pytest.mark.parametrize(
    "false",
    [
        checkpoint(b"1", key=SigningKey.generate()),
        checkpoint(b"1", rack="stage-right"),
        checkpoint(b"1")._replace(data=b"garbage"),
    ],
    ids=["another key", "another rack", "garbage"],
)
def test_a_false_checkpoint_is_rejected_and_proves_nothing(false: WalRecord) -> None:
    check = audit()
    check.observe(record(b"1"))
    with pytest.raises(BatchRejected) as caught:
        check.observe(false)
    assert caught.value.code == "checkpoint"
    assert (check.checkpoints, check.proved) == (0, 0)
    check.observe(checkpoint(b"1"))
    assert check.proved == 1


@given(st.integers(1, 5), st.integers(0, 20))
def test_memory_is_bounded_and_what_is_forgotten_is_counted(limit: int, count: int) -> None:
    check = audit(limit)
    for number in range(count):
        check.observe(record(b"%d" % number))
    check.observe(checkpoint(*(b"%d" % number for number in range(count))))
    assert check.forgotten == max(0, count - limit)
    assert check.proved == min(count, limit)
