"""Shipping to a real JetStream: each committed batch exactly once and in order, whatever happens to either end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from stagebox import envelope
from stagebox.bus.client import BusClient
from stagebox.bus.message import BusMessage
from stagebox.bus.options import BusOptions
from stagebox.errors import BusError
from stagebox.records.walbatch import WalBatch
from stagebox_rack.wal.cursor import Phase
from stagebox_rack.wal.jetstream import Outgoing
from stagebox_rack.wal.shipper import Shipper
from stagebox_rack.wal.wal import Wal
from support.journal import QUICK, RACK, SUBJECT, Bench, eventually
from support.natsd import Authority, NatsServer

WAL_SUBJECT = f"rack.{RACK}.wal"
LIMITS = dataclasses.replace(
    QUICK,
    wal_hot_file_bytes=256 << 10,
    wal_tail_bytes=8 << 10,
    wal_ship_timeout=1.0,
    wal_ship_retry_first=0.02,
    wal_ship_halt_retry=0.1,
)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    directory = tmp_path / "nats"
    directory.mkdir()
    server = NatsServer(directory, Authority(tmp_path / "ca"))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[BusClient]:
    async with BusClient(BusOptions(servers=(server.tcp,), name="rack")) as client:
        await client.wait_connected(10)
        yield client


async def api(bus: BusClient, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        (await bus.request(f"$JS.API.{verb}", json.dumps(body).encode())).payload
    )
    assert "error" not in answer, answer
    return answer


async def make_stream(bus: BusClient, *, atomic: bool = True) -> None:
    await api(
        bus,
        "STREAM.CREATE.WAL",
        {
            "name": "WAL",
            "subjects": ["rack.*.wal"],
            "storage": "file",
            "allow_direct": True,
            "allow_atomic": atomic,
            "duplicate_window": 100_000_000,
        },
    )


async def stream_batches(bus: BusClient, key: SigningKey) -> list[WalBatch]:
    """Every batch in the stream, each envelope verified."""
    batches = []
    for sequence in range(1, (await api(bus, "STREAM.INFO.WAL", {}))["state"]["last_seq"] + 1):
        reply = await bus.request("$JS.API.DIRECT.GET.WAL", json.dumps({"seq": sequence}).encode())
        if (reply.headers or {}).get("Nats-Subject") == WAL_SUBJECT:
            payload = envelope.open_envelope(envelope.DOMAIN_WAL, reply.payload, bytes(key.verify_key))
            batches.append(WalBatch.decode(payload))
    return batches


def assert_exactly_once(batches: list[WalBatch], last: int) -> None:
    expected, previous = 1, bytes(32)
    for batch in batches:
        assert (batch.first, batch.previous) == (expected, previous)
        expected, previous = batch.last + 1, batch.digest()
    assert expected == last + 1


@contextlib.asynccontextmanager
async def shipping(wal: Wal, bus: BusClient, bench: Bench) -> AsyncIterator[Shipper]:
    shipper = Shipper(wal, bus, WAL_SUBJECT, bench.key, on_event=bench.events.append, limits=LIMITS)
    bus.on_connected(shipper.connected)
    bus.on_disconnected(lambda _: shipper.disconnected())
    if bus.connected:
        shipper.connected()
    task = asyncio.create_task(shipper.run())
    try:
        yield shipper
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def append(wal: Wal, count: int, each: int = 3) -> None:
    for number in range(count):
        await asyncio.gather(*(wal.append("meter", number, SUBJECT, b"x" * 50) for _ in range(each)))


async def until_acknowledged(wal: Wal, timeout: float = 20) -> None:
    async with asyncio.timeout(timeout):
        await wal.wait_acknowledged(wal.committed)


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_backlog_rests_however_small_its_batches_are(
    tmp_path: Path, bus: BusClient, atomic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_stream(bus, atomic=atomic)
    bench, rests = Bench(tmp_path / "wal"), list[float]()
    pause = Shipper._pause

    async def rest(shipper: Shipper, seconds: float) -> None:
        rests.append(seconds)
        await pause(shipper, seconds)

    monkeypatch.setattr(Shipper, "_pause", rest)
    async with await bench.open(LIMITS) as wal:
        await append(wal, 150, each=1)
        async with shipping(wal, bus, bench) as shipper:
            await until_acknowledged(wal)
            windows = shipper.stats.publishes
            backlogged = len(rests)
            await append(wal, 1)
            await until_acknowledged(wal)
    assert backlogged >= windows - 2, (
        "after each window but the last, and the try that finds out about batches"
    )
    assert len(rests) == backlogged, "what is live does not rest"


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_backlog_and_what_follows_arrive_once_and_in_order(
    tmp_path: Path, bus: BusClient, atomic: bool
) -> None:
    await make_stream(bus, atomic=atomic)
    bench = Bench(tmp_path / "wal")
    async with await bench.open(LIMITS) as wal:
        await append(wal, 60)
        await wal.seal_now()
        await append(wal, 60)
        async with shipping(wal, bus, bench) as shipper:
            await append(wal, 20)
            await until_acknowledged(wal)
            assert_exactly_once(await stream_batches(bus, bench.key), wal.committed)
            if atomic:
                assert shipper.stats.publishes < shipper.stats.shipped_batches
            else:
                assert shipper.stats.publishes >= shipper.stats.shipped_batches
    assert [e for e in bench.events if e.severity == "alert"] == []


async def test_a_server_killed_again_and_again_gets_everything_once(
    tmp_path: Path, server: NatsServer, bus: BusClient
) -> None:
    await make_stream(bus)
    bench = Bench(tmp_path / "wal")
    source = random.Random(7)
    async with await bench.open(LIMITS) as wal, shipping(wal, bus, bench):
        for _ in range(5):
            writer = asyncio.create_task(append(wal, 40))
            await asyncio.sleep(source.uniform(0.0, 0.1))
            await server.stop(kill=True)
            await asyncio.sleep(source.uniform(0.0, 0.1))
            await server.start()
            bus.retry_now()
            await bus.wait_connected(10)
            await writer
        await until_acknowledged(wal)
        assert_exactly_once(await stream_batches(bus, bench.key), wal.committed)
    assert [e for e in bench.events if e.severity == "alert"] == []


async def test_a_restarted_rack_goes_on_where_the_server_stands(tmp_path: Path, bus: BusClient) -> None:
    await make_stream(bus)
    bench = Bench(tmp_path / "wal")
    for _ in range(3):
        async with await bench.open(LIMITS) as wal:
            async with shipping(wal, bus, bench):
                await append(wal, 20)
                await until_acknowledged(wal)
            await append(wal, 10)
            (bench.directory / "cursor").unlink(missing_ok=True)
    async with await bench.open(LIMITS) as wal, shipping(wal, bus, bench):
        await until_acknowledged(wal)
        assert_exactly_once(await stream_batches(bus, bench.key), wal.committed)


async def test_a_silent_server_is_waited_for_and_repeats_nothing(
    tmp_path: Path, server: NatsServer, bus: BusClient
) -> None:
    await make_stream(bus)
    bench = Bench(tmp_path / "wal")
    async with await bench.open(LIMITS) as wal, shipping(wal, bus, bench):
        await append(wal, 10)
        server.suspend(True)
        await append(wal, 30)
        await asyncio.sleep(1.3)
        server.suspend(False)
        await until_acknowledged(wal)
        assert_exactly_once(await stream_batches(bus, bench.key), wal.committed)


class LateBus:
    """A bus whose first publishes seem lost and reach the server long after they were sent again."""

    def __init__(self, bus: BusClient, late: int) -> None:
        self._bus = bus
        self._left = late
        self.tasks: list[asyncio.Task[None]] = []

    def publish(self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None) -> bool:
        return self._bus.publish(subject, payload, headers=headers)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> BusMessage:
        if subject == WAL_SUBJECT and self._left and "Nats-Batch-Id" not in (headers or {}):
            self._left -= 1
            self.tasks.append(asyncio.create_task(self._send_late(payload, headers)))
            raise BusError("no answer")
        return await self._bus.request(subject, payload, timeout=timeout, headers=headers)

    async def _send_late(self, payload: bytes, headers: Mapping[str, str] | None) -> None:
        await asyncio.sleep(0.4)  # past the stream's duplicate window: only the guard is left
        await self._bus.request(WAL_SUBJECT, payload, headers=headers)


async def test_a_publish_that_arrives_long_after_it_was_repeated_is_not_stored_again(
    tmp_path: Path, bus: BusClient
) -> None:
    await make_stream(bus)
    bench = Bench(tmp_path / "wal")
    late = LateBus(bus, late=3)
    async with await bench.open(LIMITS) as wal:
        shipper = Shipper(wal, late, WAL_SUBJECT, bench.key, on_event=bench.events.append, limits=LIMITS)
        shipper.connected()
        task = asyncio.create_task(shipper.run())
        for _ in range(6):
            await append(wal, 1)
            await until_acknowledged(wal)
        await asyncio.gather(*late.tasks)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert len(late.tasks) == 3
        assert_exactly_once(await stream_batches(bus, bench.key), wal.committed)


async def test_another_racks_messages_in_between_do_not_matter(tmp_path: Path, bus: BusClient) -> None:
    await make_stream(bus)
    bench = Bench(tmp_path / "wal")
    async with await bench.open(LIMITS) as wal, shipping(wal, bus, bench):
        for _ in range(15):
            await bus.request("rack.other.wal", b"noise")
            await append(wal, 2)
        await until_acknowledged(wal)
        assert_exactly_once(await stream_batches(bus, bench.key), wal.committed)


async def test_a_server_that_lost_its_end_gets_it_again(tmp_path: Path, bus: BusClient) -> None:
    await make_stream(bus)
    bench = Bench(tmp_path / "wal")
    async with await bench.open(LIMITS) as wal:
        async with shipping(wal, bus, bench):
            await append(wal, 20)
            await until_acknowledged(wal)
        last = (await api(bus, "STREAM.INFO.WAL", {}))["state"]["last_seq"]
        for sequence in range(last - 5, last + 1):
            await api(bus, "STREAM.MSG.DELETE.WAL", {"seq": sequence})
        await asyncio.sleep(0.2)  # past the stream's duplicate window, as after a restore
        async with shipping(wal, bus, bench) as shipper:
            await eventually(lambda: shipper.stats.shipped_batches >= 6)
            await until_acknowledged(wal)
        batches = []
        state = (await api(bus, "STREAM.INFO.WAL", {}))["state"]
        for sequence in range(1, state["last_seq"] + 1):
            reply = await bus.request("$JS.API.DIRECT.GET.WAL", json.dumps({"seq": sequence}).encode())
            if (reply.headers or {}).get("Nats-Sequence"):
                payload = envelope.open_envelope(envelope.DOMAIN_WAL, reply.payload, bench.public)
                batches.append(WalBatch.decode(payload))
        assert_exactly_once(batches, wal.committed)


async def test_a_new_journal_on_a_replaced_disk_goes_on_after_the_old_one(
    tmp_path: Path, bus: BusClient
) -> None:
    await make_stream(bus)
    for name in ("old", "fresh"):
        bench = Bench(tmp_path / name)
        async with await bench.open(LIMITS) as wal, shipping(wal, bus, bench):
            await append(wal, 5)
            await until_acknowledged(wal)
        assert [e for e in bench.events if e.severity == "alert"] == []
    batches = await stream_batches(bus, bench.key)
    assert len({batch.journal for batch in batches}) == 2
    assert_exactly_once([b for b in batches if b.journal == batches[-1].journal], 15)


async def test_a_fork_stops_shipping_with_an_alert_until_an_operator_settles_it(
    tmp_path: Path, bus: BusClient
) -> None:
    await make_stream(bus)
    bench = Bench(tmp_path / "wal")
    async with await bench.open(LIMITS) as wal:
        await append(wal, 2)
    shutil.copytree(bench.directory, tmp_path / "backup")
    async with await bench.open(LIMITS) as wal, shipping(wal, bus, bench):
        await append(wal, 5)
        await until_acknowledged(wal)
    before = len(await stream_batches(bus, bench.key))
    restored = Bench(tmp_path / "backup")
    async with await restored.open(LIMITS) as wal, shipping(wal, bus, restored) as shipper:
        await append(wal, 1)
        await eventually(lambda: shipper.phase is Phase.HALTED)
        await asyncio.sleep(0.3)
        assert len(await stream_batches(bus, bench.key)) == before
        assert "purge" in restored.event("wal_forked")["remedy"]
        await api(bus, "STREAM.PURGE.WAL", {"filter": WAL_SUBJECT})
        await until_acknowledged(wal)
        assert "wal_shipping_resumed" in restored.names()


async def store_foreign(bus: BusClient) -> None:
    foreign = WalBatch(RACK, 1, bytes(32), ())
    data = envelope.seal(envelope.DOMAIN_WAL, foreign.encode(), SigningKey.generate())
    await bus.request(WAL_SUBJECT, data)


async def test_a_rack_enrolled_anew_with_another_key_ships_after_what_the_old_key_left(
    tmp_path: Path, bus: BusClient
) -> None:
    await make_stream(bus)
    await store_foreign(bus)
    bench = Bench(tmp_path / "wal")
    async with await bench.open(LIMITS) as wal, shipping(wal, bus, bench):
        await append(wal, 3)
        await until_acknowledged(wal)
        last = await bus.request("$JS.API.DIRECT.GET.WAL", json.dumps({"last_by_subj": WAL_SUBJECT}).encode())
        payload = envelope.open_envelope(envelope.DOMAIN_WAL, last.payload, bytes(bench.key.verify_key))
        assert WalBatch.decode(payload).last == wal.committed
    assert [event for event in bench.events if event.severity == "alert"] == []


async def test_a_batch_signed_by_another_key_after_ours_stops_shipping(
    tmp_path: Path, bus: BusClient
) -> None:
    await make_stream(bus)
    bench = Bench(tmp_path / "wal")
    async with await bench.open(LIMITS) as wal, shipping(wal, bus, bench) as shipper:
        await append(wal, 1)
        await until_acknowledged(wal)
        await store_foreign(bus)
        await append(wal, 1)
        await eventually(lambda: shipper.phase is Phase.HALTED)
        assert "not this rack's" in bench.event("wal_forked")["reason"]


async def test_a_connection_replaced_under_a_publish_in_flight_repeats_nothing(
    tmp_path: Path, bus: BusClient
) -> None:
    await make_stream(bus)
    bench = Bench(tmp_path / "wal")
    async with await bench.open(LIMITS) as wal, shipping(wal, bus, bench) as shipper:
        publish = shipper._stream.publish

        async def swapped(messages: Sequence[Outgoing], follows: int) -> int:
            sequence = await publish(messages, follows)
            shipper.connected()  # what a certificate swap does: a new connection, the old one never lost
            return sequence

        shipper._stream.publish = swapped  # type: ignore[method-assign]
        await append(wal, 3)
        await until_acknowledged(wal)
    assert_exactly_once(await stream_batches(bus, bench.key), wal.committed)


async def test_records_lost_on_the_rack_are_shipped_around_and_named(tmp_path: Path, bus: BusClient) -> None:
    await make_stream(bus)
    bench = Bench(tmp_path / "wal")
    async with await bench.open(LIMITS) as wal:
        for _ in range(3):
            await append(wal, 2)
            await wal.seal_now()
    stem = sorted((bench.directory / "segments").glob("*.seal"))[1].name.split(".")[0]
    for path in (bench.directory / "segments").glob(f"{stem}.*"):
        path.unlink()
    async with await bench.open(LIMITS) as wal, shipping(wal, bus, bench):
        await until_acknowledged(wal)
        batches = await stream_batches(bus, bench.key)
    assert [b.first for b in batches][-2:] == [13, 16]
    assert bench.event("wal_gap") == {"first": 7, "last": 12}
