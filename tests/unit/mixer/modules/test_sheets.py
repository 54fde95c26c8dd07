"""Sheets: what is on them, and that of two the later one never tells of an older state."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from structlog.testing import capture_logs

from stagebox.control.denylist import DenyList, denied
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.params import Param
from stagebox.modules.patch import PatchSheet, Point, open_sheet
from stagebox_mixer.modules.model import Assignment, ModuleEntry
from stagebox_mixer.modules.sheets import Sheets, fits, fitting, inserts_of
from stagebox_mixer.modules.store import Catalogue
from support.cluster import Cluster
from support.patched import module_assignment, module_entry

NOBODY = DenyList("flux-test")
ENTRY = module_entry()


def catalogue(*assignments: Assignment, entries: tuple[ModuleEntry, ...] = (ENTRY,)) -> Catalogue:
    return Catalogue({(entry.name, entry.version): entry for entry in entries}, assignments, NOBODY)


class State:
    """What a mixer knows, and the time it has."""

    def __init__(self, now: Catalogue, clock: int = 1_000) -> None:
        self.now = now
        self.time = clock
        self.asked, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def read(self) -> Catalogue:
        found = self.now
        self.asked.set()
        await self.gate.wait()
        return found

    def clock(self) -> int:
        return self.time


def sheets(cluster: Cluster, state: State) -> Sheets:
    return Sheets(
        cluster=cluster.name, authority=cluster.keys.authority, catalogue=state.read, clock=state.clock
    )


# What is on one


def test_a_rack_runs_what_is_assigned_to_it_in_that_order() -> None:
    first = module_assignment(id="b", created=1, params={"gain": 2.0})
    second = module_assignment(id="a", created=2, point=Point.MONITOR, bus="main")
    other = module_assignment(id="c", racks=("foh",))
    found = inserts_of("stage-left", catalogue(first, second, other))
    assert [(insert.id, insert.point, insert.bus) for insert in found] == [
        ("b", Point.METERS, ""),
        ("a", Point.MONITOR, "main"),
    ]
    assert (found[0].digest, found[0].size, found[0].params) == (ENTRY.digest, ENTRY.size, {"gain": 2.0})


def test_what_is_revoked_or_gone_is_left_out() -> None:
    now = catalogue(module_assignment())
    assert len(inserts_of("stage-left", now)) == 1
    for value in (ENTRY.digest, ENTRY.vendor_digest):
        bans = NOBODY.with_denied(denied("module", f"sha256:{value.hex()}"), now_ns=1)
        assert inserts_of("stage-left", replace(now, denied=bans)) == ()
    bans = NOBODY.with_denied(denied("vendor", ENTRY.key_id.hex()), now_ns=1)
    assert inserts_of("stage-left", replace(now, denied=bans)) == ()
    marked = catalogue(module_assignment(), entries=(replace(ENTRY, revoked_at=5),))
    assert inserts_of("stage-left", marked) == ()
    assert inserts_of("stage-left", replace(now, modules={})) == ()


def test_a_sheet_holds_as_much_as_a_rack_can_read() -> None:
    params = {f"parameter-{number}": 0.5 for number in range(64)}
    small = inserts_of("r", catalogue(*(module_assignment(id=f"a-{n}") for n in range(300))))
    large = tuple(replace(insert, params=params) for insert in small)
    assert fits(small[: FORMAT.max_inserts])
    assert not fits(small)
    assert not fits(large[: FORMAT.max_inserts])
    with capture_logs() as logs:
        for inserts in (small, large):
            kept = fitting("r", inserts)
            assert kept
            assert PatchSheet.decode(PatchSheet("c" * 63, "r" * 63, 1, kept).encode()).inserts == kept
        assert fitting("r", small[:7]) == small[:7]
    assert [entry["event"] for entry in logs] == ["patch_sheet_full"] * 2
    assert Param("x", 0, 0, 1, 0.5).check()


# Serials


async def test_a_sheet_is_signed_for_one_rack_of_the_cluster(cluster: Cluster) -> None:
    made = await sheets(cluster, State(catalogue(module_assignment()))).issue("stage-left")
    opened = open_sheet(made.data, cluster.keys.authority.public)
    assert opened == made.sheet
    assert (opened.cluster, opened.rack, opened.serial) == (cluster.name, "stage-left", 1_000)


async def test_serials_of_a_rack_rise_also_when_the_clock_stands_or_goes_back(cluster: Cluster) -> None:
    state = State(catalogue())
    making = sheets(cluster, state)
    serials = []
    for state.time in (1_000, 1_000, 5, 2_000):
        serials.append((await making.issue("stage-left")).sheet.serial)
    assert serials == [1_000, 1_001, 1_002, 2_000]
    assert (await making.issue("stage-right")).sheet.serial == 2_000


async def test_who_holds_the_newest_is_not_given_another(cluster: Cluster) -> None:
    state = State(catalogue(module_assignment()))
    making = sheets(cluster, state)
    made = await making.issue("stage-left")
    assert await making.issue("stage-left", held=made.sheet.serial) is made
    assert (await making.issue("stage-left", held=1)).sheet.serial > made.sheet.serial
    last = await making.issue("stage-left")
    state.now = catalogue()
    changed = await making.issue("stage-left", held=last.sheet.serial)
    assert changed.sheet.serial > last.sheet.serial
    assert changed.sheet.inserts == ()


async def test_a_rack_ahead_of_the_clock_is_told_nothing_beyond_it(cluster: Cluster) -> None:
    """A signed time is what racks hold their clocks to: nobody gets one from the future for the asking."""
    with capture_logs() as logs:
        made = await sheets(cluster, State(catalogue())).issue("stage-left", held=1 << 60)
    assert made.sheet.serial == 1_000
    assert [entry["event"] for entry in logs] == ["patch_serial_behind"]


async def test_a_sheet_of_an_older_state_never_has_the_higher_serial(cluster: Cluster) -> None:
    state = State(catalogue())
    making, other_mixer = sheets(cluster, state), sheets(cluster, state)
    state.gate.clear()
    slow = asyncio.create_task(making.issue("stage-left"))
    await state.asked.wait()
    state.time, state.now = 2_000, catalogue(module_assignment())
    quick = [asyncio.create_task(who.issue("stage-left")) for who in (making, other_mixer)]
    state.gate.set()
    old = await slow
    assert old.sheet.inserts == ()
    for new in await asyncio.gather(*quick):
        assert len(new.sheet.inserts) == 1
        assert new.sheet.serial > old.sheet.serial


async def test_a_sheet_counts_as_taken_only_while_it_is_the_last_one(cluster: Cluster) -> None:
    making = sheets(cluster, State(catalogue()))
    assert making.last("stage-left") is None
    made = await making.issue("stage-left")
    making.taken("stage-left", made.sheet.serial - 1)
    assert making.last("stage-left") == made
    making.taken("stage-left", made.sheet.serial)
    last = making.last("stage-left")
    assert last is not None
    assert last.taken
    await making.issue("stage-left")
    making.taken("stage-left", made.sheet.serial)
    again = making.last("stage-left")
    assert again is not None
    assert not again.taken
