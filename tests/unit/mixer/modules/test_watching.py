"""The watch over modules that do not run, and the delivery of sheets: bounded, in turn, and stopped by nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from stagebox.bus import BusMessage
from stagebox.control.command import Ack, AckResult
from stagebox.control.denylist import DenyList
from stagebox.errors import BusError
from stagebox.modules.patch import PatchSheet, open_sheet
from stagebox.records.event import Event
from stagebox.records.status import Status
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.delivery import SheetDelivery
from stagebox_mixer.modules.faults import Fault
from stagebox_mixer.modules.sheets import Sheets
from stagebox_mixer.modules.store import Catalogue
from stagebox_mixer.modules.watching import FaultWatch
from support.cluster import Cluster
from support.patched import BOOT, module_assignment, module_entry

ENTRY = module_entry()
STOPPED = {
    "insert": "eq", "module": "gain", "version": "1.0.0", "digest": ENTRY.digest.hex(), "state": "stopped",
    "code": "trap",
}  # fmt: skip


class State:
    """One assignment, or none."""

    def __init__(self) -> None:
        self.assigned = True

    async def read(self) -> Catalogue:
        assignments = (module_assignment(),) if self.assigned else ()
        return Catalogue({("gain", "1.0.0"): ENTRY}, assignments, DenyList("flux-test"))


def sheets(cluster: Cluster, state: State | None = None) -> Sheets:
    state = state if state is not None else State()
    return Sheets(cluster=cluster.name, authority=cluster.keys.authority, catalogue=state.read)


class Reports:
    """Takes what is reported; the first one fails if it shall."""

    def __init__(self, *errors: Exception) -> None:
        self.taken: list[Fault] = []
        self.errors = list(errors)
        self.came = asyncio.Event()

    async def __call__(self, fault: Fault) -> None:
        self.taken.append(fault)
        self.came.set()
        if self.errors:
            raise self.errors.pop(0)

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.taken) < count:
                self.came.clear()
                await self.came.wait()


def alert(payload: bytes | None = None, rack: str = "stage-left", **detail: Any) -> BusMessage:
    fields = {"module": "gain", "version": "1.0.0", "insert": "eq", "code": "trap", **detail}
    data = payload if payload is not None else Event(1, BOOT, 1, "module.stopped", fields).encode()
    return BusMessage(f"rack.{rack}.alert", data)


def status(*modules: Mapping[str, Any]) -> Status:
    return Status(1, BOOT, 1, "running", {"modules": [dict(module) for module in modules]})


async def run(watch: FaultWatch, reports: Reports, count: int) -> None:
    task = asyncio.create_task(watch.run())
    await reports.wait(count)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_every_alert_is_reported_in_turn_although_one_cannot_be_acted_on(cluster: Cluster) -> None:
    reports = Reports(BusError("away"), ValueError("a bug"))
    watch = FaultWatch(cast(Any, None), sheets(cluster), reports)
    for code in ("trap", "not_finite", "over_budget"):
        watch.take(alert(code=code))
    watch.take(alert(code="denied"))
    watch.take(alert(payload=b"\xff"))
    await run(watch, reports, 3)
    assert [fault.code for fault in reports.taken] == ["trap", "not_finite", "over_budget"]
    assert (watch.faults, watch.malformed, watch.dropped) == (3, 1, 0)


async def test_a_rack_that_complains_without_end_keeps_no_other_from_being_heard(cluster: Cluster) -> None:
    reports = Reports()
    watch = FaultWatch(cast(Any, None), sheets(cluster), reports)
    for _ in range(LIMITS.module_faults_waiting + 50):
        watch.take(alert())
    assert watch.dropped == LIMITS.module_faults_waiting + 50 - LIMITS.module_faults_of_rack
    watch.take(alert(rack="stage-right"))
    await run(watch, reports, LIMITS.module_faults_of_rack + 1)
    assert reports.taken[-1].rack == "stage-right"
    watch.take(alert(code="another"))  # what was acted on makes room
    await run(watch, reports, LIMITS.module_faults_of_rack + 2)


async def test_an_alert_says_when_it_was_raised(cluster: Cluster) -> None:
    reports = Reports()
    watch = FaultWatch(cast(Any, None), sheets(cluster), reports)
    watch.take(alert())
    await run(watch, reports, 1)
    assert reports.taken[0].time_ns == 1


async def test_what_could_not_be_acted_on_is_heard_again_with_the_next_heartbeat(cluster: Cluster) -> None:
    making, reports = sheets(cluster), Reports(BusError("away"))
    watch = FaultWatch(cast(Any, None), making, reports)
    made = await making.issue("stage-left")
    making.taken("stage-left", made.sheet.serial)
    watch.heard("stage-left", status(STOPPED))
    await run(watch, reports, 1)
    watch.heard("stage-left", status(STOPPED))
    await run(watch, reports, 2)
    watch.heard("stage-left", status(STOPPED))
    assert watch.faults == 2


async def test_what_there_was_no_room_for_is_heard_again_with_the_next_heartbeat(cluster: Cluster) -> None:
    making, reports = sheets(cluster), Reports()
    watch = FaultWatch(cast(Any, None), making, reports)
    made = await making.issue("stage-left")
    making.taken("stage-left", made.sheet.serial)
    for _ in range(LIMITS.module_faults_of_rack):
        watch.take(alert(insert="another"))
    watch.heard("stage-left", status(STOPPED))
    assert watch.dropped == 1
    await run(watch, reports, LIMITS.module_faults_of_rack)
    watch.heard("stage-left", status(STOPPED))
    await run(watch, reports, LIMITS.module_faults_of_rack + 1)
    assert reports.taken[-1].insert == "eq"


async def test_a_heartbeat_counts_for_the_sheet_that_the_rack_has_and_once(cluster: Cluster) -> None:
    making, reports = sheets(cluster), Reports()
    watch = FaultWatch(cast(Any, None), making, reports)
    watch.heard("stage-left", status(STOPPED))  # nothing was ever given to it
    made = await making.issue("stage-left")
    watch.heard("stage-left", status(STOPPED))  # it may speak of the sheet before
    making.taken("stage-left", made.sheet.serial)
    for odd in ({}, {"insert": "other"}, {"digest": "00" * 32}, {"state": "running"}, {"code": "expired"}):
        watch.heard("stage-left", status({**STOPPED, **odd} if odd else {}))
    watch.heard("stage-right", status(STOPPED))
    assert watch.faults == 0
    for _ in range(3):
        watch.heard("stage-left", status(STOPPED))
    assert watch.faults == 1
    await run(watch, reports, 1)
    assert reports.taken == [Fault("stage-left", "gain", "1.0.0", "eq", ENTRY.digest.hex(), "trap")]
    # After another sheet it is a complaint about that.
    again = await making.issue("stage-left")
    making.taken("stage-left", again.sheet.serial)
    watch.heard("stage-left", status(STOPPED))
    assert watch.faults == 2


class Commands:
    """Takes commands when it is let; the rack answers what it is told to."""

    def __init__(self, cluster: Cluster) -> None:
        self.public = cluster.keys.authority.public
        self.sheets: list[PatchSheet] = []
        self.result = AckResult.DONE
        self.error: Exception | None = None
        self.sending, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def send(
        self,
        rack: str,
        verb: str,
        args: Mapping[str, Any] | None = None,
        *,
        actor: str,
        ttl_s: float | None = None,
    ) -> Ack:
        assert (verb, actor) == ("patch", "mixer")
        assert args is not None
        self.sheets.append(open_sheet(args["Sheet"], self.public))
        self.sending.set()
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return Ack("flux-test", rack, 1, bytes(32), BOOT, 1, self.result)


async def test_what_changes_while_a_sheet_is_on_its_way_makes_one_more(cluster: Cluster) -> None:
    state, commands = State(), Commands(cluster)
    making = sheets(cluster, state)
    delivery = SheetDelivery(commands, making)
    commands.go_on.clear()
    delivery.deliver("stage-left")
    await commands.sending.wait()
    state.assigned = False
    for _ in range(5):
        delivery.deliver("stage-left")
    commands.go_on.set()
    await delivery.idle()
    assert [len(sheet.inserts) for sheet in commands.sheets] == [1, 0]
    last = making.last("stage-left")
    assert last is not None
    assert (last.taken, last.sheet) == (True, commands.sheets[-1])


async def test_a_sheet_that_is_not_taken_is_not_counted_as_taken(cluster: Cluster) -> None:
    commands = Commands(cluster)
    making = sheets(cluster)
    delivery = SheetDelivery(commands, making)
    commands.result = AckResult.REFUSED
    delivery.deliver("stage-left")
    await delivery.idle()
    for commands.error in (BusError("away"), ValueError("a bug")):
        delivery.deliver("stage-left")
        await delivery.idle()
    last = making.last("stage-left")
    assert last is not None
    assert not last.taken
    assert (delivery.delivered, delivery.failed) == (0, 3)
    commands.error, commands.result = None, AckResult.DONE
    delivery.deliver("stage-left")
    await delivery.idle()
    assert delivery.delivered == 1


async def test_racks_are_told_side_by_side_within_a_bound(cluster: Cluster) -> None:
    commands = Commands(cluster)
    delivery = SheetDelivery(commands, sheets(cluster))
    commands.go_on.clear()
    for number in range(3 * LIMITS.patches_at_once):
        delivery.deliver(f"rack-{number}")
    async with asyncio.timeout(5):
        while len(commands.sheets) < LIMITS.patches_at_once:
            commands.sending.clear()
            await commands.sending.wait()
    assert len(commands.sheets) == LIMITS.patches_at_once
    await delivery.stop()
    await delivery.idle()
    assert len(commands.sheets) == LIMITS.patches_at_once
