"""Latency at a rack's pace: publish to callback, raw beside ours, and publish to proof."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from nats.aio.msg import Msg

import stagebox
from bench.clients import our_rack, raw_rack, raw_viewer
from bench.stage import Stage, pace, stage
from bench.table import Row, median, quantile
from stagebox import subjects
from stagebox.bus import BusClient
from stagebox.certificates import to_der
from stagebox.records.meter import MeterFrame
from stagebox.subscriber import RecordStream
from stagebox.subscriber.stream import Verify
from stagebox_rack.checkpointing import CheckpointBuilder
from stagebox_rack.state import RackIdentity
from support.frames import meter_frame

RATE_HZ = 70  # 20 meter frames and 50 Opus packets a second
SECONDS = 10
SUBJECT = subjects.meter("bench", "main")
_MS = 1e3


def _frame(seq: int, boot: bytes) -> bytes:
    return meter_frame(seq, boot, time_ns=time.time_ns(), start=seq * 2400).encode()


async def _raw(place: Stage, identity: RackIdentity) -> list[float]:
    sent: list[float] = []
    taken: list[float] = []

    async def on_message(_message: Msg) -> None:
        taken.append(time.perf_counter())

    async with raw_viewer(place) as viewer, raw_rack(place, identity) as rack:
        await viewer.subscribe(SUBJECT, cb=on_message)
        await viewer.flush()
        boot, start = os.urandom(16), time.perf_counter()
        for seq in range(1, RATE_HZ * SECONDS + 1):
            await pace(start, seq, 1 / RATE_HZ)
            payload = _frame(seq, boot)
            sent.append(time.perf_counter())
            await rack.publish(SUBJECT, payload)
        while len(taken) < len(sent):  # noqa: ASYNC110 - measured already
            await asyncio.sleep(0.01)
    return [(b - a) * _MS for a, b in zip(sent, taken, strict=True)]


async def _ours(place: Stage, identity: RackIdentity, *, checkpoint_s: float, live: bool) -> list[float]:
    sent: dict[int, float] = {}
    taken: dict[int, float] = {}
    verify: Verify = "live" if live else True
    async with (
        our_rack(identity) as rack,
        stagebox.connect(place.mixer.snake, place.cluster.viewer) as viewer,
        viewer.open_records(SUBJECT, verify=verify) as records,
    ):
        reader = asyncio.create_task(_read(records, taken))
        await _publish(rack, identity, sent, checkpoint_s)
        while len(taken) < len(sent):  # noqa: ASYNC110 - measured already
            await asyncio.sleep(0.01)
        reader.cancel()
        if viewer.counters.bad or viewer.counters.unverifiable:
            raise RuntimeError(f"records were not proved: {viewer.counters}")
    return [(taken[seq] - moment) * _MS for seq, moment in sent.items()]


async def _read(records: RecordStream, taken: dict[int, float]) -> None:
    async for record in records:
        assert isinstance(record.value, MeterFrame)
        taken[record.value.seq] = time.perf_counter()


async def _publish(
    rack: BusClient, identity: RackIdentity, sent: dict[int, float], checkpoint_s: float
) -> None:
    boot, start = os.urandom(16), time.perf_counter()
    builder = CheckpointBuilder(
        rack="bench", boot=boot, chain=to_der(identity.chain), key=identity.key, max_digests=4096
    )
    due = start + checkpoint_s
    total = RATE_HZ * SECONDS
    for seq in range(1, total + 1):
        await pace(start, seq, 1 / RATE_HZ)
        payload = _frame(seq, boot)
        now = time.time_ns()
        sent[seq] = time.perf_counter()
        if not rack.publish(SUBJECT, payload):
            raise RuntimeError("the bus refused a live record")
        builder.add(SUBJECT, seq, payload, now)
        if sent[seq] >= due or seq == total:
            due = sent[seq] + checkpoint_s
            rack.publish(subjects.checkpoint("bench"), builder.sign(now) or b"")


async def run(say: Callable[[str], None]) -> list[Row]:
    """Measure in one process, publisher and subscriber on one loop, for raw and ours alike."""
    async with stage() as place:
        identity = await place.identity("bench")
        say(f"latency: raw, {RATE_HZ}/s for {SECONDS} s")
        raw = await _raw(place, identity)
        say("latency: ours, to the callback")
        live = await _ours(place, identity, checkpoint_s=1.0, live=True)
        say("latency: ours, to the proof, a checkpoint with every record")
        each = await _ours(place, identity, checkpoint_s=0.0, live=False)
        say("latency: ours, to the proof, a checkpoint a second")
        second = await _ours(place, identity, checkpoint_s=1.0, live=False)
    what = "stock nats-py, same snake"
    rows = [
        Row("latency", "publish → callback, p50", "ms", median(live), median(raw), what, "≤ 2 × raw"),
        Row("latency", "publish → callback, p99", "ms", quantile(live, 0.99), quantile(raw, 0.99), what),
        Row("latency", "publish → verified, checkpoint each record, p50", "ms", median(each), median(raw), what,
            "≤ 2 × raw"),
        Row("latency", "publish → verified, checkpoint each record, p99", "ms", quantile(each, 0.99),
            quantile(raw, 0.99), what),
        Row("latency", "publish → verified, checkpoint each second, p50", "ms", median(second)),
        Row("latency", "publish → verified, checkpoint each second, p99", "ms", quantile(second, 0.99)),
    ]  # fmt: skip
    return rows
