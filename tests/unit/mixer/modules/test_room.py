"""Room: nobody is assigned what some rack cannot take, and only sheets that it changes are made to find out."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from stagebox.control.denylist import DenyList
from stagebox.errors import InputError
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.patch import PatchSheet
from stagebox_mixer.modules.model import Assignment, ModuleEntry
from stagebox_mixer.modules.room import check_room
from stagebox_mixer.modules.store import Catalogue
from support.patched import module_assignment, module_entry

RACKS = [f"rack-{number}" for number in range(200)]


def catalogue(assignments: Iterable[Assignment], entries: Iterable[ModuleEntry]) -> Catalogue:
    return Catalogue(
        {(entry.name, entry.version): entry for entry in entries}, tuple(assignments), DenyList("flux-test")
    )


def modules(*sizes: int) -> list[ModuleEntry]:
    """Return modules of their own, ``m-0`` and on, that have these bytes."""
    return [
        module_entry(name=f"m-{number}", digest=bytes([number]) * 32, size=size)
        for number, size in enumerate(sizes)
    ]


def each(entries: Iterable[ModuleEntry], *racks: str) -> list[Assignment]:
    return [module_assignment(id=entry.name, module=entry.name, racks=racks) for entry in entries]


# Sheets


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[PatchSheet]:
    """The sheets that were encoded."""
    found: list[PatchSheet] = []
    encode = PatchSheet.encode

    def counted(sheet: PatchSheet) -> bytes:
        found.append(sheet)
        return encode(sheet)

    monkeypatch.setattr(PatchSheet, "encode", counted)
    return found


def test_a_sheet_that_many_racks_share_is_encoded_once(encoded: list[PatchSheet]) -> None:
    now = catalogue([module_assignment(id=f"a-{number}") for number in range(9)], [module_entry()])
    check_room(module_assignment(id="new"), now, RACKS)
    assert [len(sheet.inserts) for sheet in encoded] == [10]


def test_racks_that_are_given_nothing_are_not_looked_at(encoded: list[PatchSheet]) -> None:
    full = [
        module_assignment(id=f"a-{number}", racks=("rack-?",)) for number in range(FORMAT.max_inserts + 1)
    ]
    now = catalogue(full, [module_entry()])
    check_room(module_assignment(id="new", racks=("stage-*",)), now, RACKS)
    check_room(module_assignment(id="new", percent=0), now, RACKS)
    assert encoded == []
    check_room(module_assignment(id="new", racks=("rack-1??",)), now, RACKS)
    assert [len(sheet.inserts) for sheet in encoded] == [1]


def test_a_rollout_is_held_against_both_sheets_that_it_makes(encoded: list[PatchSheet]) -> None:
    now = catalogue([], [module_entry(), module_entry(version="2.0.0")])
    rollout = module_assignment(version="2.0.0", previous="1.0.0", percent=50)
    check_room(rollout, now, RACKS)
    assert {sheet.inserts[0].version for sheet in encoded} == {"1.0.0", "2.0.0"}
    assert len(encoded) == 2


@pytest.mark.parametrize("changed", [False, True])
def test_a_sheet_that_would_be_full_is_refused_by_the_name_of_its_rack(changed: bool) -> None:
    params = {f"parameter-{number}": 0.5 for number in range(64)}
    full = [
        module_assignment(id=f"a-{number}", racks=("rack-7",), params=params if changed and number else {})
        for number in range(FORMAT.max_inserts)
    ]
    new = module_assignment(id="a-0", params=params) if changed else module_assignment(id="new")
    with pytest.raises(InputError, match="the patch sheet of rack 'rack-7' is full"):
        check_room(new, catalogue(full, [module_entry()]), RACKS)


# Files

SIZE = FORMAT.max_module_bytes
ALL = FORMAT.rack_modules_bytes // SIZE


def test_the_files_of_a_rack_have_so_much_room_together() -> None:
    entries = modules(*[SIZE] * ALL, 1)
    *held, beyond = each(entries, "*")
    for number, assignment in enumerate(held):
        check_room(assignment, catalogue(held[:number], entries), RACKS)
    with pytest.raises(InputError) as caught:
        check_room(beyond, catalogue(held, entries), RACKS)
    assert caught.value.message == (
        "the modules of rack 'rack-0' would have 67108865 bytes, at most 67108864 are allowed"
    )
    assert caught.value.remedy == "unassign something there, or assign smaller modules"


def test_a_file_counts_once_however_often_it_is_inserted() -> None:
    entries = modules(*[SIZE] * ALL)
    again = module_assignment(id="again", module="m-0", source="second")
    check_room(again, catalogue(each(entries, "*"), entries), RACKS)


def test_each_rack_has_room_of_its_own() -> None:
    entries = modules(*[SIZE] * (ALL + 1))
    held = each(entries[:ALL], "rack-1")
    (elsewhere,), (also_there,) = each(entries[ALL:], "rack-2"), each(entries[ALL:], "rack-2", "rack-1")
    check_room(elsewhere, catalogue(held, entries), RACKS)
    with pytest.raises(InputError, match="'rack-1'"):
        check_room(also_there, catalogue(held, entries), RACKS)


def test_what_takes_the_place_of_a_version_needs_no_room_beside_it() -> None:
    entries = modules(*[SIZE] * ALL)
    newer = module_entry(name="m-0", version="2.0.0", digest=b"n" * 32, size=SIZE)
    now = catalogue(each(entries, "*"), [*entries, newer])
    check_room(module_assignment(id="m-0", module="m-0", version="2.0.0", previous="1.0.0"), now, RACKS)
    with pytest.raises(InputError):
        check_room(module_assignment(id="beside", module="m-0", version="2.0.0"), now, RACKS)
