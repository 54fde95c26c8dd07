"""Whose fault it is when a module does not run, from what racks say, whatever they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox_mixer.modules.faults import EXCUSED, Fault, blamed, of_alert, of_heartbeat
from stagebox_mixer.modules.model import AssignmentState
from support.patched import module_assignment

DETAIL = {"module": "gain", "version": "2.0.0", "insert": "eq", "digest": "ab", "code": "trap", "reason": "x"}
FAULT = Fault("stage-left", "gain", "2.0.0", "eq", "ab", "trap")
ROLLOUT = module_assignment(version="2.0.0", previous="1.0.0")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@pytest.mark.parametrize("name", ["module.rejected", "module.stopped"])
def test_an_alert_says_what_does_not_run(name: str) -> None:
    assert of_alert("stage-left", name, DETAIL) == FAULT
    shorter = {key: DETAIL[key] for key in ("module", "version")}
    assert of_alert("stage-left", name, shorter) == Fault("stage-left", "gain", "2.0.0", "", "", "")


@pytest.mark.parametrize("name", ["clip", "module.host_died", "module.fault", ""])
def test_other_alerts_blame_nobody(name: str) -> None:
    assert of_alert("stage-left", name, DETAIL) is None


@pytest.mark.parametrize(
    "change",
    [
        {"module": ""}, {"version": ""}, {"module": 5}, {"code": b"x"}, {"insert": "x" * 65},
        {"code": "trap\x1b]0;owned\x07"}, {"code": "trap\nok"},
    ],
)  # fmt: skip
def test_a_malformed_alert_blames_nobody(change: dict[str, Any]) -> None:
    assert of_alert("stage-left", "module.stopped", {**DETAIL, **change}) is None


def test_a_heartbeat_lists_what_does_not_run() -> None:
    states = ("running", "starting", "waiting", "stopped", "rejected", "")
    body = {"modules": [{**DETAIL, "state": state} for state in states]}
    assert list(of_heartbeat("stage-left", body)) == [FAULT, FAULT]
    odd_bodies: list[dict[str, Any]] = [{}, {"modules": "all"}, {"modules": [5, None, {"state": []}]}]
    for odd in odd_bodies:
        assert list(of_heartbeat("stage-left", odd)) == []


@given(JSON, st.dictionaries(st.sampled_from([*DETAIL, "state"]), JSON))
def test_nothing_that_a_rack_says_is_an_error(noise: Any, fields: dict[str, Any]) -> None:
    of_alert("stage-left", "module.stopped", {**DETAIL, **fields})
    list(of_heartbeat("stage-left", {"modules": noise}))
    list(of_heartbeat("stage-left", {"modules": [{**DETAIL, "state": "stopped", **fields}]}))


def test_an_alert_of_before_the_assignment_blames_nobody() -> None:
    # A rack that was away says what it had to say when it comes back.
    before, after = replace(FAULT, time_ns=ROLLOUT.time - 1), replace(FAULT, time_ns=ROLLOUT.time)
    assert blamed(before, [ROLLOUT]) == []
    assert blamed(after, [ROLLOUT]) == [ROLLOUT]


@pytest.mark.parametrize("code", ["floors_full", "modules_full", "no_room"])
def test_a_rack_that_keeps_no_more_says_nothing_against_a_version(code: str) -> None:
    assert blamed(replace(FAULT, code=code), [ROLLOUT]) == []


def test_the_new_version_on_that_rack_is_to_blame() -> None:
    rollout = replace(ROLLOUT, id="eq")
    assert blamed(FAULT, [rollout]) == [rollout]
    assert blamed(replace(FAULT, insert=""), [rollout, replace(rollout, id="q")]) == [
        rollout,
        replace(rollout, id="q"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"}, {"module": "limiter"}, {"version": "3.0.0"}, {"racks": ("foh",)}, {"percent": 0},
        {"state": AssignmentState.ROLLED_BACK},
        {"version": "3.0.0", "previous": "2.0.0", "percent": 0},
    ],
)  # fmt: skip
def test_an_assignment_by_which_the_rack_does_not_run_it_is_not_to_blame(change: dict[str, Any]) -> None:
    assert blamed(FAULT, [replace(ROLLOUT, **{"id": "eq", **change})]) == []


@pytest.mark.parametrize("code", sorted(EXCUSED))
def test_what_says_nothing_against_the_version_takes_nothing_back(code: str) -> None:
    fault = replace(FAULT, code=code)
    assert not fault.counts
    assert blamed(fault, [replace(ROLLOUT, id="eq")]) == []
