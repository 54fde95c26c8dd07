from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from nacl.signing import SigningKey

from stagebox.bus.message import BusMessage
from stagebox.control.command import Ack, AckResult
from stagebox.errors import VerificationError
from stagebox.records.meter import MeterFrame
from stagebox.records.module import ModuleRecord
from stagebox.records.walbatch import WalBatch, WalRecord
from stagebox.subscriber import SUBSCRIBER_LIMITS, Record, RecordStream, Verification
from stagebox.subscriber.trust import RackTrust
from support.module_records import module_record
from support.natsd import Authority
from support.signing import SigningRack


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def rack(authority: Authority) -> SigningRack:
    return SigningRack(authority)


def stream(
    authority: Authority, *, verify: Any = True, on_bad: Any = "count", pattern: str = "rack.>", **limits: Any
) -> RecordStream:
    chosen = dataclasses.replace(SUBSCRIBER_LIMITS, **limits)
    return RecordStream(
        pattern, RackTrust([authority.certificate], chosen), verify=verify, on_bad=on_bad, limits=chosen
    )


def message(record: tuple[str, bytes]) -> BusMessage:
    return BusMessage(*record)


def proof(rack: SigningRack) -> BusMessage:
    return BusMessage(rack.checkpoint_subject, rack.checkpoint())


async def rest(records: RecordStream) -> list[Record]:
    records.end()
    return [record async for record in records]


async def test_verified_records_come_typed_and_in_order_per_subject(
    authority: Authority, rack: SigningRack
) -> None:
    records = stream(authority, pattern="rack.*.meter.>")
    for index in range(5):
        records.take(message(rack.meter(peak=-float(index))))
    assert records.counters.pending == 5
    records.take_checkpoint(proof(rack))
    got = await rest(records)
    assert [record.value.seq for record in got if isinstance(record.value, MeterFrame)] == [1, 2, 3, 4, 5]
    assert {record.verification for record in got} == {Verification.VERIFIED}
    assert (got[0].rack, got[0].kind, got[0].leaf) == (rack.name, "meter", "main")
    assert records.counters.verified == records.counters.received == 5


async def test_a_record_without_proof_waits_its_time_then_comes_marked_and_in_its_place(
    authority: Authority, rack: SigningRack
) -> None:
    records = stream(authority, unverifiable_after=0.05)
    subject = f"rack.{rack.name}.meter.main"
    records.take(BusMessage(subject, rack.frame(99)))
    records.take(message(rack.meter()))
    records.take(proof(rack))
    first = await asyncio.wait_for(anext(aiter(records)), 1)
    assert first.subject == rack.checkpoint_subject and first.verification is Verification.VERIFIED
    unproved = await asyncio.wait_for(anext(aiter(records)), 1)
    assert unproved.verification is Verification.UNVERIFIABLE and "in time" in unproved.reason
    proved = await asyncio.wait_for(anext(aiter(records)), 1)
    assert proved.verification is Verification.VERIFIED
    assert (await rest(records)) == []


async def test_a_bad_record_is_raised_or_dropped_and_counted_as_asked(
    authority: Authority, rack: SigningRack
) -> None:
    for on_bad in ("raise", "count"):
        rack.reboot()
        records = stream(authority, on_bad=on_bad)
        subject, payload = rack.meter()
        records.take(BusMessage(subject, rack.frame(1, peak=0.0)))
        records.take(BusMessage(subject, payload))
        records.take_checkpoint(proof(rack))
        if on_bad == "raise":
            with pytest.raises(VerificationError, match="not the one the rack signed"):
                await anext(aiter(records))
        assert [record.payload for record in await rest(records)] == [payload]
        assert (records.counters.bad, records.counters.verified) == (1, 1)


async def test_a_malformed_record_and_a_forged_checkpoint_are_bad(
    authority: Authority, rack: SigningRack
) -> None:
    records = stream(authority)
    records.take(BusMessage("rack.a.meter.main", b"\xff"))
    records.take(BusMessage("rack.a.meter", b""))
    records.take_checkpoint(BusMessage(rack.checkpoint_subject, b"\xa0"))
    records.take(BusMessage(rack.checkpoint_subject, b"\xa0"))
    assert (records.counters.bad, records.counters.bad_checkpoints) == (3, 1)
    assert await rest(records) == []


@pytest.mark.parametrize("verify", [True, False, "live"])
async def test_records_of_a_kind_of_a_later_release_are_passed_over_and_counted(
    authority: Authority, rack: SigningRack, verify: Any
) -> None:
    records = stream(authority, verify=verify, on_bad="raise")
    for subject in (f"rack.{rack.name}.later", f"rack.{rack.name}.later.a.b.c"):
        records.take(BusMessage(subject, b"\xff"))
        rack.note(subject, b"\xff")  # and a checkpoint lists it beside what is known
    records.take(message(rack.meter()))
    records.take(proof(rack))
    got = await rest(records)
    assert sorted(record.kind for record in got) == ["checkpoint", "meter"]
    counters = records.counters
    assert (counters.received, counters.skipped, counters.bad) == (4, 2, 0)
    assert counters.received == counters.skipped + counters.verified + counters.unverified


