from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from stagebox import envelope
from stagebox.errors import InputError, StorageError
from stagebox.limits import LIMITS as SHARED
from stagebox.records.audio import AudioPacket
from stagebox.records.checkpoint import Checkpoint
from stagebox.records.digest import record_digest
from stagebox.records.event import Event
from stagebox.records.meter import CHANNEL_KEYS, MeterFrame, levels
from stagebox.records.module import ModuleRecord
from stagebox.records.status import Status
from stagebox_rack.audio.measurement import MeterMeasurement, OpusPacket, SourceEvent
from stagebox_rack.checkpointing import CheckpointBuilder
from stagebox_rack.limits import LIMITS
from stagebox_rack.meter_frames import encode_frame
from stagebox_rack.metering.levels import Levels
from stagebox_rack.publisher import Publisher

KEY = SigningKey(bytes(32))
BOOT = bytes(range(16))
TIME = 1_767_312_000_000_000_000
ONE = np.array([-20.0, np.nan], dtype=np.float32)
LEVELS = Levels(
    peak=ONE, peak_hold=ONE + 1, true_peak=ONE + 2, rms=ONE - 3, ppm1=ONE - 4, ppm2=ONE - 5, vu=ONE - 6,
    momentary=ONE - 7, correlation=np.array([-0.25], dtype=np.float32),
    programmes=np.array([[-20.5, -21, -22, np.nan, -19, -20, -1.25]], dtype=np.float32),
)  # fmt: skip
METER = MeterMeasurement("main", 2400, 2400, 48_000, TIME, LEVELS, bytes((0, 33)))
OPUS = OpusPacket("main", 960, 960, 48_000, 2, TIME, b"opus")
GAP = SourceEvent("main", "gap", 480, TIME, {"frames": 96})
CHECKPOINT = "rack.stage-left.checkpoint"
LEQ = "rack.stage-left.module.spl.leq"


@dataclass
class FakeBus:
    """A bus that takes everything, or refuses while ``down``."""

    down: bool = False
    sent: list[tuple[str, bytes]] = field(default_factory=list)

    def publish(self, subject: str, payload: bytes) -> bool:
        if not self.down:
            self.sent.append((subject, payload))
        return not self.down


@dataclass
class FakeJournal:
    """A journal whose futures the test resolves, or that refuses while ``full``."""

    full: bool = False
    rows: list[tuple[str, int, str, bytes, bool]] = field(default_factory=list)
    futures: list[asyncio.Future[int]] = field(default_factory=list)

    def append(
        self, kind: str, time_ns: int, subject: str, data: bytes, *, urgent: bool = False
    ) -> asyncio.Future[int]:
        if self.full:
            raise StorageError("the journal is full")
        self.rows.append((kind, time_ns, subject, data, urgent))
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]


class Bench:
    """A publisher with its two ways out."""

    def __init__(self, *, max_digests: int = 1000) -> None:
        self.bus, self.journal = FakeBus(), FakeJournal()
        clock = itertools.count(TIME)
        self.publisher = Publisher(
            rack="stage-left",
            boot=BOOT,
            bus=self.bus,
            journal=self.journal,
            checkpoints=CheckpointBuilder(
                rack="stage-left", boot=BOOT, chain=[b"leaf"], key=KEY, max_digests=max_digests
            ),
            now_ns=lambda: next(clock),
        )

    def say(self, out: str = "leq", **fields: Any) -> None:
        said = {"module": "spl", "version": "1.2.0", "insert": "spl-main", "data": {"laeq": -23.5}}
        self.publisher.module_record(out=out, **{**said, **fields})

    def checkpoints(self) -> list[Checkpoint]:
        public = bytes(KEY.verify_key)
        return [
            Checkpoint.decode(envelope.open_envelope(envelope.DOMAIN_CHECKPOINT, data, public))
            for subject, data in self.bus.sent
            if subject == CHECKPOINT
        ]


async def test_a_measurement_goes_out_live_and_into_the_journal_with_the_same_bytes() -> None:
    bench = Bench()
    bench.publisher.take(METER)
    [(subject, data)] = bench.bus.sent
    assert bench.journal.rows == [("meter", TIME, "rack.stage-left.meter.main", data, False)]
    frame = MeterFrame.decode(data)
    assert subject == "rack.stage-left.meter.main"
    assert (frame.seq, frame.boot, frame.time_ns, frame.start, frame.frames) == (1, BOOT, TIME, 2400, 2400)
    for name in CHANNEL_KEYS:
        np.testing.assert_allclose(getattr(frame, name), getattr(LEVELS, name), atol=0.005)
    assert (frame.flags, list(frame.correlation)) == (METER.flags, [-0.25])
    found = [dataclasses.astuple(programme) for programme in frame.programmes]
    np.testing.assert_allclose(found, LEVELS.programmes, atol=0.005)


