"""The life of a segment: after a crash between any two steps the names on the disk say what to do."""

from __future__ import annotations

import itertools

import pytest

from stagebox_rack.wal.lifecycle import CLEARING, SEALING, TRANSITIONS, Found, Stage, Step, after, recovery

EVICTION = (Step.WRITE_TOMBSTONE, *CLEARING)

# What each step does to the names on the disk.
EFFECTS: dict[Step, dict[str, bool]] = {
    Step.WRITE_PARQUET: {"unfinished": True},
    Step.NAME_PARQUET: {"unfinished": False, "parquet": True},
    Step.WRITE_KEY: {"key": True},
    Step.WRITE_SEAL: {"unfinished": True},
    Step.NAME_SEAL: {"unfinished": False, "seal": True},
    Step.REMOVE_HOT: {"hot": False},
    Step.WRITE_TOMBSTONE: {"tombstone": True},
    Step.REMOVE_SEAL: {"seal": False},
    Step.REMOVE_DATA: {"parquet": False, "key": False},
    Step.DROP_UNFINISHED: {"unfinished": False},
}


def done(found: Found, step: Step) -> Found:
    fields = {**found.__dict__, **EFFECTS[step]}
    if step is Step.DROP_UNFINISHED and not (found.seal or found.tombstone):
        fields |= {"parquet": False, "key": False}
    return Found(**fields)


@pytest.mark.parametrize("steps", range(len(SEALING) + 2))
def test_a_crash_while_sealing_leaves_the_hot_file_or_the_segment_never_both_and_never_none(
    steps: int,
) -> None:
    found = Found(hot=True)
    for step in (*SEALING, Step.REMOVE_HOT)[:steps]:
        found = done(found, step)
    for step in recovery(found):
        assert step is not Step.QUARANTINE
        found = done(found, step)
    sealed = Found(parquet=True, key=True, seal=True)
    assert found == (sealed if steps >= len(SEALING) else Found(hot=True))
    assert recovery(found) == ()


@pytest.mark.parametrize("steps", range(1, len(EVICTION) + 1))
def test_a_crash_while_evicting_ends_with_the_tombstone_alone(steps: int) -> None:
    found = Found(parquet=True, key=True, seal=True)
    for step in EVICTION[:steps]:
        found = done(found, step)
    for step in recovery(found):
        found = done(found, step)
    assert found == Found(tombstone=True)


def test_recovery_of_anything_ends_and_drops_no_seal_without_a_tombstone() -> None:
    for values in itertools.product((False, True), repeat=6):
        found = Found(*values)
        steps = recovery(found)
        if not found.tombstone:
            assert Step.REMOVE_SEAL not in steps
            assert Step.REMOVE_DATA not in steps
        if Step.QUARANTINE in steps:
            continue
        for step in steps:
            found = done(found, step)
        assert recovery(found) == ()


def test_the_steps_in_order_lead_from_open_to_evicted() -> None:
    stage = Stage.OPEN
    order = (Step.FREEZE, *SEALING, Step.REMOVE_HOT, Step.ACKNOWLEDGE, *EVICTION, Step.REMOVE_TOMBSTONE)
    for step in order:
        stage = after(stage, step)
    assert stage is Stage.EVICTED
    with pytest.raises(ValueError, match="NAME_SEAL is not allowed when FROZEN"):
        after(Stage.FROZEN, Step.NAME_SEAL)
    assert {stage for stage, _ in TRANSITIONS} | {Stage.EVICTED} == set(Stage)
