from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.errors import DecodeError, VerificationError
from stagebox.records.checkpoint import Checkpoint, StreamDigests
from stagebox.records.digest import record_digest
from stagebox.subscriber.limits import SUBSCRIBER_LIMITS, SubscriberLimits
from stagebox.subscriber.trust import RackTrust
from stagebox.subscriber.verifier import Outcome, Position, Verdict, Verifier
from support.natsd import Authority
from support.signing import SigningRack

NOW = datetime.datetime.now(datetime.UTC)
Record = tuple[str, bytes]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def rack(authority: Authority) -> SigningRack:
    return SigningRack(authority)


class Reader:
    """A verifier with the plumbing of a stream, and a ledger of what became of each record."""

    def __init__(self, authority: Authority, **limits: Any) -> None:
        self.limits: SubscriberLimits = dataclasses.replace(SUBSCRIBER_LIMITS, **limits)
        self.verifier: Verifier[Record] = Verifier(
            RackTrust([authority.certificate], self.limits), self.limits
        )

    def record(
        self, rack: SigningRack, record: Record, at: float = 0.0, seq: int | None = None
    ) -> list[Verdict]:
        subject, payload = record
        number = cbor.decode_trusted(payload, max_bytes=1 << 16)["seq"] if seq is None else seq
        position: Position = (rack.boot, number)
        return self.verdicts(
            self.verifier.add_record(record, subject, record_digest(subject, payload), position, at)
        )

    def checkpoint(self, rack: SigningRack, data: bytes | None = None) -> list[Verdict]:
        sealed = rack.checkpoint() if data is None else data
        return self.verdicts(self.verifier.add_checkpoint(rack.checkpoint_subject, sealed, NOW)[1])

    @staticmethod
    def verdicts(outcomes: list[Outcome[Record]]) -> list[Verdict]:
        return [outcome.verdict for outcome in outcomes]


def test_a_record_is_verified_by_the_checkpoint_that_lists_it(
    authority: Authority, rack: SigningRack
) -> None:
    reader = Reader(authority)
    for _ in range(3):
        assert reader.record(rack, rack.meter()) == []
    assert reader.verifier.pending == 3
    assert reader.checkpoint(rack) == [Verdict.VERIFIED] * 3
    assert reader.verifier.pending == 0


def test_a_checkpoint_that_overtakes_its_records_still_proves_them(
    authority: Authority, rack: SigningRack
) -> None:
    reader = Reader(authority)
    records = [rack.meter() for _ in range(3)]
    assert reader.checkpoint(rack) == []
    assert [reader.record(rack, record) for record in records] == [[Verdict.VERIFIED]] * 3


def test_a_flipped_bit_in_a_record_is_bad_and_the_genuine_one_beside_it_is_not_displaced(
    authority: Authority, rack: SigningRack
) -> None:
    reader = Reader(authority)
    subject, payload = rack.meter()
    forged = (subject, rack.frame(1, peak=-3.0))
    reader.record(rack, forged)
    reader.record(rack, (subject, payload))
    outcomes = reader.verifier.add_checkpoint(rack.checkpoint_subject, rack.checkpoint(), NOW)[1]
    assert {(outcome.record, outcome.verdict) for outcome in outcomes} == {
        ((subject, payload), Verdict.VERIFIED),
        (forged, Verdict.BAD),
    }
    late_forgery = (subject, rack.frame(1, peak=-4.0))
    assert reader.record(rack, late_forgery) == [Verdict.BAD]


def test_the_same_payload_on_another_subject_does_not_verify(authority: Authority, rack: SigningRack) -> None:
    reader = Reader(authority)
    _, payload = rack.meter("main")
    reader.record(rack, (f"rack.{rack.name}.meter.other", payload))
    assert reader.checkpoint(rack) == []
    assert reader.verdicts(reader.verifier.expire(5.0)) == [Verdict.UNVERIFIABLE]


def test_a_repeated_record_is_a_duplicate_before_and_after_its_proof(
    authority: Authority, rack: SigningRack
) -> None:
    reader = Reader(authority)
    record = rack.meter()
    assert reader.record(rack, record) == []
    assert reader.record(rack, record) == [Verdict.DUPLICATE]
    reader.checkpoint(rack)
    assert reader.record(rack, record) == [Verdict.DUPLICATE]


def test_a_record_no_checkpoint_covers_becomes_unverifiable_when_its_time_is_up(
    authority: Authority, rack: SigningRack
) -> None:
    reader = Reader(authority, unverifiable_after=2.0)
    reader.record(rack, rack.meter(), at=10.0)
    reader.record(rack, rack.meter(), at=11.0)
    assert reader.verifier.next_deadline() == 12.0
    assert reader.verifier.expire(11.9) == []
    assert reader.verdicts(reader.verifier.expire(12.0)) == [Verdict.UNVERIFIABLE]
    assert reader.verifier.next_deadline() == 13.0


