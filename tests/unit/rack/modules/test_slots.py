"""The inserts of a sheet: whatever comes in whatever order, only what was admitted for a place the sheet has is run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.modules.patch import Insert, PatchSheet, Point
from stagebox.modules.statement import ModuleLimits
from stagebox_rack.modules.arranging import Placed
from stagebox_rack.modules.guard import Admitted
from stagebox_rack.modules.slots import Slots, SlotState

BRIDGE = 10.0
SIZE = 10
PLENTY = 1 << 20
NS = 1_000_000_000


def insert(insert_id: str, version: int, source: str = "main", gain: float = 1.0) -> Insert:
    return Insert(
        insert_id,
        "gain",
        f"{version}.0.0",
        bytes([version]) * 32,
        SIZE,
        Point.METERS,
        source,
        params={"gain": gain},
    )


def admitted(asked: Insert, expires: int = 2**63) -> Admitted:
    return Admitted(
        name=asked.module, version=asked.version, digest=asked.digest, data=bytes(asked.size), granted=frozenset(),
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


@given(st.lists(steps, max_size=30), st.sampled_from([SIZE - 1, SIZE, 2 * SIZE, PLENTY]))
def test_only_what_was_admitted_for_a_place_of_the_sheet_runs_and_a_version_before_only_for_a_while(
    steps: list[tuple[str, object]], room: int
) -> None:
    slots, now = Slots(BRIDGE, room), 0.0
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
        sheets_own = {slot.insert.digest for slot in slots if slot.state is SlotState.ADMITTED}
        assert len(sheets_own) * SIZE <= room
        assert len(slots.files()) * SIZE <= 2 * room


def _judge(slots: Slots, step: str, insert_id: str) -> None:
    slot = slots.get(insert_id)
    if slot is None:
        return
    if step == "admit" and slot.state is SlotState.WAITING and slot.insert.digest in slots.fitting:
        slot.admit(admitted(slot.insert))
    elif step == "reject" and slot.state is SlotState.WAITING:
        slot.refuse(SlotState.REJECTED, "denied")
    elif step == "stop" and slot.state is SlotState.ADMITTED:
        slot.refuse(SlotState.STOPPED, "denied")


def _bridging(placed: Placed | None, asked: Insert) -> bool:
    return placed is not None and placed.insert != asked


def test_the_same_sheet_object_is_followed_once() -> None:
    slots, first = Slots(BRIDGE, PLENTY), sheet(insert("a", 1))
    assert slots.follow(first, 0.0)
    assert not slots.follow(first, 1.0)
    slots.clear()
    assert slots.follow(first, 2.0)


def test_what_is_refused_waits_again_when_something_changed() -> None:
    slots = Slots(BRIDGE, PLENTY)
    slots.follow(sheet(insert("a", 1), insert("b", 2)), 0.0)
    first, second = slots
    first.refuse(SlotState.REJECTED, "denied")
    second.admit(admitted(second.insert))
    assert slots.waiting() == ()
    slots.again()
    assert slots.waiting() == (first.insert,)


def test_the_next_end_is_the_earliest_of_expiries_and_versions_that_go_on() -> None:
    slots = Slots(BRIDGE, PLENTY)
    assert slots.next_end(0, 0.0) is None
    slots.follow(sheet(insert("a", 1), insert("b", 2)), 0.0)
    for slot, expires in zip(slots, (30 * NS, 20 * NS), strict=True):
        slot.admit(admitted(slot.insert, expires))
    assert slots.next_end(0, 0.0) == 20
    slots.follow(sheet(insert("a", 3), replace(insert("b", 2))), 5.0)
    assert slots.next_end(0, 5.0) == BRIDGE
    assert slots.next_end(25 * NS, 5.0) == 0


def digests(*numbers: int) -> set[bytes]:
    return {bytes([number]) * 32 for number in numbers}


def test_files_have_room_in_the_sheets_order_each_once_and_a_smaller_one_may_fit_behind_a_larger() -> None:
    slots = Slots(BRIDGE, 2 * SIZE)
    large = replace(insert("b", 2), size=SIZE + 1)
    slots.follow(sheet(insert("a", 1), insert("a2", 1), large, insert("c", 3), insert("d", 4)), 0.0)
    assert slots.fitting == digests(1, 3)


@pytest.mark.parametrize("sizes", [(1, SIZE), (SIZE, 1)])
def test_a_file_of_two_sizes_counts_with_the_larger(sizes: tuple[int, int]) -> None:
    slots = Slots(BRIDGE, 2 * SIZE + 1)
    first, again = (replace(insert(name, 1), size=size) for name, size in zip("az", sizes, strict=True))
    slots.follow(sheet(first, insert("b", 2), insert("c", 3), again), 0.0)
    assert slots.fitting == digests(1, 2)


def test_what_runs_ends_when_a_sheet_puts_more_before_it_than_there_is_room_for() -> None:
    slots = Slots(BRIDGE, 2 * SIZE)
    slots.follow(sheet(insert("a", 1), insert("b", 2)), 0.0)
    for slot in slots:
        slot.admit(admitted(slot.insert))
    slots.follow(sheet(insert("c", 3), insert("a", 1), insert("b", 2)), 1.0)
    assert [placed.insert.id for placed in slots.wanted()] == ["a"]
    assert slots.waiting() == (insert("c", 3), insert("b", 2))


def test_versions_before_go_on_in_as_much_room_again_and_the_others_end_at_once() -> None:
    slots = bridging()
    slots.follow(sheet(*(insert(name, 9) for name in "acd")), 3.0)
    assert [placed.module.version for placed in slots.end_bridges(3.0)] == ["4.0.0"]
    assert [placed.module.version for placed in slots.wanted()] == ["1.0.0", "3.0.0"]


def test_a_version_before_that_the_sheet_names_elsewhere_takes_no_room_of_the_others() -> None:
    slots = bridging()
    slots.follow(sheet(insert("z", 1), *(insert(name, 9) for name in "acd")), 3.0)
    assert slots.end_bridges(3.0) == []
    assert [placed.module.version for placed in slots.wanted()] == ["1.0.0", "3.0.0", "4.0.0"]


def bridging() -> Slots:
    """Slots with room for two files, where 1 and 3 go on for a and c while 9 is awaited, and 4 runs at d."""
    slots = Slots(BRIDGE, 2 * SIZE)
    for now, versions in ((0.0, {"a": 1, "b": 2}), (1.0, {"a": 9, "c": 3}), (2.0, {"a": 9, "c": 9, "d": 4})):
        slots.follow(sheet(*(insert(name, version) for name, version in versions.items())), now)
        for slot in slots:
            if slot.insert.version != "9.0.0" and slot.state is SlotState.WAITING:
                slot.admit(admitted(slot.insert))
    return slots
