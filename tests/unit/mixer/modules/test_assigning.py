"""Which rack runs what, and what has to be countersigned again before a rack may go back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.errors import InputError
from stagebox.modules.capabilities import Capability
from stagebox.modules.patch import Point
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.assigning import (
    Wanted,
    assigned,
    check_wanted,
    matches,
    rolled_back,
    runs_on,
    share,
    to_raise,
    versions_in_use,
)
from stagebox_mixer.modules.model import Assignment, AssignmentState, ModuleEntry
from support.patched import module_assignment, module_entry

WANTED = Wanted("gain", "1.0.0", ("stage-*",), Point.METERS, "main")
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
RACKS = [f"rack-{number}" for number in range(2000)]


def make(before: Assignment | None = None, now_ns: int = 5, **fields: Any) -> Assignment:
    return assigned(before, replace(WANTED, **fields), name="eq", by="ops", reason="", now_ns=now_ns)


def version(number: int, serial: int | None = None) -> ModuleEntry:
    return module_entry(version=f"{number}.0.0", serial=number if serial is None else serial)


# Rollout


@given(NAMES, NAMES, st.integers(0, 100), st.integers(0, 100))
def test_a_rack_that_is_in_stays_in_when_the_percentage_rises(
    name: str, rack: str, low: int, high: int
) -> None:
    low, high = sorted((low, high))
    few, many = (
        module_assignment(id=name, version="2.0.0", previous="1.0.0", percent=percent)
        for percent in (low, high)
    )
    assert 0 <= share(name, rack) < 100
    assert runs_on(few, rack) == runs_on(few, rack)
    if runs_on(few, rack) == ("2.0.0", {}):
        assert runs_on(many, rack) == ("2.0.0", {})


@pytest.mark.parametrize("percent", [1, 10, 50, 90])
def test_about_as_many_racks_are_in_as_the_percentage_says(percent: int) -> None:
    assignment = module_assignment(percent=percent)
    count = sum(runs_on(assignment, rack) is not None for rack in RACKS)
    assert abs(count / len(RACKS) * 100 - percent) < 4


def test_other_assignments_begin_with_other_racks() -> None:
    first, second = (
        {rack for rack in RACKS if share(name, rack) < 10} for name in ("eq-on-main", "eq-on-second")
    )
    assert len(first & second) < len(first) / 2


def test_the_hash_is_the_one_that_is_published() -> None:
    assert share("eq", "stage-left") == pytest.approx(7.161181, abs=1e-6)


def test_who_is_not_in_runs_the_version_before_with_its_own_parameters() -> None:
    rollout = module_assignment(
        version="2.0.0", params={"q": 1.0}, previous="1.0.0", previous_params={"gain": 2.0}, percent=0
    )
    assert runs_on(rollout, "stage-left") == ("1.0.0", {"gain": 2.0})
    assert runs_on(replace(rollout, percent=100), "stage-left") == ("2.0.0", {"q": 1.0})
    assert runs_on(replace(rollout, previous=""), "stage-left") is None
    back = replace(rollout, percent=100, state=AssignmentState.ROLLED_BACK)
    assert runs_on(back, "stage-left") == ("1.0.0", {"gain": 2.0})
    assert runs_on(replace(back, previous=""), "stage-left") is None


def test_a_pattern_says_whose_it_is() -> None:
    assignment = module_assignment(racks=("stage-*", "foh"))
    assert [rack for rack in ("stage-left", "foh", "foh-2", "backstage") if matches(assignment, rack)] == [
        "stage-left",
        "foh",
    ]
    assert runs_on(assignment, "backstage") is None


# Making and changing


def test_what_ran_everywhere_is_what_a_new_version_goes_back_to() -> None:
    first = make(params={"gain": 2.0})
    assert (first.previous, first.percent, first.created) == ("", 100, 5)
    second = make(first, version="2.0.0", percent=10, now_ns=9)
    assert (second.previous, second.previous_params) == ("1.0.0", {"gain": 2.0})
    assert (second.created, second.time) == (5, 9)
    wider = make(second, version="2.0.0", percent=100)
    assert wider.previous == "1.0.0"
    # A version that never ran everywhere is nothing to go back to.
    assert make(second, version="3.0.0").previous == "1.0.0"
    assert make(wider, version="3.0.0").previous == "2.0.0"
    assert make(second, version="1.0.0").previous == ""


def test_after_a_rollback_the_failed_version_is_nothing_to_go_back_to() -> None:
    second = make(make(), version="2.0.0")
    failed = rolled_back(second, by="mixer", reason="trap on stage-left", now_ns=1)
    assert failed.time == second.time  # a clock that was set back does not make it older
    assert make(failed, version="3.0.0").previous == "1.0.0"
    again = make(failed, version="2.0.0")
    assert (again.state, again.previous, again.reason) == (AssignmentState.ACTIVE, "1.0.0", "")


def test_an_assignment_stays_with_its_module() -> None:
    with pytest.raises(InputError, match="of module 'gain'"):
        make(make(), module="limiter")
    with pytest.raises(InputError, match="assignment name"):
        assigned(None, WANTED, name="no name", by="", reason="", now_ns=1)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"racks": ()}, "name 1 to"),
        ({"racks": ("a",) * (LIMITS.assignment_patterns + 1)}, "name 1 to"),
        ({"racks": ("Stage",)}, "matches no rack"),
        ({"racks": ("a.b",)}, "matches no rack"),
        ({"percent": -1}, "percentage"),
        ({"percent": 101}, "percentage"),
        ({"source": ""}, "source"),
        ({"source": "a.b"}, "source"),
        ({"point": Point.MONITOR}, "bus"),
        ({"point": Point.TAP, "bus": "main"}, "no bus"),
        ({"point": Point.TELEMETRY}, "not granted telemetry"),
        ({"params": {"treble": 1.0}}, "no parameter"),
        ({"params": {"gain": float("nan")}}, "range"),
    ],
)
def test_what_makes_no_sense_is_refused(wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_wanted(replace(WANTED, **wanted), module_entry())


def test_what_makes_sense_passes() -> None:
    check_wanted(WANTED, module_entry())
    check_wanted(replace(WANTED, point=Point.MONITOR, bus="main", percent=0), module_entry())
    both = module_entry(granted=(Capability.AUDIO, Capability.TELEMETRY))
    check_wanted(replace(WANTED, point=Point.TELEMETRY, source=""), both)
    with pytest.raises(InputError, match="not granted audio"):
        check_wanted(WANTED, module_entry(granted=(Capability.TELEMETRY,)))


# Serials


def raised(
    before: Assignment | None, after: Assignment, *others: Assignment, of: list[ModuleEntry]
) -> list[str]:
    top, low = to_raise(before, after, others, of)
    assert top == max(entry.serial for entry in of)
    return [entry.version for entry in low]


def test_an_upgrade_needs_nothing_countersigned_again() -> None:
    first = make()
    for percent in (10, 100):
        second = make(first, version="2.0.0", percent=percent)
        assert raised(first, second, of=[version(1), version(2)]) == []


def test_whoever_goes_back_gets_the_older_version_under_the_newest_serial() -> None:
    second = make(make(), version="2.0.0")
    versions = [version(1), version(2)]
    failed = rolled_back(second, by="mixer", reason="", now_ns=9)
    assert raised(second, failed, of=versions) == ["1.0.0"]
    assert raised(second, make(second, version="1.0.0"), of=versions) == ["1.0.0"]
    assert raised(second, make(second, version="2.0.0", percent=50), of=versions) == ["1.0.0"]
    # Done once, it is done.
    assert raised(second, failed, of=[version(1, serial=2), version(2)]) == []
    assert raised(None, make(), of=versions) == ["1.0.0"]  # whoever had 2.0.0 before


def test_two_versions_that_may_meet_on_a_rack_get_one_serial() -> None:
    elsewhere = module_assignment(id="other", version="1.0.0")
    second = make(None, version="2.0.0")
    versions = [version(1), version(2), version(3)]
    assert raised(None, second, elsewhere, of=versions) == ["1.0.0", "2.0.0"]
    assert raised(None, second, replace(elsewhere, module="limiter"), of=versions[:2]) == []
    assert raised(None, second, replace(elsewhere, version="2.0.0"), of=versions[:2]) == []


def test_a_version_is_in_use_where_some_rack_may_run_it() -> None:
    rollout = module_assignment(version="2.0.0", previous="1.0.0", percent=50)
    assert versions_in_use(rollout) == {"1.0.0", "2.0.0"}
    assert versions_in_use(replace(rollout, percent=100)) == {"2.0.0"}
    assert versions_in_use(replace(rollout, percent=0)) == {"1.0.0"}
    assert versions_in_use(replace(rollout, state=AssignmentState.ROLLED_BACK)) == {"1.0.0"}
    assert versions_in_use(module_assignment(percent=0)) == set()
