"""Enforcement with real servers: what must not stay connected is gone, on every server, whoever was slow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stagebox.bus import BusClient, Cause
from stagebox.certificates import fingerprint, load_certificates
from stagebox.control.denylist import DenyList, denied
from stagebox.envelope import DOMAIN_DENY_LIST
from stagebox.errors import BusError
from stagebox.identity import Role
from stagebox_mixer.connections import Connections
from stagebox_mixer.denial.record import Record
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.streams import DENIED_BUCKET
from support.cluster import MACHINE, Cluster
from support.gate import Gate, running_gate
from support.leaks import eventually
from support.rackside import QUICK, client_options, connected, refusal, until

ADMIN = "spiffe://flux-test/client/admin/test-admin"


@pytest.fixture
async def gate(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Gate]:
    async with running_gate(cluster, tmp_path) as running:
        yield running


async def deny_rack(gate: Gate, name: str) -> DenyList:
    return await gate.denials.deny("rack", name, reason="stolen", actor=ADMIN)


def ended(bus: BusClient) -> asyncio.Event:
    event = asyncio.Event()
    bus.on_disconnected(lambda _failure: event.set())
    return event


class SlowDenials:
    """The deny list as the callout sees it, a moment too old."""

    def __init__(self, read: Callable[[], Awaitable[DenyList]]) -> None:
        self._read = read
        self.asked = asyncio.Event()

    async def read(self) -> DenyList:
        self.asked.set()
        return await self._read()


# A ban ends what is connected


@pytest.mark.parametrize("kind", ["rack", "machine", "certificate"])
async def test_a_denied_rack_is_gone_within_a_tenth_of_a_second_and_does_not_come_back(
    gate: Gate, kind: str
) -> None:
    rack, other = await gate.add_rack("stage-left"), await gate.add_rack("stage-right", machine=2)
    value = {"rack": rack.name, "machine": f"{MACHINE:016x}", "certificate": rack.certificate}[kind]
    async with (
        connected(rack.options(gate.nodes[0])) as bus,
        connected(other.options(gate.nodes[0])) as stays,
    ):
        gone = ended(bus)
        started = time.perf_counter()
        await gate.denials.deny(kind, value, reason="stolen", actor=ADMIN)
        await gone.wait()
        assert time.perf_counter() - started < 0.1
        assert stays.stats().disconnects == 0
    failure = await refusal(rack.options(gate.nodes[0]))
    assert failure.cause is Cause.AUTHORIZATION_REFUSED
    await until(lambda: has_row(gate, "denied"))
    await gate.denials.clear(kind, value, actor=ADMIN)
    async with connected(rack.options(gate.nodes[0])):
        pass


async def test_a_persons_certificate_is_denied_by_its_fingerprint(gate: Gate, cluster: Cluster) -> None:
    identity = cluster.client(Role.OPERATOR)
    value = fingerprint(load_certificates(identity / "client.crt")[0])
    options = client_options(gate.nodes[0].snake, cluster.client_tls(Role.OPERATOR))
    viewer = client_options(gate.nodes[0].snake, cluster.client_tls(Role.VIEWER))
    async with connected(options) as bus, connected(viewer) as stays:
        gone = ended(bus)
        await gate.denials.deny("certificate", value, reason="laptop lost", actor=ADMIN)
        await gone.wait()
        assert stays.stats().disconnects == 0
    assert (await refusal(options)).cause is Cause.AUTHORIZATION_REFUSED


async def test_connections_on_every_server_of_a_cluster_are_gone_within_a_second(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with running_gate(cluster, tmp_path, nodes=2) as gate:
        rack, other = await gate.add_rack("stage-left"), await gate.add_rack("stage-right", machine=2)
        here, there = gate.nodes
        async with (
            connected(rack.options(here)) as first,
            connected(rack.options(there)) as second,
            connected(other.options(there)) as stays,
        ):
            live = await gate.connections.live()
            assert sorted(item.user for item in live) == ["rack:stage-left"] * 2 + ["rack:stage-right"]
            assert len({item.server_id for item in live}) == 2
            events = [ended(first), ended(second)]
            started = time.perf_counter()
            await deny_rack(gate, rack.name)
            for event in events:
                await event.wait()
            assert time.perf_counter() - started < 1.0
            assert stays.stats().disconnects == 0
        for node in gate.nodes:
            assert (await refusal(rack.options(node))).cause is Cause.AUTHORIZATION_REFUSED


async def test_a_server_that_does_not_answer_is_an_error_and_delays_no_other(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with running_gate(cluster, tmp_path, nodes=2) as gate:
        rack = await gate.add_rack("stage-left")
        here, there = gate.nodes
        assert there.process is not None
        async with connected(rack.options(here)) as bus:
            there.process.send_signal(19)  # SIGSTOP: there, and silent
            try:
                gone, started = ended(bus), time.perf_counter()
                await gate.change(rack.name, removed_at=1)
                looking = asyncio.create_task(gate.enforcer.enforce(rack.name))
                await gone.wait()
                assert time.perf_counter() - started < 0.5
                with pytest.raises(BusError, match="1 of 2 servers"):
                    await looking
            finally:
                there.process.send_signal(18)


# What escapes the first look


async def test_a_connection_admitted_while_the_ban_was_written_is_gone_after_the_second_look(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    rack = await gate.add_rack("stage-left")
    read, wrote = gate.denials.read, asyncio.Event()

    async def read_just_before_the_ban() -> DenyList:
        found = await read()
        await wrote.wait()
        return found

    looks: list[float] = []
    kick = gate.connections.kick

    async def counted(*arguments: object, **named: object) -> int:
        found = await kick(*arguments, **named)  # type: ignore[arg-type]
        looks.append(time.monotonic())  # only now: a look under way might still meet the connection
        return found

    monkeypatch.setattr(gate.connections, "kick", counted)
    # The callout alone answers with what it read before; enforcement reads anew.
    slow = SlowDenials(read_just_before_the_ban)
    monkeypatch.setattr(gate.callout, "_denials", slow)
    async with BusClient(rack.options(gate.nodes[0])) as bus:
        gone = ended(bus)
        await slow.asked.wait()
        await deny_rack(gate, rack.name)
        await eventually(lambda: len(looks) == 1)
        assert not bus.connected
        wrote.set()
        await bus.wait_connected(5)
        async with asyncio.timeout(LIMITS.enforce_again_s + 1):
            await gone.wait()
    await eventually(lambda: len(looks) >= 2)


async def test_a_sweep_alone_finds_what_a_ban_written_elsewhere_hits(gate: Gate) -> None:
    rack = await gate.add_rack("stage-left")
    async with connected(rack.options(gate.nodes[0])) as bus:
        gone = ended(bus)
        # Another mixer of this cluster bans: here nobody is told.
        banned = DenyList("flux-test").with_denied(denied("rack", rack.name), now_ns=1)
        signed = gate.cluster.keys.authority.seal(DOMAIN_DENY_LIST, banned.encode())
        await (await gate.store.js.key_value(DENIED_BUCKET)).put("list", Record(signed).encode())
        sweep = asyncio.create_task(gate.enforcer.run())
        await gone.wait()
        sweep.cancel()
        await asyncio.gather(sweep, return_exceptions=True)


async def test_a_suspended_racks_full_rights_end_and_it_comes_back_with_limited_ones(gate: Gate) -> None:
    rack = await gate.add_rack("stage-left")
    async with connected(rack.options(gate.nodes[0])) as bus:
        gone = ended(bus)
        await gate.lifecycle.suspend(rack.name, actor=ADMIN)
        await gone.wait()
        await bus.wait_connected(5)
        (live,) = await gate.connections.live("rack:stage-left")
        assert live.certificate == rack.certificate
        await gate.enforcer.enforce()
        await bus.flush()
        assert bus.stats().disconnects == 1


async def test_a_removed_rack_is_kicked(gate: Gate) -> None:
    rack = await gate.add_rack("stage-left")
    async with connected(rack.options(gate.nodes[0])) as bus:
        gone = ended(bus)
        await gate.lifecycle.remove(rack.name, actor=ADMIN)
        await gone.wait()
    assert (await refusal(rack.options(gate.nodes[0]))).cause is Cause.AUTHORIZATION_REFUSED
    await until(lambda: has_row(gate, "removed"))


async def test_more_connections_than_a_page_holds_are_all_found_and_ended(gate: Gate) -> None:
    racks = [await gate.add_rack(f"rack-{number}", machine=2) for number in range(9)]
    paged = Connections(gate.system, gate.cluster.keys.nats.stagebox.id, page=3)
    async with asyncio.TaskGroup() as group:
        # One that came back before the last page is read would be ended twice.
        slow = replace(QUICK, backoff_base=3600.0, backoff_cap=3600.0)
        buses = [BusClient(replace(rack.options(gate.nodes[0]), limits=slow)) for rack in racks]
        for bus in buses:
            await bus.start()
            group.create_task(bus.wait_connected(8))
    try:
        assert {item.user for item in await paged.live()} == {f"rack:rack-{number}" for number in range(9)}
        assert await paged.kick(lambda item: item.user != "rack:rack-4") == 8
        await eventually(lambda: sum(bus.stats().disconnects for bus in buses) == 8)
        assert buses[4].stats().disconnects == 0
    finally:
        for bus in buses:
            await bus.close()


async def has_row(gate: Gate, reason: str) -> bool:
    return bool(await gate.rows(action="connect", reason=reason))
