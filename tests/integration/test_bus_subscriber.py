from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path

import pytest

from stagebox.bus import BusClient
from stagebox.errors import BusError, ConfigError, InputError, KeyFileError, TlsError, VerificationError
from stagebox.records.meter import MeterFrame
from stagebox.subscriber import SUBSCRIBER_LIMITS, Verification, connect
from support.leaks import eventually, no_leaks
from support.natsd import QUICK, Authority, NatsServer
from support.ports import free_port
from support.signing import SigningRack


async def test_a_published_frame_is_handed_out_verified_and_a_forged_one_is_raised(
    server: NatsServer, identity: Path, authority: Authority, publisher: BusClient
) -> None:
    rack = SigningRack(authority)
    async with no_leaks(0), connect(server.wss, identity, bus_limits=QUICK) as bus:
        async with bus.open_records("rack.*.meter.>") as records:
            for _ in range(20):
                publisher.publish(*rack.meter())
            publisher.publish(f"rack.{rack.name}.meter.main", rack.frame(3, peak=6.0))
            publisher.publish(rack.checkpoint_subject, rack.checkpoint())
            got = []
            with pytest.raises(VerificationError, match="not the one the rack signed"):
                async with asyncio.timeout(3):
                    async for record in records:
                        got.append(record)
            async with asyncio.timeout(3):
                while len(got) < 20:
                    got.append(await anext(aiter(records)))
        frames = [record.value for record in got if isinstance(record.value, MeterFrame)]
        assert [frame.seq for frame in frames] == list(range(1, 21))
        assert all(record.verification is Verification.VERIFIED for record in got)
        counters = bus.counters
        assert (counters.received, counters.verified, counters.bad, counters.lost) == (21, 20, 1, 0)


async def test_records_iterates_and_stopping_early_leaves_nothing(
    server: NatsServer, identity: Path, authority: Authority, publisher: BusClient
) -> None:
    rack = SigningRack(authority)
    async with no_leaks(0), connect([server.wss], str(identity), bus_limits=QUICK) as bus:

        async def produce() -> None:
            while True:
                publisher.publish(*rack.meter())
                publisher.publish(rack.checkpoint_subject, rack.checkpoint())
                await asyncio.sleep(0.005)

        producer = asyncio.create_task(produce())
        count = 0
        async with asyncio.timeout(5):
            stream = bus.records("rack.*.meter.>", verify=True)
            async for record in stream:
                assert record.verification is Verification.VERIFIED
                count += 1
                if count == 10:
                    break
            await stream.aclose()  # type: ignore[attr-defined]
        producer.cancel()
        await asyncio.gather(producer, return_exceptions=True)


async def test_a_server_restart_is_survived_and_what_came_unproved_is_marked(
    server: NatsServer, identity: Path, authority: Authority, publisher: BusClient
) -> None:
    rack = SigningRack(authority)
    limits = dataclasses.replace(SUBSCRIBER_LIMITS, unverifiable_after=0.3)
    async with (
        connect(server.wss, identity, limits=limits, bus_limits=QUICK) as bus,
        bus.open_records("rack.*.meter.>", on_bad="count") as records,
    ):
        publisher.publish(*rack.meter())
        await publisher.flush()
        unproved = await asyncio.wait_for(anext(aiter(records)), 2)
        assert unproved.verification is Verification.UNVERIFIABLE
        rack.checkpoint()
        await server.stop(kill=True)
        await eventually(lambda: not bus.bus.connected and not publisher.connected)
        await server.start()
        await asyncio.gather(bus.bus.wait_connected(5), publisher.wait_connected(5))
        await bus.bus.flush()
        publisher.publish(*rack.meter())
        publisher.publish(rack.checkpoint_subject, rack.checkpoint())
        proved = await asyncio.wait_for(anext(aiter(records)), 2)
        assert proved.verification is Verification.VERIFIED
        assert bus.bus_stats().connects == 2


async def test_a_wrong_address_and_a_wrong_identity_are_clear_and_quick(
    server: NatsServer, identity: Path, authority: Authority, tmp_path: Path
) -> None:
    quick = dataclasses.replace(SUBSCRIBER_LIMITS, connect_within=0.5)
    started = time.monotonic()
    with pytest.raises(BusError, match="nothing listens there"):
        async with connect(f"wss://127.0.0.1:{free_port()}", identity, limits=quick, bus_limits=QUICK):
            pass
    stranger = Authority(tmp_path / "other", "other")
    (identity / "ca.pem").write_bytes(stranger.pem)
    with pytest.raises(TlsError, match="not acceptable"):
        async with connect(server.wss, identity, limits=quick, bus_limits=QUICK):
            pass
    assert time.monotonic() - started < 3
    (identity / "ca.pem").unlink()
    with pytest.raises(KeyFileError, match=r"ca\.pem"):
        connect(server.wss, identity)
    with pytest.raises(ConfigError, match="not an identity directory"):
        connect(server.wss, tmp_path / "nowhere")


async def test_a_pattern_nobody_can_prove_is_refused(server: NatsServer, identity: Path) -> None:
    async with connect(server.wss, identity, bus_limits=QUICK) as bus:
        with pytest.raises(InputError, match="does not select records of racks"):
            async for _ in bus.records("mixer.>"):
                pass
