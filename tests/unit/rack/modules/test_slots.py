"""The inserts of a sheet: whatever comes in whatever order, only what was admitted for a place the sheet has is run."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from stagebox.modules.patch import Insert, PatchSheet, Point
from stagebox.modules.statement import ModuleLimits
from stagebox_rack.modules.arranging import Placed
from stagebox_rack.modules.guard import Admitted
from stagebox_rack.modules.slots import Slots, SlotState

BRIDGE = 10.0
NS = 1_000_000_000


def insert(insert_id: str, version: int, source: str = "main", gain: float = 1.0) -> Insert:
    return Insert(
        insert_id,
        "gain",
        f"{version}.0.0",
        bytes([version]) * 32,
        10,
        Point.METERS,
        source,
        params={"gain": gain},
    )


def admitted(asked: Insert, expires: int = 2**63) -> Admitted:
    return Admitted(
        name=asked.module, version=asked.version, digest=asked.digest, data=asked.digest, granted=frozenset(),
        limits=ModuleLimits(), params={}, serial=1, vendor=bytes(16), vendor_digest=bytes(32), expires=expires,
    )  # fmt: skip


def sheet(*inserts: Insert) -> PatchSheet:
    return PatchSheet("flux-prod", "stage-left", 1, inserts)


inserts = st.builds(
    insert,
    st.sampled_from("abc"),
    st.integers(1, 3),
    st.sampled_from(["main", "aux"]),
    st.sampled_from([0.5, 1.0]),
)
sheets = st.lists(inserts, max_size=3, unique_by=lambda found: found.id)
steps = st.one_of(
    st.tuples(st.just("sheet"), sheets),
    st.tuples(st.sampled_from(["admit", "reject", "stop"]), st.sampled_from("abc")),
    st.tuples(st.just("wait"), st.floats(0, 2 * BRIDGE)),
    st.tuples(st.sampled_from(["again", "clear"]), st.none()),
)


@given(st.lists(steps, max_size=30))
def test_only_what_was_admitted_for_a_place_of_the_sheet_runs_and_a_version_before_only_for_a_while(
    steps: list[tuple[str, object]],
) -> None:
    slots, now = Slots(BRIDGE), 0.0
    since: dict[str, float] = {}  # since when the sheet asks for something else than runs
    for step, value in steps:
        match step, value:
            case "sheet", list():
                slots.follow(sheet(*value), now)
            case "wait", float():
                now += value
            case "again", None:
                slots.again()
            case "clear", None:
                slots.clear()
            case _, str():
                _judge(slots, step, value)
        slots.end_bridges(now)
        listed = {slot.insert.id: slot for slot in slots}
        since = {
            key: since.get(key, now) for key in listed if _bridging(listed[key].placed, listed[key].insert)
        }
        for placed in slots.wanted():
            slot = listed[placed.insert.id]
            assert placed.module.digest == placed.insert.digest
            if placed.insert != slot.insert:
                assert slot.state is SlotState.WAITING
                assert (placed.insert.point, placed.insert.source) == (slot.insert.point, slot.insert.source)
                assert now - since[placed.insert.id] < BRIDGE
            assert slot.state in (SlotState.ADMITTED, SlotState.WAITING)


def _judge(slots: Slots, step: str, insert_id: str) -> None:
    slot = slots.get(insert_id)
    if slot is None:
        return
    if step == "admit" and slot.state is SlotState.WAITING:
        slot.admit(admitted(slot.insert))
    elif step == "reject" and slot.state is SlotState.WAITING:
        slot.refuse(SlotState.REJECTED, "denied")
    elif step == "stop" and slot.state is SlotState.ADMITTED:
        slot.refuse(SlotState.STOPPED, "denied")


def _bridging(placed: Placed | None, asked: Insert) -> bool:
    return placed is not None and placed.insert != asked


def test_the_same_sheet_object_is_followed_once() -> None:
    slots, first = Slots(BRIDGE), sheet(insert("a", 1))
    assert slots.follow(first, 0.0)
    assert not slots.follow(first, 1.0)
    slots.clear()
    assert slots.follow(first, 2.0)


def test_what_is_refused_waits_again_when_something_changed() -> None:
    slots = Slots(BRIDGE)
    slots.follow(sheet(insert("a", 1), insert("b", 2)), 0.0)
    first, second = slots
    first.refuse(SlotState.REJECTED, "denied")
    second.admit(admitted(second.insert))
    assert slots.waiting() == ()
    slots.again()
    assert slots.waiting() == (first.insert,)


def test_the_next_end_is_the_earliest_of_expiries_and_versions_that_go_on() -> None:
    slots = Slots(BRIDGE)
    assert slots.next_end(0, 0.0) is None
    slots.follow(sheet(insert("a", 1), insert("b", 2)), 0.0)
    for slot, expires in zip(slots, (30 * NS, 20 * NS), strict=True):
        slot.admit(admitted(slot.insert, expires))
    assert slots.next_end(0, 0.0) == 20
    slots.follow(sheet(insert("a", 3), replace(insert("b", 2))), 5.0)
    assert slots.next_end(0, 5.0) == BRIDGE
    assert slots.next_end(25 * NS, 5.0) == 0