@given(st.lists(st.floats(-200, 400) | st.just(math.nan), min_size=1, max_size=64))
def test_levels_packed_by_numpy_are_the_bytes_of_the_frame_of_the_same_levels(values: list[float]) -> None:
    one = np.array(values, dtype=np.float32)
    names = dict.fromkeys(CHANNEL_KEYS, one)
    none = np.empty((0, 7), dtype=np.float32)
    item = MeterMeasurement(
        "main", 3, 2400, 48_000, TIME, Levels(**names, correlation=one[:0], programmes=none), bytes(len(one))
    )
    arrays: dict[str, Any] = {name: levels(one.tolist()) for name in CHANNEL_KEYS}
    frame = MeterFrame(1, BOOT, TIME, 3, 2400, 48_000, **arrays, flags=bytes(len(one)))
    packed = MeterFrame.decode(encode_frame(item, seq=1, boot=BOOT))
    for name in CHANNEL_KEYS:
        # A half is rounded in float32 here and in float64 there: one hundredth at most.
        np.testing.assert_allclose(
            getattr(packed, name), getattr(MeterFrame.decode(frame.encode()), name), atol=0.011
        )


async def test_audio_is_live_only_and_still_proved() -> None:
    bench = Bench()
    bench.publisher.take(OPUS)
    bench.publisher.checkpoint()
    subject, data = bench.bus.sent[0]
    packet = AudioPacket.decode(data)
    assert (subject, packet.data, packet.channels) == ("rack.stage-left.audio.main", b"opus", 2)
    assert [row[0] for row in bench.journal.rows] == ["checkpoint"]
    [checkpoint] = bench.checkpoints()
    assert checkpoint.streams[subject].digests == (record_digest(subject, data),)


async def test_a_source_event_says_which_source_and_where() -> None:
    bench = Bench()
    bench.publisher.take(GAP)
    event = Event.decode(bench.bus.sent[0][1])
    assert (event.name, event.time_ns) == ("gap", TIME)
    assert event.detail == {"source": "main", "start": 480, "frames": 96}


async def test_each_subject_is_numbered_from_one_without_holes() -> None:
    bench = Bench()
    for _ in range(3):
        bench.publisher.take(METER)
        bench.publisher.take(OPUS)
        bench.publisher.status("running", {})
    numbers: dict[str, list[int]] = {}
    decoders: dict[str, type[MeterFrame] | type[AudioPacket] | type[Status]]
    decoders = {"meter": MeterFrame, "audio": AudioPacket, "status": Status}
    for subject, data in bench.bus.sent:
        numbers.setdefault(subject, []).append(decoders[subject.split(".")[2]].decode(data).seq)
    assert list(numbers.values()) == [[1, 2, 3]] * 3


async def test_what_the_bus_refuses_is_counted_journalled_and_proved() -> None:
    bench = Bench()
    bench.bus.down = True
    for _ in range(5):
        bench.publisher.take(METER)
    bench.bus.down = False
    bench.publisher.take(METER)
    bench.publisher.checkpoint()
    meter = "rack.stage-left.meter.main"
    assert bench.publisher.dropped == {meter: 5}
    assert bench.publisher.published == {meter: 1, CHECKPOINT: 1}
    assert [row[0] for row in bench.journal.rows] == ["meter"] * 6 + ["checkpoint"]
    [checkpoint] = bench.checkpoints()
    assert checkpoint.streams[meter].digests == tuple(
        record_digest(meter, data) for kind, _, _, data, _ in bench.journal.rows if kind == "meter"
    )


async def test_alerts_are_urgent_and_events_are_not() -> None:
    bench = Bench()
    bench.publisher.event("rack_started", {})
    bench.publisher.alert("device_lost", {"source": "main"})
    assert [(row[0], row[4]) for row in bench.journal.rows] == [("event", False), ("alert", True)]


async def test_an_alert_about_the_journal_does_not_go_through_it() -> None:
    bench = Bench()
    bench.publisher.alert("wal_full", {}, journalled=False)
    assert bench.journal.rows == []
    assert bench.bus.sent[0][0] == "rack.stage-left.alert"


async def test_a_journal_that_refuses_or_fails_is_counted_and_stops_nothing() -> None:
    bench = Bench()
    bench.journal.full = True
    bench.publisher.take(METER)
    assert bench.publisher.not_journalled == 1
    bench.journal.full = False
    for _ in range(3):
        bench.publisher.take(METER)
    bench.journal.futures[0].set_exception(StorageError("disk full"))
    bench.journal.futures[1].cancel()
    bench.journal.futures[2].set_result(1)
    await asyncio.sleep(0)
    assert bench.publisher.not_journalled == 3
    assert len(bench.bus.sent) == 4


