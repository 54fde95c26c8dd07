"""Admission while a rack's identity changes: what is proved, what waits, and which rights the status gives."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stagebox import subjects
from stagebox.bus import BusClient, BusMessage, Cause
from stagebox.errors import BusError
from stagebox.identity import Role
from stagebox.passport import PassportStatus
from stagebox_mixer.admission import enforcement
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import PendingIssue, secret_hash
from support.cluster import Cluster
from support.gate import Gate, RackSide, running_gate, write_identity
from support.leaks import eventually
from support.rackside import client_options, connected, refusal, until

ADMIN = "spiffe://flux-test/client/admin/test-admin"
RACK = "stage-left"


@pytest.fixture
async def gate(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Gate]:
    async with running_gate(cluster, tmp_path) as running:
        yield running


@pytest.fixture
async def rack(gate: Gate) -> RackSide:
    return await gate.add_rack(RACK)


async def issue(gate: Gate, rack: RackSide, *, rekey: bool) -> RackSide:
    """Give the rack an identity that waits: another secret, with ``rekey`` also another key and certificate."""
    key = Ed25519PrivateKey.generate() if rekey else rack.key
    directory = rack.directory.with_name("next") if rekey else rack.directory
    certificate = write_identity(gate.cluster, directory, RACK, key) if rekey else rack.certificate
    staged = replace(rack, key=key, certificate=certificate, directory=directory, secret="the-next-secret")
    pending = PendingIssue(
        key.public_key().public_bytes_raw(), secret_hash(staged.secret), 2, time.time_ns(), 0, certificate,
        b"", time.time_ns() + 10**15, bytes(32),
    )  # fmt: skip
    await gate.change(RACK, pending=pending, last_serial=2)
    return staged


async def entry_of(gate: Gate) -> tuple[int, bool]:
    """Return the serial proved last and whether an issue waits."""
    entry = await gate.registry.rack(RACK)
    assert entry is not None
    return entry.serial, entry.pending is not None


# Two identities


@pytest.mark.parametrize("rekey", [False, True], ids=["new secret", "new key too"])
async def test_the_old_identity_holds_until_the_new_one_connects_and_not_a_moment_longer(
    gate: Gate, rack: RackSide, rekey: bool
) -> None:
    staged = await issue(gate, rack, rekey=rekey)
    async with connected(rack.options(gate.nodes[0])):
        assert await entry_of(gate) == (1, True)
    async with connected(staged.options(gate.nodes[0])):
        assert await entry_of(gate) == (2, False)
        (row,) = await gate.rows(action="confirm")
        assert row["subject"] == RACK
        assert (await refusal(rack.options(gate.nodes[0]))).cause is Cause.AUTHORIZATION_REFUSED
    async with connected(staged.options(gate.nodes[0])):
        pass
    assert len(await gate.rows(action="confirm")) == 1


async def test_a_swap_to_the_new_identity_leaves_no_gap_and_the_old_connection_is_not_needed(
    gate: Gate, rack: RackSide
) -> None:
    staged = await issue(gate, rack, rekey=False)
    current = rack
    options = replace(rack.options(gate.nodes[0]), token=lambda: current.secret)
    async with connected(options) as bus:
        current = staged
        await bus.swap_certificate()
        await bus.flush()
        assert (bus.stats().disconnects, await entry_of(gate)) == (0, (2, False))


async def test_an_old_connection_that_stays_is_ended_after_a_grace(
    gate: Gate, rack: RackSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enforcement, "LIMITS", dataclasses.replace(LIMITS, superseded_grace_s=0.2))
    staged = await issue(gate, rack, rekey=False)
    async with (
        connected(rack.options(gate.nodes[0])) as old,
        connected(staged.options(gate.nodes[0])) as new,
    ):
        gone = asyncio.Event()
        old.on_disconnected(lambda _failure: gone.set())
        async with asyncio.timeout(LIMITS.enforce_again_s + 1):
            await gone.wait()
        await new.flush()
        assert new.stats().disconnects == 0


async def test_an_issue_that_cannot_be_recorded_as_proved_admits_nobody(
    gate: Gate, rack: RackSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = await issue(gate, rack, rekey=False)

    async def away(_name: str, _serial: int) -> None:
        raise BusError("the registry cannot be used")

    monkeypatch.setattr(gate.callout, "_confirm", away)
    assert (await refusal(staged.options(gate.nodes[0]))).cause is not None
    assert gate.callout.admitted == 0
    assert await entry_of(gate) == (1, True)


async def test_a_copy_of_a_rack_that_comes_with_an_older_secret_is_told_apart(
    gate: Gate, rack: RackSide, capsys: pytest.CaptureFixture[str]
) -> None:
    staged = await issue(gate, rack, rekey=False)
    async with connected(staged.options(gate.nodes[0])) as bus:
        for _ in range(2):
            assert (await refusal(rack.options(gate.nodes[0]))).cause is Cause.AUTHORIZATION_REFUSED
        await until(lambda: has_rows(gate, action="connect", reason="secret"))
        row = (await gate.rows(action="connect", reason="secret"))[0]
        detail = row["detail"]
        assert isinstance(detail, dict)
        assert detail["proved"] == "certificate and key"
        assert bus.stats().disconnects == 0  # the rack itself does not suffer
    output = capsys.readouterr()
    assert output.out.count("possible_clone") == 1
    assert rack.secret not in output.out + output.err


async def test_a_copy_with_an_earlier_key_is_told_apart_too(
    gate: Gate, rack: RackSide, capsys: pytest.CaptureFixture[str]
) -> None:
    staged = await issue(gate, rack, rekey=True)
    async with connected(staged.options(gate.nodes[0])):
        assert (await refusal(rack.options(gate.nodes[0]))).cause is Cause.AUTHORIZATION_REFUSED
        await until(lambda: has_rows(gate, action="connect", reason="certificate_key"))
    assert "possible_clone" in capsys.readouterr().out


async def test_a_rack_removed_while_its_new_identity_waits_cannot_prove_it(
    gate: Gate, rack: RackSide
) -> None:
    staged = await issue(gate, rack, rekey=False)
    await gate.lifecycle.remove(RACK, actor=ADMIN)
    for side in (rack, staged):
        assert (await refusal(side.options(gate.nodes[0]))).cause is Cause.AUTHORIZATION_REFUSED
    await until(lambda: has_rows(gate, action="connect", reason="removed"))


# Rights


@pytest.mark.parametrize("status", [PassportStatus.PENDING, PassportStatus.SUSPENDED])
async def test_a_rack_that_is_not_active_says_that_it_lives_and_hears_commands_and_that_is_all(
    gate: Gate, cluster: Cluster, status: PassportStatus
) -> None:
    rack = await gate.add_rack(RACK, status=status)
    got: list[BusMessage] = []
    viewer = client_options(gate.nodes[0].snake, cluster.client_tls(Role.ADMIN))
    async with connected(rack.options(gate.nodes[0])) as bus, connected(viewer) as person:
        await person.subscribe("rack.>", callback=got.append)
        await bus.subscribe(subjects.command(RACK), callback=lambda message: None)
        bus.publish(subjects.status(RACK), b"alive")
        bus.publish(subjects.ack(RACK), b"ack")
        await eventually(lambda: len(got) == 2)
        forbidden = (
            subjects.meter(RACK, "main"), subjects.audio(RACK, "mix"), subjects.event(RACK), subjects.wal(RACK),
            subjects.checkpoint(RACK), subjects.status("stage-right"), f"$JS.API.DIRECT.GET.WAL.rack.{RACK}.wal",
        )  # fmt: skip
        for subject in forbidden:
            bus.publish(subject, b"x")
        await bus.flush()
        await eventually(lambda: bus.stats().denied == len(forbidden))
        await person.flush()
    assert [message.subject for message in got] == [subjects.status(RACK), subjects.ack(RACK)]


@pytest.mark.parametrize("status", [PassportStatus.SUSPENDED, PassportStatus.ACTIVE])
async def test_a_reload_gives_a_live_connection_the_rights_of_the_present_status(
    gate: Gate, rack: RackSide, status: PassportStatus
) -> None:
    before = PassportStatus.ACTIVE if status is PassportStatus.SUSPENDED else PassportStatus.SUSPENDED
    await gate.change(RACK, status=before)
    async with connected(rack.options(gate.nodes[0])) as bus:
        await gate.change(RACK, status=status)
        admitted = gate.callout.admitted
        gate.nodes[0].reload()
        await eventually(lambda: gate.callout.admitted == admitted + 1)
        # The answer is counted where it is given; the server applies it a moment later.
        expected = 1 if status is PassportStatus.SUSPENDED else 0
        await until(lambda: denies(bus, expected))
        assert bus.stats().disconnects == 0
        # What was given at the reload is what is remembered: there is nothing left to enforce.
        assert await gate.enforcer.enforce() == 0


async def test_a_reload_drops_the_connection_of_an_older_identity(gate: Gate, rack: RackSide) -> None:
    staged = await issue(gate, rack, rekey=False)
    async with connected(rack.options(gate.nodes[0])) as old, connected(staged.options(gate.nodes[0])) as new:
        gate.nodes[0].reload()
        await eventually(lambda: old.stats().disconnects == 1)
        await new.flush()
        assert new.stats().disconnects == 0
        await until(lambda: has_rows(gate, action="connect", reason="superseded"))


async def test_a_connection_ends_with_its_passport(gate: Gate, rack: RackSide) -> None:
    await gate.change(RACK, passport_not_after=time.time_ns() + 2 * 10**9)
    async with connected(rack.options(gate.nodes[0])) as bus:
        ended = asyncio.Event()
        bus.on_disconnected(lambda _failure: ended.set())
        async with asyncio.timeout(4):
            await ended.wait()
    assert (await refusal(rack.options(gate.nodes[0]))).cause is Cause.AUTHORIZATION_REFUSED
    await until(lambda: has_rows(gate, action="connect", reason="passport_expired"))


async def denies(bus: BusClient, expected: int) -> bool:
    """Try one subject of the full rights; return whether the server refused it as often as expected."""
    before = bus.stats().denied
    bus.publish(subjects.event(RACK), b"x")
    await bus.flush()
    return bus.stats().denied - before == expected


async def has_rows(gate: Gate, **match: object) -> bool:
    return bool(await gate.rows(**match))
