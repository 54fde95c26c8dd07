"""Renewal and enrollment on a real registry: two mixers over one nats-server, real compare-and-set, real audit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stagebox.bus import BusClient
from stagebox.certificates import build_csr
from stagebox.control.renewal import Renewal
from stagebox.control.request import Answer
from stagebox.passport import PassportStatus, verify
from stagebox_mixer.audit import Audit, AuditReader
from stagebox_mixer.denial import Denials
from stagebox_mixer.enrollment.machine import EnrollmentRefused
from stagebox_mixer.enrollment.service import EnrollmentAnswer, EnrollmentService
from stagebox_mixer.lifecycle.expiry import ExpirySweep
from stagebox_mixer.lifecycle.machine import Terms
from stagebox_mixer.lifecycle.service import LifecycleService
from stagebox_mixer.registry.store import Registry
from support.cluster import Cluster
from support.lifecycle import ADMIN, Device, Held
from support.operator_bus import OperatorBus, operator_bus

RACK = "stage-left"


@dataclass
class Half:
    """One of two mixers."""

    registry: Registry
    audit: Audit
    denials: Denials
    lifecycle: LifecycleService
    enrollment: EnrollmentService


async def half(cluster: Cluster, bus: BusClient, directory: Path) -> Half:
    registry, audit = Registry(lambda: bus.js), Audit(lambda: bus.js)
    await audit.start()
    denials = Denials(cluster.keys, lambda: bus.js, audit, directory)
    await denials.start()
    lifecycle = LifecycleService(keys=cluster.keys, registry=registry, audit=audit, denials=denials)
    enrollment = EnrollmentService(
        keys=cluster.keys, registry=registry, audit=audit, denials=denials, auto_approve=True
    )
    return Half(registry, audit, denials, lifecycle, enrollment)


@pytest.fixture
async def bus(cluster: Cluster, tmp_path: Path) -> AsyncIterator[OperatorBus]:
    async with operator_bus(cluster, tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def mixers(cluster: Cluster, bus: OperatorBus, tmp_path: Path) -> AsyncIterator[list[Half]]:
    halves = [await half(cluster, await bus.store(), tmp_path / f"witness-{number}") for number in (1, 2)]
    yield halves
    for one in halves:
        await one.audit.stop()


async def enroll(mixer: Half, device: Device, token: str) -> EnrollmentAnswer:

    return await mixer.enrollment.enroll(
        token=token,
        csr_pem=build_csr(device.key, "rack"),
        machine_id=device.machine_id,
        expected_rack=RACK,
        host="192.0.2.1",
    )


async def enrolled(mixer: Half, cluster: Cluster) -> tuple[Device, Held]:
    device = Device(cluster.keys, RACK, 0x5EED)
    token = await mixer.enrollment.create_token(rack=RACK, ttl_s=60, machine_id=0, actor=ADMIN)
    assert device.take_enrollment(await enroll(mixer, device, token.token))
    assert device.main is not None
    return device, device.main


def now_ns() -> int:
    return time.time_ns()


async def test_two_mixers_never_both_accept_one_token(mixers: list[Half], cluster: Cluster) -> None:
    for _ in range(5):
        token = await mixers[0].enrollment.create_token(rack=RACK, ttl_s=60, machine_id=0, actor=ADMIN)
        devices = [Device(cluster.keys, RACK, 0x5EED) for _ in range(6)]
        results = await asyncio.gather(
            *(enroll(mixers[number % 2], device, token.token) for number, device in enumerate(devices)),
            return_exceptions=True,
        )
        assert [type(result) for result in results].count(EnrollmentAnswer) == 1
        assert [type(result) for result in results].count(EnrollmentRefused) == 5


async def test_one_request_at_two_mixers_at_once_gets_one_identity(
    mixers: list[Half], cluster: Cluster
) -> None:
    device, held = await enrolled(mixers[0], cluster)
    asked = device.ask(held, now_ns())
    answers = await asyncio.gather(
        *(mixer.lifecycle.renew(asked.data, via="https", host="192.0.2.1") for mixer in mixers * 3)
    )
    bodies = [Renewal.from_body(asked.open(answer).body) for answer in answers]
    assert len({body.passport for body in bodies}) == 1
    assert len({body.chain for body in bodies}) == 1
    assert verify(bodies[0].passport, device.public).serial == 2


async def test_decisions_at_two_mixers_at_once_all_count_and_leave_their_rows(
    mixers: list[Half], bus: OperatorBus, cluster: Cluster
) -> None:
    await enrolled(mixers[0], cluster)
    changed: list[str] = []
    for mixer in mixers:
        mixer.lifecycle.changed = changed.append
    await asyncio.gather(
        *(mixer.lifecycle.rotate_secret(RACK, actor=ADMIN) for mixer in mixers * 4),
        mixers[0].lifecycle.suspend(RACK, actor=ADMIN, reason="stolen"),
    )
    entry = await mixers[1].registry.rack(RACK)
    assert entry is not None
    assert (entry.status, entry.highest_serial, entry.serial) == (PassportStatus.SUSPENDED, 10, 1)
    assert len(changed) == 9
    store = await bus.store()
    rows = [row.data for row in await AuditReader(lambda: store.js).page(0, 1000)]
    done = [row for row in rows if b'"action": "rotate_secret"' in row and b'"result": "ok"' in row]
    failed = [row for row in rows if b'"action": "rotate_secret"' in row and b'"result": "failed"' in row]
    assert len(done) - len(failed) == 8


async def test_a_ban_by_one_mixer_holds_at_once_at_the_other(mixers: list[Half], cluster: Cluster) -> None:
    device, held = await enrolled(mixers[0], cluster)
    await mixers[0].denials.deny("rack", RACK, reason="stolen", actor=ADMIN)
    asked = device.ask(held, now_ns())
    answer: Answer = asked.open(await mixers[1].lifecycle.renew(asked.data, via="https", host="192.0.2.1"))
    assert answer.error == "denied"
    await mixers[1].denials.clear("rack", RACK, actor=ADMIN)
    answer = asked.open(await mixers[0].lifecycle.renew(asked.data, via="https", host="192.0.2.1"))
    assert answer.error == ""


async def test_the_sweep_reads_the_real_registry(mixers: list[Half], cluster: Cluster) -> None:
    await enrolled(mixers[0], cluster)
    later = now_ns() + 28 * 86400 * 10**9
    sweep = ExpirySweep(
        registry=mixers[1].registry, audit=mixers[1].audit, terms=Terms(), clock=lambda: later
    )
    assert [rack.rack for rack in await sweep.check()] == [RACK]
