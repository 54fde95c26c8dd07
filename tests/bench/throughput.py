"""Sustained records a second over the snake: stock nats-py beside our bus, and beside every record proved."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from nats.aio.msg import Msg

import stagebox
from bench.clients import our_rack, raw_rack, raw_viewer
from bench.stage import Stage, stage
from bench.table import Row
from stagebox import subjects
from stagebox.bus import BusMessage
from stagebox.certificates import to_der
from stagebox.subscriber import Record, RecordStream
from stagebox_rack.checkpointing import CheckpointBuilder
from stagebox_rack.state import RackIdentity
from support.frames import meter_frame

MESSAGES = 30_000
CHUNK = 500
SUBJECT = subjects.meter("bench", "main")


def _frames(boot: bytes) -> list[bytes]:
    return [meter_frame(seq, boot, start=seq).encode() for seq in range(1, MESSAGES + 1)]


async def _raw(place: Stage, identity: RackIdentity) -> float:
    done = asyncio.Event()
    count = 0

    async def on_message(_message: Msg) -> None:
        nonlocal count
        count += 1
        if count == MESSAGES:
            done.set()

    payloads = _frames(os.urandom(16))
    async with raw_viewer(place) as viewer, raw_rack(place, identity) as rack:
        await viewer.subscribe(SUBJECT, cb=on_message)
        await viewer.flush()
        started = time.perf_counter()
        for index, payload in enumerate(payloads):
            await rack.publish(SUBJECT, payload)
            if index % CHUNK == CHUNK - 1:
                await rack.flush()
        await done.wait()
        return MESSAGES / (time.perf_counter() - started)


async def _bus(place: Stage, identity: RackIdentity) -> float:
    done = asyncio.Event()
    count = 0

    def on_message(_message: BusMessage) -> None:
        nonlocal count
        count += 1
        if count == MESSAGES:
            done.set()

    payloads = _frames(os.urandom(16))
    async with (
        our_rack(identity) as rack,
        stagebox.connect(place.mixer.snake, place.cluster.viewer) as viewer,
    ):
        await viewer.bus.subscribe(SUBJECT, on_message)
        started = time.perf_counter()
        for index, payload in enumerate(payloads, 1):
            if not rack.publish(SUBJECT, payload):
                raise RuntimeError("the bus refused a live record")
            if index % CHUNK == 0:
                await rack.flush()
        await done.wait()
        return MESSAGES / (time.perf_counter() - started)


async def _ours(place: Stage, identity: RackIdentity) -> float:
    boot = os.urandom(16)
    payloads = _frames(boot)
    builder = CheckpointBuilder(
        rack="bench", boot=boot, chain=to_der(identity.chain), key=identity.key, max_digests=4096
    )
    async with (
        our_rack(identity) as rack,
        stagebox.connect(place.mixer.snake, place.cluster.viewer) as viewer,
        viewer.open_records(SUBJECT, verify=True) as records,
    ):
        started = time.perf_counter()
        reader = asyncio.create_task(_count(records))
        for index, payload in enumerate(payloads, 1):
            if not rack.publish(SUBJECT, payload):
                raise RuntimeError("the bus refused a live record")
            builder.add(SUBJECT, index, payload, index)
            if index % CHUNK == 0:
                rack.publish(subjects.checkpoint("bench"), builder.sign(index) or b"")
                await rack.flush()
        await reader
        elapsed = time.perf_counter() - started
        if viewer.counters.verified != MESSAGES:
            raise RuntimeError(f"not every record was proved: {viewer.counters}")
    return MESSAGES / elapsed


async def _count(records: RecordStream) -> None:
    count = 0
    last: Record | None = None
    async for last in records:  # noqa: B007 - only the count matters
        count += 1
        if count == MESSAGES:
            return


async def run(say: Callable[[str], None]) -> list[Row]:
    """Publisher and subscriber share one process and one loop, for raw and ours alike."""
    async with stage() as place:
        identity = await place.identity("bench")
        say(f"throughput: raw, {MESSAGES} messages")
        raw = await _raw(place, identity)
        say("throughput: ours, payload untouched")
        bus = await _bus(place, identity)
        say("throughput: ours, decoded and proved")
        ours = await _ours(place, identity)
    return [
        Row("throughput", "messages of a meter frame's size, payload untouched", "1/s", bus, raw, "stock nats-py"),
        Row("throughput", "meter frames, published, received, decoded and proved", "1/s", ours, raw,
            "stock nats-py, payload untouched"),
    ]  # fmt: skip
