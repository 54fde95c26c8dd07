from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from stagebox import envelope
from stagebox.records.checkpoint import FIRST_PREVIOUS, Checkpoint, payload_hash
from stagebox.records.digest import record_digest
from stagebox_rack.checkpointing import CheckpointBuilder

KEY = SigningKey(bytes(32))
BOOT = bytes(range(16))
SUBJECTS = [f"rack.stage-left.{tail}" for tail in ("meter.main", "audio.main", "status", "event", "alert")]


def builder(max_digests: int = 100) -> CheckpointBuilder:
    return CheckpointBuilder(
        rack="stage-left", boot=BOOT, chain=[b"leaf", b"issuing"], key=KEY, max_digests=max_digests
    )


def opened(data: bytes) -> tuple[Checkpoint, bytes]:
    payload = envelope.open_envelope(envelope.DOMAIN_CHECKPOINT, data, bytes(KEY.verify_key))
    return Checkpoint.decode(payload), payload_hash(payload)


STEPS = st.lists(st.sampled_from([*SUBJECTS, "sign"]), max_size=80)


@given(STEPS, st.integers(1, 7))
def test_every_record_is_in_exactly_one_checkpoint_and_the_checkpoints_are_a_chain(
    steps: list[str], max_digests: int
) -> None:
    made = builder(max_digests)
    given_digests: dict[str, list[bytes]] = defaultdict(list)
    signed: list[bytes | None] = []
    for now, step in enumerate(steps):
        if step != "sign":
            payload = b"%d" % now
            made.add(step, len(given_digests[step]) + 1, payload, now)
            given_digests[step].append(record_digest(step, payload))
        if step == "sign" or made.full:
            signed.append(made.sign(now))
    signed.append(made.sign(len(steps)))
    assert made.sign(len(steps)) is None

    listed: dict[str, list[bytes]] = defaultdict(list)
    previous, seq, last_to = FIRST_PREVIOUS, 0, 0
    for data in signed:
        if data is None:
            continue
        checkpoint, own_hash = opened(data)
        assert (checkpoint.seq, checkpoint.previous) == (seq + 1, previous)
        assert (checkpoint.rack, checkpoint.boot, checkpoint.chain) == (
            "stage-left",
            BOOT,
            (b"leaf", b"issuing"),
        )
        assert last_to <= checkpoint.from_ns <= checkpoint.to_ns
        assert 1 <= sum(len(stream.digests) for stream in checkpoint.streams.values()) <= max_digests
        for subject, stream in checkpoint.streams.items():
            assert stream.first_seq == len(listed[subject]) + 1
            listed[subject] += stream.digests
        previous, seq, last_to = own_hash, checkpoint.seq, checkpoint.to_ns
    assert listed == {subject: digests for subject, digests in given_digests.items() if digests}


def test_nothing_to_prove_makes_no_checkpoint_and_takes_no_number() -> None:
    made = builder()
    assert made.sign(1) is None
    made.add(SUBJECTS[0], 1, b"x", 2)
    data = made.sign(3)
    assert data is not None
    assert opened(data)[0].seq == 1


@pytest.mark.parametrize("seq", [0, 1, 3, 100])
def test_a_gap_in_the_numbers_is_a_programming_error_that_changes_nothing(seq: int) -> None:
    made = builder()
    made.add(SUBJECTS[0], 1, b"one", 1)
    with pytest.raises(ValueError, match="does not follow"):
        made.add(SUBJECTS[0], seq, b"x", 2)
    made.add(SUBJECTS[0], 2, b"two", 3)
    data = made.sign(4)
    assert data is not None
    digests = opened(data)[0].streams[SUBJECTS[0]].digests
    assert digests == (record_digest(SUBJECTS[0], b"one"), record_digest(SUBJECTS[0], b"two"))


def test_a_full_checkpoint_says_so_and_is_empty_again_once_signed() -> None:
    made = builder(max_digests=2)
    states = [made.full]
    for subject in SUBJECTS[:2]:
        made.add(subject, 1, b"x", 1)
        states.append(made.full)
    made.sign(2)
    states.append(made.full)
    assert states == [False, False, True, False]


def test_a_renewed_identity_signs_the_next_checkpoint_of_the_same_chain() -> None:
    made, other = builder(), SigningKey(bytes([7]) * 32)
    made.add(SUBJECTS[0], 1, b"one", 1)
    first = made.sign(2)
    made.add(SUBJECTS[0], 2, b"two", 3)
    made.rebind(chain=[b"new leaf", b"issuing"], key=other)
    second = made.sign(4)
    assert first is not None and second is not None
    before = opened(first)
    payload = envelope.open_envelope(envelope.DOMAIN_CHECKPOINT, second, bytes(other.verify_key))
    after = Checkpoint.decode(payload)
    assert (after.seq, after.previous, after.chain) == (2, before[1], (b"new leaf", b"issuing"))
    assert after.streams[SUBJECTS[0]].first_seq == 2
