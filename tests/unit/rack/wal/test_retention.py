"""Which segments go: the quota before the grace, what the mixer holds before what it does not."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stagebox_rack.wal.catalogue import SegmentSpan
from stagebox_rack.wal.importance import Importance, admitted, importance
from stagebox_rack.wal.retention import Quota, evictions

NOW = 1e9


def segments(ages: list[float], size: int = 10) -> list[SegmentSpan]:
    """Segments of ten records each; ages in seconds, the oldest first."""
    return [
        SegmentSpan(Path(str(n)), n * 10 + 1, n * 10 + 10, bytes(32), bytes(32), size, NOW - age, bytes(32))
        for n, age in enumerate(ages)
    ]


@given(
    ages=st.lists(st.floats(0, 1000), max_size=12),
    acknowledged=st.integers(0, 130),
    quota=st.integers(0, 130),
    grace=st.floats(0, 1000),
    age=st.floats(0, 2000),
)
def test_what_goes_is_needed_and_in_order(
    ages: list[float], acknowledged: int, quota: int, grace: float, age: float
) -> None:
    all_segments = segments(sorted(ages, reverse=True))
    chosen = evictions(all_segments, acknowledged=acknowledged, now=NOW, quota=Quota(quota, grace, age))
    gone = [eviction.segment for eviction in chosen]
    assert len({segment.first for segment in gone}) == len(gone)
    assert not all_segments or all_segments[-1] not in gone, (
        "the newest segment names the seal before the next"
    )
    for eviction in chosen:
        assert eviction.acknowledged == (eviction.segment.last <= acknowledged)
    held = [s for s in all_segments[:-1] if s.last <= acknowledged]
    lost = [eviction for eviction in chosen if not eviction.acknowledged]
    if lost and lost[0].reason == "quota":
        assert {s.first for s in held} <= {s.first for s in gone}, "what the mixer holds goes first"
    assert gone == all_segments[: len(gone)], "what goes is the oldest, without a hole in what stays"
    left = sum(segment.size for segment in all_segments if segment not in gone)
    assert left <= quota or len(all_segments) - len(gone) == 1


def test_within_quota_and_age_what_the_mixer_does_not_hold_stays() -> None:
    kept = segments([900.0, 800.0, 0.0])
    assert evictions(kept, acknowledged=0, now=NOW, quota=Quota(100, 10.0, 1000.0)) == []


def test_alerts_and_acks_come_before_events_before_measurements() -> None:
    assert importance("meter") < importance("event") == importance("status") < importance("alert")
    assert importance("module") == importance("event")
    assert importance("ack") == importance("tombstone") == importance("seal") == Importance.ALERT
    for filled, room in ((0.6, None), (0.1, 0.3)):
        taken = [admitted(what, queue_filled=filled, room_left=room) for what in Importance]
        assert taken == [False, True, True]
    assert not admitted(Importance.ALERT, queue_filled=1.1, room_left=None)
    assert admitted(Importance.ALERT, queue_filled=0.0, room_left=0.0), "an alert is tried on a full disk too"
