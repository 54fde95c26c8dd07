from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.errors import InputError
from stagebox.subscriber.limits import SUBSCRIBER_LIMITS
from stagebox.subscriber.patterns import checkpoint_pattern, matches
from stagebox.subscriber.sequence import SequenceGaps

BOOT = bytes(16)


@given(st.sets(st.integers(1, 60), min_size=1), st.data())
def test_lost_is_exactly_what_is_missing_between_first_and_last_in_any_order_after_the_first(
    present: set[int], data: st.DataObject
) -> None:
    ordered = sorted(present)
    rest = data.draw(st.permutations(ordered[1:]))
    gaps = SequenceGaps(SUBSCRIBER_LIMITS)
    for number in [ordered[0], *rest]:
        gaps.genuine("s", BOOT, number)
    assert gaps.lost == ordered[-1] - ordered[0] + 1 - len(ordered)


@given(st.sets(st.integers(2, 40)))
def test_an_unproved_record_is_not_lost_and_moves_nothing(doubtful: set[int]) -> None:
    gaps = SequenceGaps(SUBSCRIBER_LIMITS)
    gaps.genuine("s", BOOT, 1)
    for number in doubtful:
        gaps.doubtful("s", BOOT, number)
    assert gaps.lost == 0
    gaps.genuine("s", BOOT, 41)
    assert gaps.lost == 39 - len(doubtful)


def test_a_forged_number_cannot_invent_losses_nor_fill_memory() -> None:
    limits = dataclasses.replace(SUBSCRIBER_LIMITS, max_remembered_gaps=10, max_sequence_streams=3)
    gaps = SequenceGaps(limits)
    gaps.genuine("s", BOOT, 1)
    for number in range(1 << 60, (1 << 60) + 100):
        gaps.doubtful("s", BOOT, number)
    gaps.genuine("s", BOOT, 2)
    assert gaps.lost == 0
    gaps.genuine("s", BOOT, 1 << 40)
    assert gaps.lost == (1 << 40) - 3
    for index in range(10):
        gaps.genuine(f"s{index}", BOOT, 1)
    assert len(gaps._positions) == 3


def test_a_new_boot_starts_over_without_a_loss() -> None:
    gaps = SequenceGaps(SUBSCRIBER_LIMITS)
    gaps.genuine("s", BOOT, 1000)
    gaps.genuine("s", b"\x01" * 16, 1)
    assert gaps.lost == 0


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("rack.*.meter.>", "rack.a.meter.main", True),
        ("rack.*.meter.>", "rack.a.meter", False),
        ("rack.*.meter.>", "rack.a.audio.main", False),
        ("rack.a.status", "rack.a.status", True),
        ("rack.a.status", "rack.a.status.x", False),
        ("rack.a.*", "rack.a", False),
        ("rack.>", "rack.a.meter.main", True),
        ("rack.*.module.>", "rack.a.module.spl.leq", True),
        ("rack.*.module.spl.*", "rack.a.module.spl.leq", True),
        ("rack.*.module.*", "rack.a.module.spl.leq", False),
        ("rack.*.module.*.leq", "rack.a.module.spl.lmax", False),
    ],
)
def test_patterns_match_as_nats_matches_them(pattern: str, subject: str, expected: bool) -> None:
    assert matches(pattern, subject) is expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("rack.*.meter.>", "rack.*.checkpoint"),
        ("rack.a.meter.main", "rack.a.checkpoint"),
        ("rack.*.status", "rack.*.checkpoint"),
        ("rack.>", None),
        ("rack.*.>", None),
        ("rack.a.*", None),
        ("rack.a.checkpoint", None),
        ("rack.*.*.main", "rack.*.checkpoint"),
        ("rack.*.module.>", "rack.*.checkpoint"),
        ("rack.a.module.spl.leq", "rack.a.checkpoint"),
    ],
)
def test_the_checkpoints_that_prove_a_pattern_are_subscribed_unless_it_has_them(
    pattern: str, expected: str | None
) -> None:
    assert checkpoint_pattern(pattern) == expected
    assert expected is not None or matches(pattern, "rack.a.checkpoint")


@pytest.mark.parametrize("pattern", ["mixer.>", ">", "*.a.meter.>", "rack"])
def test_a_pattern_that_nothing_can_prove_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="does not select records of racks"):
        checkpoint_pattern(pattern)