async def test_a_module_record_comes_typed_named_and_proved(authority: Authority, rack: SigningRack) -> None:
    records = stream(authority, pattern="rack.*.module.>", on_bad="raise")
    said = [module_record(seq, rack.boot).encode() for seq in (1, 2)]
    for data in said:
        rack.note(f"rack.{rack.name}.module.spl.leq", data)
        records.take(BusMessage(f"rack.{rack.name}.module.spl.leq", data))
    records.take_checkpoint(proof(rack))
    first, second = await rest(records)
    assert (first.kind, first.leaf, first.out) == ("module", "spl", "leq")
    assert (first.value, second.value) == tuple(map(ModuleRecord.decode, said))
    assert {first.verification, second.verification} == {Verification.VERIFIED}
    assert first.position == (rack.boot, 1)
    assert records.counters.lost == 0


async def test_a_module_record_is_bad_on_another_modules_subject(
    authority: Authority, rack: SigningRack
) -> None:
    records = stream(authority, verify=False, on_bad="raise")
    records.take(BusMessage(f"rack.{rack.name}.module.other.leq", module_record(1).encode()))
    with pytest.raises(VerificationError, match="module 'spl' came on"):
        await anext(aiter(records))
    assert records.counters.bad == 1
    records.end()


async def test_live_records_come_at_once_and_settle_later(authority: Authority, rack: SigningRack) -> None:
    records = stream(authority, verify="live", pattern="rack.*.meter.>")
    records.take(message(rack.meter()))
    record = await anext(aiter(records))
    assert record.verification is Verification.PENDING
    waiting = asyncio.create_task(record.settled())
    await asyncio.sleep(0)
    assert not waiting.done()
    records.take_checkpoint(proof(rack))
    assert await asyncio.wait_for(waiting, 1) is Verification.VERIFIED
    records.end()


async def test_without_verification_everything_is_marked_unverified(
    authority: Authority, rack: SigningRack
) -> None:
    records = stream(authority, verify=False)
    records.take(message(rack.meter()))
    records.take(proof(rack))
    got = await rest(records)
    assert [record.verification for record in got] == [Verification.UNVERIFIED] * 2


async def test_what_a_slow_consumer_misses_is_counted_and_the_sum_holds(
    authority: Authority, rack: SigningRack
) -> None:
    records = stream(authority, queue_records=10, pattern="rack.*.meter.>")
    repeated = rack.meter()
    records.take(message(repeated))
    records.take(message(repeated))
    for _ in range(29):
        records.take(message(rack.meter()))
    records.take_checkpoint(proof(rack))
    counters = records.counters
    assert (counters.verified, counters.overruns, counters.duplicates) == (10, 20, 1)
    total = counters.verified + counters.pending + counters.unverifiable + counters.bad
    assert counters.received == total + counters.duplicates + counters.overruns
    assert len(await rest(records)) == 10


async def test_records_held_for_proof_are_bounded(authority: Authority, rack: SigningRack) -> None:
    records = stream(authority, max_held_records=20, pattern="rack.*.meter.>")
    for _ in range(50):
        records.take(message(rack.meter()))
    assert records.counters.pending == 20 and records.counters.overruns == 30
    records.end()


async def test_lost_records_show_as_gaps(authority: Authority, rack: SigningRack) -> None:
    records = stream(authority, pattern="rack.*.meter.>")
    for index in range(10):
        record = rack.meter()
        if index not in (3, 4, 7):
            records.take(message(record))
    records.take_checkpoint(proof(rack))
    assert (records.counters.lost, records.counters.verified) == (3, 7)
    records.end()


async def test_an_ack_is_verified_by_its_own_signature_and_a_foreign_one_is_not_believed(
    authority: Authority, rack: SigningRack
) -> None:
    records = stream(authority)
    made = Ack("flux", rack.name, 3, bytes(32), rack.boot, 1, AckResult.DONE)
    subject = f"rack.{rack.name}.ack"
    rack.meter()
    records.take(proof(rack))
    records.take(BusMessage(subject, made.seal(rack.key)))
    records.take(BusMessage(subject, made.seal(SigningKey.generate())))
    records.take(BusMessage(subject, dataclasses.replace(made, rack="stage-right").seal(rack.key)))
    got = [record for record in await rest(records) if record.kind == "ack"]
    assert [record.value for record in got] == [made, made]
    assert [record.verification for record in got] == [Verification.VERIFIED, Verification.UNVERIFIABLE]
    assert records.counters.bad == 1


async def test_a_wal_batch_is_verified_by_its_own_signature_once_the_racks_key_is_known(
    authority: Authority, rack: SigningRack
) -> None:
    records = stream(authority)
    batch = WalBatch(rack.name, 1, bytes(32), (WalRecord("meter", 1, "s", b"x"),)).sign(rack.key)
    subject = f"rack.{rack.name}.wal"
    records.take(BusMessage(subject, batch))
    records.take(proof(rack))
    records.take(BusMessage(subject, batch))
    got = [record for record in await rest(records) if record.kind == "wal"]
    assert [record.verification for record in got] == [Verification.UNVERIFIABLE, Verification.VERIFIED]
