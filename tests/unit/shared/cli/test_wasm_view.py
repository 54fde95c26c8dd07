"""What the mixer's answers on modules look like to an operator."""

from __future__ import annotations

from typing import Any

import pytest

from stagebox.cli.wasm.remote_view import (
    assigned_lines,
    assignment_table,
    import_lines,
    list_lines,
    note,
    revoke_lines,
    revoked_of,
    show_lines,
    vendor_table,
    where_lines,
)


def assignment(**changes: Any) -> dict[str, Any]:
    made = {
        "id": "eq", "module": "gain", "version": "2.0.0", "previous": "1.0.0", "percent": 100, "racks": ["*"],
        "point": "meters", "source": "main", "state": "active", "reason": "",
        "on": [{"rack": "left", "version": "2.0.0"}, {"rack": "right", "version": "1.0.0"}],
    }  # fmt: skip
    return made | changes


REVOKED = revoked_of(
    [
        {"name": "gain", "version": "2.0.0", "revoked": True},
        {"name": "gain", "version": "1.0.0", "revoked": False},
    ]
)


def test_an_assignment_says_how_many_of_its_racks_get_the_version() -> None:
    assert "100 %, 1 of 2 racks" in assignment_table([assignment()])[1]


def test_an_assignment_of_a_revoked_version_does_not_look_as_if_it_ran() -> None:
    assert note(assignment(), REVOKED) == "before: 1.0.0; 2.0.0 is revoked, it runs nowhere"
    assert note(assignment(previous=""), REVOKED) == "2.0.0 is revoked, it runs nowhere"
    assert note(assignment(version="1.0.0", previous=""), REVOKED) == ""


def test_a_rollback_names_its_code_as_one_and_says_if_the_version_before_is_revoked() -> None:
    back = assignment(state="rolled_back", reason="unreachable on left")
    assert note(back, REVOKED) == "rolled back, back at 1.0.0: code unreachable on left"
    assert note(back | {"previous": ""}) == "rolled back, nothing runs: code unreachable on left"
    assert note(back | {"previous": "2.0.0"}, REVOKED).endswith("2.0.0 is revoked, it runs nowhere")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"on": []}, "no registered rack is meant by it: check the patterns"),
        ({"on": [], "percent": 10}, "no rack gets 2.0.0 at 10 %"),
        ({"on": [{"rack": "left", "version": "1.0.0"}], "percent": 10}, "no rack gets 2.0.0 at 10 %"),
    ],
)
def test_an_assignment_that_no_rack_gets_says_why(changes: dict[str, Any], words: str) -> None:
    assert words in assigned_lines(assignment(**changes))[-1]
    assert len(assigned_lines(assignment())) == 2


def test_where_a_module_runs_is_what_each_rack_said_last() -> None:
    waiting = {"insert": "eq", "version": "2.0.0", "state": "waiting", "code": "no_such_place", "faults": 3}
    racks: dict[str, dict[str, Any]] = {
        "left": {"presence": {"state": "online"}, "heartbeat": {"modules": [{"insert": "other"}, waiting]}},
        "right": {"presence": {"state": "offline", "age_s": 61.0}, "heartbeat": None},
    }
    lines = where_lines([assignment()], racks)
    assert lines[1] == "as the racks said last"
    assert lines[3].split() == ["left", "online", "eq", "2.0.0", "waiting", "3", "no_such_place"]
    assert lines[4].endswith("not there")
    assert "heard 1 min 1 s ago" in lines[4]
    assert where_lines([assignment()], {}) == []


@pytest.mark.parametrize(
    ("heartbeat", "words"),
    [
        ({"version": "0.1.0", "uptime_s": 5}, "its release, 0.1.0, knows no modules"),
        ({"version": "0.3.0", "modules": []}, "not there"),
        ({"state": "stopping"}, "not there"),
        (None, "not there"),
    ],
)
def test_a_rack_whose_release_knows_no_modules_is_told_from_one_that_lacks_this_one(
    heartbeat: dict[str, Any] | None, words: str
) -> None:
    lines = where_lines([assignment()], {"left": {"presence": {"state": "online"}, "heartbeat": heartbeat}})
    assert lines[-1].endswith(words)


def test_what_the_mixer_cannot_read_is_listed_with_what_is_wrong() -> None:
    odd: list[dict[str, Any]] = [
        {"key": "gain.1.0.0", "name": "gain", "version": "1.0.0", "problem": "it has no 'v'"},
        {"key": "x", "name": None, "version": None, "problem": "nonsense"},
        {"id": "eq", "problem": "it has version 2"},
    ]
    lines = list_lines([], [], odd)
    assert lines[0].startswith("no module is imported")
    assert [" ".join(line.split()) for line in lines[-3:]] == [
        "module gain@1.0.0 it has no 'v'", "module x nonsense", "assignment eq it has version 2",
    ]  # fmt: skip
    assert "module x" in show_lines([], [], {}, (), odd)[3]
    assert not any("cannot read" in line for line in list_lines([], []))


def test_an_import_says_what_it_did() -> None:
    module = {"name": "gain", "version": "1.0.0", "serial": 7}
    assert "nothing has changed" in import_lines({"new": False, "module": module})[0]
    assert "serial 7" in import_lines({"new": False, "repaired": True, "module": module})[1]


def test_a_revocation_says_what_it_could_not_look_into() -> None:
    lines = revoke_lines({"epoch": 4, "modules": [], "keys": ["ab"], "unreadable": ["gain.1.0.0"]})
    assert "gain.1.0.0" in lines[2]
    assert len(revoke_lines({"epoch": 4, "modules": [], "keys": ["ab"], "unreadable": []})) == 2


def test_a_list_has_the_modules_and_where_they_are() -> None:
    gain = {"name": "gain", "version": "2.0.0", "revoked": True}
    assert list_lines([], []) == ["no module is imported; import one with `stagebox wasm import`"]
    assert list_lines([gain], [])[-2:] == ["", "none of them is assigned"]
    header, module, gap, _, eq = list_lines([gain], [assignment()])
    assert (header.split()[0], module.split()[0], gap) == ("MODULE", "gain", "")
    assert eq.endswith("2.0.0 is revoked, it runs nowhere")


def test_a_module_shows_the_racks_that_were_asked_and_how_many_were_not() -> None:
    gain = {"name": "gain", "version": "2.0.0"}
    assert show_lines([gain], [], {}, ())[-2:] == ["", "it is not assigned"]
    lines = show_lines([gain], [assignment()], {"left": {}}, REVOKED)
    assert "as the racks said last" in lines
    assert lines[-2].startswith("left")
    assert lines[-1] == "and 1 more racks: stagebox admin racks show RACK"
    assert not any(
        "more racks" in line for line in show_lines([gain], [assignment()], {"left": {}, "right": {}}, ())
    )


def test_a_mixer_without_vendors_says_where_they_go() -> None:
    assert vendor_table([]) == [
        "no vendor is trusted: put a vendor's vendor.toml into wasm/keys of the mixer's data"
    ]