def test_memory_is_bounded_when_checkpoints_never_come(authority: Authority, rack: SigningRack) -> None:
    reader = Reader(authority, max_pending_records=100)
    outcomes = [verdict for _ in range(1000) for verdict in reader.record(rack, rack.meter())]
    assert outcomes == [Verdict.UNVERIFIABLE] * 900
    assert reader.verifier.pending == 100 and len(reader.verifier._claims) == 100


def test_memory_is_bounded_when_records_never_come(authority: Authority, rack: SigningRack) -> None:
    reader = Reader(authority, covered_per_stream=50, chain_window=10)
    for _ in range(40):
        for _ in range(5):
            rack.meter()
        reader.checkpoint(rack)
    covered = reader.verifier._covered
    assert sum(len(stream) for stream in covered.values()) == 50
    assert all(len(b.links) <= 10 for c in reader.verifier._chains.values() for b in c._boots.values())


def test_a_lost_checkpoint_is_counted_and_the_next_one_still_verifies(
    authority: Authority, rack: SigningRack
) -> None:
    reader = Reader(authority)
    reader.record(rack, rack.meter())
    reader.checkpoint(rack)
    rack.meter()
    lost = rack.checkpoint()
    reader.record(rack, rack.meter())
    assert reader.checkpoint(rack) == [Verdict.VERIFIED]
    assert reader.verifier.checkpoint_gaps == 1
    reader.checkpoint(rack, lost)
    assert reader.verifier.checkpoint_gaps == 0


def test_a_checkpoint_twice_changes_nothing(authority: Authority, rack: SigningRack) -> None:
    reader = Reader(authority)
    reader.record(rack, rack.meter())
    sealed = rack.checkpoint()
    assert reader.checkpoint(rack, sealed) == [Verdict.VERIFIED]
    assert reader.checkpoint(rack, sealed) == []
    assert reader.verifier.checkpoints == 1


def test_a_new_boot_starts_a_new_chain(authority: Authority, rack: SigningRack) -> None:
    reader = Reader(authority)
    rack.meter()
    reader.checkpoint(rack)
    rack.reboot()
    reader.record(rack, rack.meter())
    assert reader.checkpoint(rack) == [Verdict.VERIFIED]


@pytest.mark.parametrize(
    "case", ["two-of-one-number", "wrong-predecessor", "two-digests", "impossible-first"]
)
def test_a_forked_history_is_an_error_and_proves_nothing(
    case: str, authority: Authority, rack: SigningRack
) -> None:
    reader = Reader(authority)
    subject, payload = rack.meter()
    streams = {subject: StreamDigests(1, (record_digest(subject, payload),))}
    if case != "impossible-first":
        reader.checkpoint(rack)
    if case == "two-of-one-number":
        rack.seq, rack.previous = 0, bytes(32)
        other = (subject, rack.frame(7))
        reader.record(rack, other)
        streams = {subject: StreamDigests(7, (record_digest(*other),))}
    elif case == "wrong-predecessor":
        rack.previous = bytes(31) + b"\x01"
    elif case == "two-digests":
        streams = {subject: StreamDigests(1, (bytes(32),))}
    else:
        rack.seq = 4
        rack.previous = bytes(32)
    before = (reader.verifier.pending, reader.verifier.checkpoints)
    with pytest.raises(VerificationError, match=r"signed two|does not follow|impossible"):
        reader.checkpoint(rack, rack.checkpoint(streams=streams))
    assert (reader.verifier.pending, reader.verifier.checkpoints) == before


def test_every_flipped_bit_in_a_checkpoint_is_found(authority: Authority, rack: SigningRack) -> None:
    rack.meter()
    sealed = rack.checkpoint()
    reader = Reader(authority)
    for position in range(0, len(sealed), 7):
        broken = bytearray(sealed)
        broken[position] ^= 1 << (position % 8)
        with pytest.raises((VerificationError, DecodeError)):
            reader.checkpoint(rack, bytes(broken))
    assert reader.verifier.checkpoints == 0
    reader.checkpoint(rack, sealed)