@pytest.mark.parametrize("refused", [False, True])
async def test_journalled_waits_for_the_last_append(refused: bool) -> None:
    bench = Bench()
    await asyncio.wait_for(bench.publisher.journalled(), 1)
    bench.publisher.take(METER)
    waiting = asyncio.ensure_future(bench.publisher.journalled())
    await asyncio.sleep(0)
    assert not waiting.done()
    if refused:
        bench.journal.futures[-1].set_exception(StorageError("disk full"))
    else:
        bench.journal.futures[-1].set_result(1)
    await asyncio.wait_for(waiting, 1)


async def test_nothing_measured_makes_no_checkpoint() -> None:
    bench = Bench()
    bench.publisher.checkpoint()
    assert bench.bus.sent == []
    assert bench.journal.rows == []


async def test_what_a_module_says_goes_out_live_into_the_journal_and_into_the_checkpoint() -> None:
    bench = Bench()
    bench.say(source="main", start=96_000, time_ns=TIME)
    bench.say(out="lmax", data={"lmax": -10.0})
    bench.say()
    (subject, data), (other, _), (again, later) = bench.bus.sent
    assert (subject, other, again) == (LEQ, "rack.stage-left.module.spl.lmax", LEQ)
    assert bench.journal.rows[0] == ("module", TIME, LEQ, data, False)
    assert ModuleRecord.decode(data) == ModuleRecord(
        1, BOOT, TIME, "spl", "1.2.0", "spl-main", "main", 96_000, {"laeq": -23.5}
    )
    heard_records = ModuleRecord.decode(later)
    assert (heard_records.seq, heard_records.source, heard_records.start) == (2, "", 0)
    bench.publisher.checkpoint()
    [checkpoint] = bench.checkpoints()
    assert checkpoint.streams[LEQ].digests == (record_digest(LEQ, data), record_digest(LEQ, later))
    assert checkpoint.streams[other].first_seq == 1


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    "fields",
    [
        {"out": "Leq"}, {"out": "leq.x"}, {"out": "*"}, {"out": ""}, {"module": "s p l"}, {"module": ">"},
        {"data": {"x": "x" * SHARED.max_record_bytes}}, {"data": nested(SHARED.max_cbor_depth)},
        {"start": -1}, {"start": 1 << 64}, {"time_ns": -1}, {"time_ns": 1 << 63},
        {"data": {"a": {1: 2}}}, {"data": {"a": {"b": {b"key": 2}}}},
        {"data": {"a": [dt.datetime(2026, 1, 1, tzinfo=dt.UTC)]}},
    ],
)  # fmt: skip
async def test_what_nobody_could_read_is_refused_and_leaves_no_hole_in_the_numbers(
    fields: dict[str, Any],
) -> None:
    bench = Bench()
    bench.say()
    with pytest.raises(InputError):
        bench.say(**fields)
    bench.say()
    assert [ModuleRecord.decode(data).seq for _, data in bench.bus.sent] == [1, 2]
    assert len(bench.journal.rows) == 2
    bench.publisher.checkpoint()
    [checkpoint] = bench.checkpoints()
    assert len(checkpoint.streams[LEQ].digests) == 2


async def test_a_module_has_so_many_outputs_and_takes_none_from_another() -> None:
    bench = Bench()
    for number in range(LIMITS.module_outputs):
        bench.say(out=f"out-{number}")
    with pytest.raises(InputError, match="one more than the 16 that module 'spl' may have"):
        bench.say(out="one-more")
    bench.say(out="out-0")
    bench.say(out="one-more", module="noise")
    assert len(bench.bus.sent) == LIMITS.module_outputs + 2


async def test_modules_that_say_much_make_no_checkpoint_that_is_refused_for_its_subjects() -> None:
    bench = Bench()
    modules = SHARED.max_streams_per_checkpoint // LIMITS.module_outputs + 2
    for module, number in itertools.product(range(modules), range(LIMITS.module_outputs)):
        bench.say(module=f"{module:03d}-{'m' * 59}", out=f"{number:03d}-{'o' * 59}")
    bench.publisher.checkpoint()
    first, second = bench.checkpoints()
    assert (len(first.streams), len(second.streams)) == (SHARED.max_streams_per_checkpoint, 32)
    assert len(first.encode()) < SHARED.max_checkpoint_bytes


ACTIONS = st.lists(
    st.sampled_from(["meter", "audio", "gap", "status", "alert", "module", "checkpoint", "up", "down"]),
    max_size=60,
)


