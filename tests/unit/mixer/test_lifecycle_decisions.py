"""Operators' decisions: what is audited, what waits for the rack, what a failing storage leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stagebox import passport
from stagebox.errors import BusError, VerificationError
from stagebox.passport import PassportStatus
from stagebox_mixer.registry.model import RackEntry
from support.cluster import Cluster
from support.lifecycle import ADMIN, Device, Held, LifecycleBench
from support.mixer_memory import run_now

RACK = "stage-left"


@pytest.fixture
def bench(cluster: Cluster) -> LifecycleBench:
    return LifecycleBench(cluster.keys)


@pytest.fixture
def device(bench: LifecycleBench) -> Device:
    return bench.device(RACK)


def main(device: Device) -> Held:
    assert device.main is not None
    return device.main


def renew(bench: LifecycleBench, device: Device) -> Held:
    asked = device.ask(device.held[0], bench.clock())
    assert device.take_renewal(asked, bench.renew(asked))
    assert device.staged is not None
    return device.staged


# --- storage ----------------------------------------------------------------------------------------------


def test_nothing_is_granted_that_could_not_be_audited(bench: LifecycleBench, device: Device) -> None:
    before = dict(bench.registry.racks.stored)
    bench.audit.fails = BusError("the audit cannot be used")
    with pytest.raises(BusError):
        bench.renew(device.ask(main(device), bench.clock()))
    with pytest.raises(BusError):
        run_now(bench.service.suspend(RACK, actor=ADMIN))
    assert bench.registry.racks.stored == before


def test_a_change_whose_write_fails_is_followed_by_a_row_that_says_so(
    bench: LifecycleBench, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise BusError("the disk is full")

    monkeypatch.setattr(bench.registry.racks, "put", full)
    with pytest.raises(BusError):
        run_now(bench.service.suspend(RACK, actor=ADMIN, reason="stolen"))
    rows = bench.audit.rows[-2:]
    assert [(row.action, row.result, row.reason) for row in rows] == [
        ("suspend", "ok", "stolen"),
        ("suspend", "failed", "storage"),
    ]
    assert not bench.changed


# --- decisions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "status"),
    [("suspend", PassportStatus.SUSPENDED), ("rotate_secret", PassportStatus.ACTIVE)],
)
def test_a_decision_waits_as_a_passport_for_the_rack_and_both_secrets_hold(
    bench: LifecycleBench, device: Device, action: str, status: PassportStatus
) -> None:
    before = bench.entry(RACK)
    entry: RackEntry = run_now(getattr(bench.service, action)(RACK, actor=ADMIN))
    assert (entry.status, entry.secret_hash, entry.serial) == (status, before.secret_hash, 1)
    flux = bench.service.pending_passport(entry)
    assert flux is not None
    issued = passport.verify(flux, device.public)
    assert (issued.status, issued.serial) == (status, 2)
    assert flux == bench.service.pending_passport(bench.entry(RACK))
    assert (bench.delivered, bench.changed) == ([RACK], [RACK])


def test_a_renewal_is_not_sent_by_command(bench: LifecycleBench, device: Device) -> None:
    renew(bench, device)
    assert bench.service.pending_passport(bench.entry(RACK)) is None


def test_suspending_twice_tells_the_rack_again_and_writes_once(bench: LifecycleBench, device: Device) -> None:
    run_now(bench.service.suspend(RACK, actor=ADMIN))
    first = bench.entry(RACK)
    run_now(bench.service.suspend(RACK, actor=ADMIN))
    assert bench.entry(RACK) == first
    assert bench.delivered == [RACK, RACK]


def test_an_issue_that_was_replaced_is_not_admitted(bench: LifecycleBench, device: Device) -> None:
    renew(bench, device)
    run_now(bench.service.suspend(RACK, actor=ADMIN))
    with pytest.raises(VerificationError, match="was replaced"):
        run_now(bench.service.confirm(RACK, 2))
    # The rack is not lost for it: it shows what it has.
    bench.clock.after(seconds=61)
    assert renew(bench, device).passport.status is PassportStatus.SUSPENDED


def test_a_removed_rack_leaves_its_serials_sequences_and_keys(bench: LifecycleBench, device: Device) -> None:
    stored = bench.entry(RACK)
    bench.registry.racks.stored[RACK] = (replace(stored, command_seq=7).encode(), 1)
    bench.registry.racks.revision = 1
    run_now(bench.service.remove(RACK, actor=ADMIN))
    fresh = bench.device(RACK)
    entry = bench.entry(RACK)
    assert (entry.serial, entry.command_seq, entry.removed_at) == (2, 7, 0)
    assert entry.earlier_keys == (main(device).passport.rack_public,)
    assert main(fresh).passport.serial == 2
