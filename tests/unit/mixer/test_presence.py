"""Who is there, by heartbeats: exact at the limits, whatever order they come in."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox_mixer.limits import LIMITS
from stagebox_mixer.presence.roll import Heartbeat, PresenceState, Roll

BOOT, OTHER_BOOT = bytes(16), bytes(15) + b"\1"


def beat(at: float, *, state: str = "running", time_ns: int | None = None, boot: bytes = BOOT) -> Heartbeat:
    moment = round(at * 1e9) if time_ns is None else time_ns
    return Heartbeat(state, {"at": at}, moment, boot, at, moment)


@pytest.mark.parametrize(
    ("age", "state"),
    [
        (0.0, PresenceState.ONLINE),
        (14.999, PresenceState.ONLINE),
        (15.0, PresenceState.STALE),
        (29.999, PresenceState.STALE),
        (30.0, PresenceState.OFFLINE),
        (1e9, PresenceState.OFFLINE),
    ],
)
def test_a_rack_is_stale_after_15_seconds_and_offline_after_30(age: float, state: PresenceState) -> None:
    roll = Roll(0.0)
    roll.heard("left", beat(100.0))
    found = roll.of("left", 100.0 + age)
    assert found.state is state
    assert found.age_s == pytest.approx(age)


def test_a_rack_that_says_it_stops_is_offline_at_once_and_back_with_its_next_heartbeat() -> None:
    roll = Roll(0.0)
    roll.heard("left", beat(1.0, state="stopping"))
    assert roll.of("left", 1.0).state is PresenceState.OFFLINE
    roll.heard("left", beat(2.0, boot=OTHER_BOOT))
    assert roll.of("left", 2.0).state is PresenceState.ONLINE


def test_what_was_never_heard_is_unknown_until_it_would_be_offline() -> None:
    roll = Roll(1000.0)
    assert roll.of("left", 1029.9).state is PresenceState.UNKNOWN
    assert roll.of("left", 1030.0).state is PresenceState.OFFLINE
    assert roll.of("left", 1030.0).heartbeat is None


def test_a_heartbeat_that_was_overtaken_changes_nothing_but_a_new_boot_does() -> None:
    roll = Roll(0.0)
    roll.heard("left", beat(5.0, time_ns=500))
    roll.heard("left", beat(6.0, time_ns=400))
    assert roll.of("left", 6.0).age_s == 1.0
    roll.heard("left", beat(7.0, time_ns=1, boot=OTHER_BOOT))  # its clock was put back meanwhile
    assert roll.of("left", 7.0).age_s == 0.0


def test_the_roll_is_bounded_and_forgets_the_longest_silent() -> None:
    roll = Roll(0.0, dataclasses.replace(LIMITS, presence_racks=3))
    for number in range(5):
        roll.heard(f"r{number}", beat(float(number)))
    known = [number for number in range(5) if roll.of(f"r{number}", 5.0).heartbeat is not None]
    assert known == [2, 3, 4]


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["left", "right"]), st.sampled_from(["running", "stopping"]), st.floats(0.0, 40.0)
        ),
        max_size=40,
    )
)
def test_every_change_is_told_once_and_in_order(steps: list[tuple[str, str, float]]) -> None:
    roll, now = Roll(0.0), 0.0
    shown: dict[str, PresenceState] = {}
    for rack, state, wait in steps:
        roll.heard(rack, beat(now, state=state))
        now += wait
        for name, after, before in roll.changes(now):
            assert before is shown.get(name)
            assert after is not before
            shown[name] = after
        assert roll.changes(now) == []
        for name, seen in shown.items():
            assert roll.of(name, now).state is seen