@given(ACTIONS, st.integers(1, 9))
def test_every_live_record_is_in_exactly_one_checkpoint(actions: list[str], max_digests: int) -> None:
    async def play() -> None:
        bench = Bench(max_digests=max_digests)
        made: list[tuple[str, bytes]] = []
        publisher, bus = bench.publisher, bench.bus

        def publish(subject: str, payload: bytes) -> bool:
            if (subject, payload) not in made:  # what did not go out is tried again, the same bytes
                made.append((subject, payload))
            return FakeBus.publish(bus, subject, payload)

        bus.publish = publish  # type: ignore[method-assign]
        for action in actions:
            match action:
                case "meter":
                    publisher.take(METER)
                case "audio":
                    publisher.take(OPUS)
                case "gap":
                    publisher.take(GAP)
                case "status":
                    publisher.status("running", {})
                case "alert":
                    publisher.alert("device_lost", {})
                case "module":
                    bench.say()
                case "checkpoint":
                    publisher.checkpoint()
                case _:
                    bus.down = action == "down"
        publisher.checkpoint()
        records = [record_digest(*item) for item in made if item[0] != CHECKPOINT]
        bus.sent = made
        checkpoints = bench.checkpoints()
        sizes = [sum(len(stream.digests) for stream in one.streams.values()) for one in checkpoints]
        assert all(1 <= size <= max_digests for size in sizes), "a full checkpoint is signed before it grows"
        listed = [
            digest
            for checkpoint in checkpoints
            for stream in checkpoint.streams.values()
            for digest in stream.digests
        ]
        assert Counter(listed) == Counter(records)
        assert len(set(records)) == len(records)
        tried = len(made)
        bench.bus.down = False
        publisher.catch_up()
        assert sum((publisher.published + publisher.dropped).values()) == tried

    asyncio.run(play())


async def test_a_limited_rack_says_live_only_that_it_lives_and_what_it_was_asked_and_journals_all() -> None:
    bench = Bench()
    publisher = bench.publisher
    publisher.limited = True
    publisher.take(METER)
    publisher.take(OPUS)
    publisher.event("suspended", {})
    bench.say()
    publisher.alert("certificate_expiring", {})
    publisher.status("suspended", {})
    publisher.ack(b"signed")
    publisher.checkpoint()
    assert [subject for subject, _ in bench.bus.sent] == ["rack.stage-left.status", "rack.stage-left.ack"]
    kinds = [row[0] for row in bench.journal.rows]
    assert kinds == ["meter", "event", "module", "alert", "status", "ack", "checkpoint"]
    assert not publisher.dropped
    publisher.limited = False
    publisher.take(METER)
    assert bench.bus.sent[-1][0] == "rack.stage-left.meter.main"


async def test_an_alert_the_bus_could_not_take_is_said_first_when_it_is_back_and_can_be_proved() -> None:
    bench = Bench()
    publisher = bench.publisher
    bench.bus.down = True
    publisher.take(METER)
    publisher.alert("hum", {})
    publisher.ack(b"signed")
    publisher.checkpoint()
    publisher.take(METER)
    publisher.checkpoint()
    assert bench.bus.sent == []
    bench.bus.down = False
    publisher.catch_up()
    publisher.take(METER)
    subjects = [subject.removeprefix("rack.stage-left.") for subject, _ in bench.bus.sent]
    assert subjects == ["alert", "ack", "checkpoint", "meter.main"]
    subject, data = bench.bus.sent[0]
    [checkpoint] = bench.checkpoints()
    assert checkpoint.streams[subject].digests == (record_digest(subject, data),)
    assert dict(publisher.dropped) == {"rack.stage-left.meter.main": 2, CHECKPOINT: 1}
    publisher.catch_up()
    assert len(bench.bus.sent) == 4


async def test_a_line_that_goes_again_in_the_middle_keeps_what_was_not_said() -> None:
    bench = Bench()
    publisher = bench.publisher
    bench.bus.down = True
    publisher.alert("hum", {})
    publisher.ack(b"signed")
    publisher.catch_up()
    publisher.checkpoint()
    assert bench.bus.sent == []
    bench.bus.down = False
    publisher.catch_up()
    assert [subject.rpartition(".")[2] for subject, _ in bench.bus.sent] == ["alert", "ack", "checkpoint"]


async def test_an_alert_the_bus_had_no_room_for_goes_out_once_there_is_room() -> None:
    bench = Bench()
    bench.bus.down = True
    bench.publisher.alert("hum", {})
    bench.publisher.checkpoint()
    bench.publisher.status("running", {})
    assert bench.bus.sent == []
    bench.bus.down = False
    bench.publisher.status("running", {})
    assert [subject.rpartition(".")[2] for subject, _ in bench.bus.sent] == ["status", "alert", "checkpoint"]


async def test_an_ack_is_journalled_as_it_was_signed_and_is_durable_soon() -> None:
    bench = Bench()
    bench.publisher.ack(b"signed")
    kind, _, subject, data, urgent = bench.journal.rows[0]
    assert (kind, subject, data, urgent) == ("ack", "rack.stage-left.ack", b"signed", True)
    assert bench.bus.sent == [("rack.stage-left.ack", b"signed")]
