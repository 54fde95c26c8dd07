"""The life of a stretch of the journal, from the open hot file to nothing, as a state machine without I/O.

::

    OPEN ─freeze▶ FROZEN ─▶ PARQUET_WRITTEN ─▶ PARQUET_NAMED ─▶ KEYED ─▶ SEAL_WRITTEN ─▶ COMMITTED ─▶ SEALED
                                                                        (the commit point) ▲         │   │
          EVICTED ◀─ REMOVED ◀─ UNSEALED ◀─ CONDEMNED ◀─write tombstone─ ACKNOWLEDGED ◀─acknowledge──┘   │
                                               ▲─────────────────write tombstone (quota, age)────────────┘

Rules: until its seal has its name a segment does not count and the hot file does; from then on the hot file does not.
A seal whose naming failed is taken back, durably, before another attempt begins. What a tombstone names is going,
whatever else is still there. A tombstone of what the mixer never had stays until the mixer holds its record. So every
stage can be told from the names on the disk alone, and :func:`recovery` says what to do after a crash between any two
steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Stage(Enum):
    """Where a stretch of the journal is in its life."""

    OPEN = auto()
    FROZEN = auto()
    PARQUET_WRITTEN = auto()
    PARQUET_NAMED = auto()
    KEYED = auto()
    SEAL_WRITTEN = auto()
    COMMITTED = auto()
    SEALED = auto()
    ACKNOWLEDGED = auto()
    CONDEMNED = auto()
    UNSEALED = auto()
    REMOVED = auto()
    EVICTED = auto()


class Step(Enum):
    """One thing that is done to it; each is durable before the next begins."""

    FREEZE = auto()
    WRITE_PARQUET = auto()
    NAME_PARQUET = auto()
    WRITE_KEY = auto()
    WRITE_SEAL = auto()
    NAME_SEAL = auto()
    REMOVE_HOT = auto()
    ACKNOWLEDGE = auto()
    WRITE_TOMBSTONE = auto()
    REMOVE_SEAL = auto()
    REMOVE_DATA = auto()
    REMOVE_TOMBSTONE = auto()
    # After a crash only:
    DROP_UNFINISHED = auto()
    QUARANTINE = auto()


TRANSITIONS: Final = {
    (Stage.OPEN, Step.FREEZE): Stage.FROZEN,
    (Stage.FROZEN, Step.WRITE_PARQUET): Stage.PARQUET_WRITTEN,
    (Stage.PARQUET_WRITTEN, Step.NAME_PARQUET): Stage.PARQUET_NAMED,
    (Stage.PARQUET_NAMED, Step.WRITE_KEY): Stage.KEYED,
    (Stage.KEYED, Step.WRITE_SEAL): Stage.SEAL_WRITTEN,
    (Stage.SEAL_WRITTEN, Step.NAME_SEAL): Stage.COMMITTED,
    (Stage.COMMITTED, Step.REMOVE_HOT): Stage.SEALED,
    (Stage.SEALED, Step.ACKNOWLEDGE): Stage.ACKNOWLEDGED,
    (Stage.SEALED, Step.WRITE_TOMBSTONE): Stage.CONDEMNED,
    (Stage.ACKNOWLEDGED, Step.WRITE_TOMBSTONE): Stage.CONDEMNED,
    (Stage.CONDEMNED, Step.REMOVE_SEAL): Stage.UNSEALED,
    (Stage.UNSEALED, Step.REMOVE_DATA): Stage.REMOVED,
    (Stage.REMOVED, Step.REMOVE_TOMBSTONE): Stage.EVICTED,
}

SEALING: Final = (
    Step.WRITE_PARQUET,
    Step.NAME_PARQUET,
    Step.WRITE_KEY,
    Step.WRITE_SEAL,
    Step.NAME_SEAL,
)
"""What turns frozen records into a segment; the hot file goes once all that it holds is in segments."""
CLEARING: Final = (Step.REMOVE_SEAL, Step.REMOVE_DATA)
"""What follows the tombstone of a segment that goes; the tombstone itself goes once nobody needs it."""


def after(stage: Stage, step: Step) -> Stage:
    """Return the stage that ``step`` leads to.

    Raises:
        ValueError: the stage does not allow it, which is a defect.
    """
    try:
        return TRANSITIONS[stage, step]
    except KeyError:
        raise ValueError(f"{step.name} is not allowed when {stage.name}") from None


@dataclass(frozen=True)
class Found:
    """Which files of one stretch are there after a crash; leftovers under temporary names count as ``unfinished``."""

    hot: bool = False
    unfinished: bool = False
    parquet: bool = False
    key: bool = False
    seal: bool = False
    tombstone: bool = False


def recovery(found: Found) -> tuple[Step, ...]:
    """Return what brings a stretch back to FROZEN, SEALED or REMOVED, in order; nothing if it is there."""
    if found.tombstone:
        steps = [Step.DROP_UNFINISHED] if found.unfinished else []
        steps += [Step.REMOVE_SEAL] if found.seal else []
        steps += [Step.REMOVE_DATA] if found.parquet or found.key else []
        return tuple(steps)
    if found.seal:
        steps = [Step.DROP_UNFINISHED] if found.unfinished else []
        if not (found.parquet and found.key):
            steps += [Step.QUARANTINE]
        elif found.hot:
            steps += [Step.REMOVE_HOT]
        return tuple(steps)
    if found.hot:
        return (Step.DROP_UNFINISHED,) if found.unfinished or found.parquet or found.key else ()
    if found.parquet or found.key:
        return (Step.QUARANTINE,)
    return (Step.DROP_UNFINISHED,) if found.unfinished else ()