@pytest.mark.parametrize(
    "case", ["other-key", "other-ca", "expired", "other-rack", "foreign-subject", "client", "wrong-domain"]
)
def test_a_checkpoint_that_is_not_the_racks_is_refused(
    case: str, authority: Authority, rack: SigningRack, tmp_path: Path
) -> None:
    reader = Reader(authority)
    record = rack.meter()
    reader.record(rack, record)
    digest = record_digest(*record)
    streams = {record[0]: StreamDigests(1, (digest,))}
    if case == "other-key":
        sealed = rack.checkpoint(key=SigningKey.generate())
    elif case == "other-ca":
        stranger = SigningRack(Authority(tmp_path), rack.name)
        sealed = stranger.checkpoint(streams=streams)
    elif case == "expired":
        sealed = SigningRack(authority, rack.name, days=-1).checkpoint(streams=streams)
    elif case == "other-rack":
        impostor = SigningRack(authority, "stage-right")
        impostor.name = rack.name
        sealed = impostor.checkpoint(streams=streams)
    elif case == "foreign-subject":
        sealed = rack.checkpoint(streams={"rack.stage-right.meter.main": StreamDigests(1, (digest,))})
    elif case == "client":
        person = authority.issue("person", uri="spiffe://flux/client/admin/ops", key=rack.issued.key)  # type: ignore[arg-type]
        from cryptography.hazmat.primitives.serialization import Encoding

        rack.chain = (person.certificate.public_bytes(Encoding.DER),)
        sealed = rack.checkpoint()
    else:
        payload, _ = envelope.split(rack.checkpoint())
        sealed = envelope.seal(envelope.DOMAIN_WAL, payload, rack.key)
    with pytest.raises(VerificationError):
        reader.checkpoint(rack, sealed)
    assert reader.verifier.pending == 1 and reader.verifier.checkpoints == 0


def test_a_racks_checkpoint_on_another_racks_subject_is_refused(
    authority: Authority, rack: SigningRack
) -> None:
    reader = Reader(authority)
    rack.meter()
    with pytest.raises(VerificationError, match="came on the subject"):
        reader.verifier.add_checkpoint("rack.stage-right.checkpoint", rack.checkpoint(), NOW)


def test_a_cached_certificate_is_not_trusted_past_its_end(authority: Authority, rack: SigningRack) -> None:
    trust = RackTrust([authority.certificate], SUBSCRIBER_LIMITS)
    assert trust.public_key(rack.name, rack.chain, NOW) == bytes(rack.key.verify_key)
    with pytest.raises(VerificationError, match="does not verify"):
        trust.public_key(rack.name, rack.chain, NOW + datetime.timedelta(days=11))
    with pytest.raises(VerificationError, match="was used for rack 'other'"):
        trust.public_key("other", rack.chain, NOW)


def test_no_roots_is_an_error_not_an_open_door() -> None:
    with pytest.raises(VerificationError, match="no root"):
        RackTrust([], SUBSCRIBER_LIMITS)


ACTIONS = st.lists(
    st.sampled_from(
        ["record", "lose", "forge", "repeat", "checkpoint", "lose-checkpoint", "late", "reboot", "time"]
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS, st.randoms(use_true_random=False))
def test_whatever_the_network_does_only_what_the_rack_published_is_ever_verified(
    authority: Authority, actions: list[str], random: Any
) -> None:
    rack = SigningRack(authority)
    reader = Reader(authority, max_pending_records=20, covered_per_stream=10, unverifiable_after=3.0)
    genuine: list[Record] = []
    given_in = 0
    settled: list[Outcome[Record]] = []
    withheld: list[bytes] = []
    clock = 0.0

    def take(record: Record) -> None:
        nonlocal given_in
        given_in += 1
        number = cbor.decode_trusted(record[1], max_bytes=1 << 16)
        settled.extend(
            reader.verifier.add_record(
                record, record[0], record_digest(*record), (number["boot"], number["seq"]), clock
            )
        )

    def prove(sealed: bytes) -> None:
        settled.extend(reader.verifier.add_checkpoint(rack.checkpoint_subject, sealed, NOW)[1])

    for action in actions:
        if action in ("record", "lose"):
            genuine.append(rack.meter(peak=-float(len(genuine))))
            if action == "record":
                take(genuine[-1])
        elif action == "forge":
            take((f"rack.{rack.name}.meter.main", rack.frame(random.randint(1, 10), peak=1000.0 + given_in)))
        elif action == "repeat" and genuine:
            take(random.choice(genuine))
        elif action == "checkpoint":
            prove(rack.checkpoint())
        elif action == "lose-checkpoint":
            withheld.append(rack.checkpoint())
        elif action == "late" and withheld:
            prove(withheld.pop(random.randrange(len(withheld))))
        elif action == "reboot":
            rack.reboot()
        elif action == "time":
            clock += 1.0
            settled.extend(reader.verifier.expire(clock))
    verified = [outcome.record for outcome in settled if outcome.verdict is Verdict.VERIFIED]
    assert set(verified) <= set(genuine)
    assert not {outcome.record for outcome in settled if outcome.verdict is Verdict.BAD} & set(genuine)
    assert len(settled) + reader.verifier.pending == given_in
    assert reader.verifier.pending <= 20
    assert sum(len(claims) for claims in reader.verifier._claims.values()) == reader.verifier.pending


def test_a_checkpoint_with_unknown_fields_from_a_newer_rack_still_verifies(
    authority: Authority, rack: SigningRack
) -> None:
    reader = Reader(authority)
    checkpoint = Checkpoint(rack.name, rack.boot, 1, bytes(32), 1, 2, {}, rack.chain, {"Later": 1})
    assert reader.checkpoint(rack, checkpoint.sign(rack.key)) == []
    assert reader.verifier.checkpoints == 1
