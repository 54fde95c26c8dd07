"""Which segments go, as a pure function of what is there.

Rules: what the mixer holds is kept for a grace period, unless the quota needs the room; the oldest go first. What the
mixer does not hold goes only when everything it does hold is gone and the quota is still exceeded, or when it is past
the greatest age (and then so is what is older); its records are lost, so that takes a tombstone and an alert. The
newest segment always stays: the next one names its seal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stagebox.records.tombstone import Reason
from stagebox_rack.wal.catalogue import SegmentSpan


@dataclass(frozen=True)
class Quota:
    """``bytes`` of all segments; ``grace`` and ``age`` in seconds since a segment was sealed."""

    bytes: int
    grace: float
    age: float


@dataclass(frozen=True)
class Eviction:
    """One segment to remove, and why."""

    segment: SegmentSpan
    acknowledged: bool
    reason: Reason


def evictions(
    segments: Sequence[SegmentSpan], *, acknowledged: int, now: float, quota: Quota
) -> list[Eviction]:
    """Return what must go of ``segments`` (oldest first) at ``now`` (Unix s), in order."""
    candidates = list(segments)[:-1]
    excess = sum(segment.size for segment in segments) - quota.bytes
    chosen: list[Eviction] = []
    held = [segment for segment in candidates if segment.last <= acknowledged]
    grace = min(quota.grace, quota.age)  # a longer one would leave a hole behind it
    for segment in held:
        if excess > 0 or now - segment.sealed_at > grace:
            reason = Reason.QUOTA if excess > 0 else Reason.AGE
            chosen.append(Eviction(segment, acknowledged=True, reason=reason))
            excess -= segment.size
    for segment in candidates[len(held) :]:
        if excess > 0 or now - segment.sealed_at > quota.age:
            reason = Reason.QUOTA if excess > 0 else Reason.AGE
            chosen.append(Eviction(segment, acknowledged=False, reason=reason))
            excess -= segment.size
    return chosen
