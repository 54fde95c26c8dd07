"""What could not be said live and must be said first when the line is back: alerts, acks, and what proves them.

The journal has them too (but for alerts about the journal itself), behind hours of meter frames perhaps; this is how
an alert overtakes a backlog. Bounded: the oldest go, the journal's copy stays. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from stagebox.subjects import Kind

_HELD = frozenset({Kind.ALERT, Kind.ACK})


@dataclass(frozen=True)
class LateRecord:
    """One record as it would have gone out."""

    kind: Kind
    subject: str
    data: bytes


class Late:
    """Records to send first, oldest first, at most ``max_bytes`` of data."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: deque[LateRecord] = deque()
        self._bytes = 0
        self._unproved = False

    def hold(self, record: LateRecord) -> list[LateRecord]:
        """Keep a record that did not go out, if it is one that overtakes; return what is not kept, or no longer.

        A checkpoint is kept when it lists an alert that is kept: without it nobody could prove the alert.
        """
        if record.kind is Kind.CHECKPOINT and self._unproved:
            self._unproved = False
        elif record.kind in _HELD:
            self._unproved |= record.kind is Kind.ALERT
        else:
            return [record]
        self._held.append(record)
        self._bytes += len(record.data)
        gone: list[LateRecord] = []
        while self._bytes > self._max_bytes:
            gone.append(self._held.popleft())
            self._bytes -= len(gone[-1].data)
        return gone

    def put_back(self, records: Sequence[LateRecord]) -> None:
        """Hold what was taken and did not go out either."""
        self._held.extendleft(reversed(records))
        self._bytes += sum(len(record.data) for record in records)
        kinds = [record.kind for record in records if record.kind is not Kind.ACK]
        self._unproved |= kinds[-1:] == [Kind.ALERT]

    def take(self) -> list[LateRecord]:
        """Return what is held and hold nothing."""
        held = list(self._held)
        self._held.clear()
        self._bytes, self._unproved = 0, False
        return held
