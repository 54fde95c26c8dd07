"""What nats-server lets the mixer's live user do in the racks' account, and what it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stagebox import subjects
from stagebox.bus import BusClient, BusMessage
from stagebox.errors import BusError
from support.cluster import Cluster
from support.operator_bus import OperatorBus, operator_bus

RACK = "stage-left"


@pytest.fixture
async def bus(cluster: Cluster, tmp_path: Path) -> AsyncIterator[OperatorBus]:
    async with operator_bus(cluster, tmp_path / "nats") as running:
        yield running


async def heard(listener: BusClient, pattern: str) -> asyncio.Queue[BusMessage]:
    queue: asyncio.Queue[BusMessage] = asyncio.Queue()
    await listener.subscribe(pattern, queue.put_nowait)
    return queue


async def denied(speaker: BusClient, subject: str) -> bool:
    """Publish and tell whether the server refused it."""
    before = speaker.stats().denied
    speaker.publish(subject, b"x")
    await speaker.flush()
    return speaker.stats().denied > before


async def test_the_live_user_commands_racks_and_announces(bus: OperatorBus) -> None:
    live, rack = await bus.live(), await bus.rack(RACK)
    for subject in (subjects.command(RACK), subjects.TRUST, subjects.BEACON, subjects.DENY_LIST):
        queue = await heard(rack, subject)
        assert not await denied(live, subject)
        assert (await asyncio.wait_for(queue.get(), 5)).subject == subject


@pytest.mark.parametrize(
    "subject",
    [
        subjects.status(RACK), subjects.ack(RACK), subjects.wal(RACK), subjects.request(RACK, "renew"),
        "$JS.API.INFO", f"$JS.API.DIRECT.GET.WAL.{subjects.wal(RACK)}", "$SYS.REQ.SERVER.PING", "$KV.x.y",
        "mixer.audit.command", f"{subjects.inbox_prefix('rack', RACK)}.unasked", "anything",
    ],
)  # fmt: skip
async def test_the_live_user_never_speaks_for_a_rack_or_to_the_system(bus: OperatorBus, subject: str) -> None:
    assert await denied(await bus.live(), subject)


@pytest.mark.parametrize(
    "pattern",
    ["rack.>", subjects.ALL_COMMANDS, "$SYS.>", f"{subjects.inbox_prefix('rack', RACK)}.>", "_INBOX.>"],
)
async def test_the_live_user_hears_requests_and_acks_only(bus: OperatorBus, pattern: str) -> None:
    with pytest.raises(BusError, match="refused"):
        await (await bus.live()).subscribe(pattern)


@pytest.mark.parametrize("limited", [False, True], ids=["active", "pending or suspended"])
async def test_a_request_is_answered_once_into_the_racks_own_inbox(bus: OperatorBus, limited: bool) -> None:
    live, rack = await bus.live(), await bus.rack(RACK, limited=limited)
    replies: list[str] = []

    def answer(message: BusMessage) -> None:
        replies.append(message.reply)
        live.publish(message.reply, b"answer to " + message.payload)

    await live.subscribe(subjects.ALL_REQUESTS, answer)
    reply = await rack.request(subjects.request(RACK, "renew"), b"request")
    assert reply.payload == b"answer to request"
    assert replies[0].startswith(f"{subjects.inbox_prefix('rack', RACK)}.")
    assert await denied(live, replies[0])


async def test_nobody_overhears_what_a_rack_asks_and_hears(bus: OperatorBus) -> None:
    viewer, other = await bus.client("ops"), await bus.rack("stage-right")
    with pytest.raises(BusError, match="refused"):
        await viewer.subscribe(f"rack.{RACK}.req.*")
    everything = await heard(viewer, "rack.>")
    for pattern in (f"{subjects.inbox_prefix('rack', RACK)}.>", subjects.command(RACK), "rack.>"):
        with pytest.raises(BusError, match="refused"):
            await other.subscribe(pattern)
    with pytest.raises(BusError, match="refused"):
        await viewer.subscribe(subjects.ALL_COMMANDS)
    rack = await bus.rack(RACK)
    rack.publish(subjects.request(RACK, "renew"), b"my passport")
    rack.publish(subjects.status(RACK), b"status")
    await rack.flush()
    assert (await asyncio.wait_for(everything.get(), 5)).payload == b"status"
    assert everything.empty()


@pytest.mark.parametrize("who", ["client", "rack"])
async def test_no_rack_and_no_client_can_publish_a_command_or_an_announcement(
    bus: OperatorBus, who: str
) -> None:
    member = await (bus.client("ops") if who == "client" else bus.rack("stage-right"))
    for subject in (subjects.command(RACK), subjects.TRUST, subjects.DENY_LIST, subjects.ack(RACK)):
        assert await denied(member, subject), subject


async def test_a_suspended_rack_says_no_more_than_status_acks_and_requests(bus: OperatorBus) -> None:
    rack = await bus.rack(RACK, limited=True)
    for subject in (subjects.status(RACK), subjects.ack(RACK), subjects.request(RACK, "sync")):
        assert not await denied(rack, subject), subject
    for subject in (subjects.meter(RACK, "main"), subjects.audio(RACK, "main"), subjects.wal(RACK),
                    subjects.event(RACK), subjects.status("stage-right"), subjects.ack("stage-right")):  # fmt: skip
        assert await denied(rack, subject), subject


@pytest.mark.parametrize(
    "head", [b"N", b"NATS/1.0", b"NATS/1.0 \xff\xff\xff\r\n\r\n", b"NATS/1.0\r\nno colon\r\n\r\n"]
)
async def test_a_header_that_cannot_be_read_ends_no_connection_and_is_seen_as_one(
    bus: OperatorBus, head: bytes
) -> None:
    live, rack = await bus.live(), await bus.rack(RACK)
    queue = await heard(live, subjects.ALL_ALERTS)
    line = rack._supervisor.live
    assert line is not None
    line._queue_command(
        b"HPUB %s  %d %d\r\n%s%s\r\n" % (subjects.alert(RACK).encode(), len(head), len(head) + 1, head, b"x")
    )
    await rack.flush()
    rack.publish(subjects.alert(RACK), b"y")
    first, second = [await asyncio.wait_for(queue.get(), 5) for _ in range(2)]
    assert [(message.payload, message.relayed) for message in (first, second)] == [
        (b"x", True),
        (b"y", False),
    ]
    assert live.stats().disconnects == 0
