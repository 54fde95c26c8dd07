"""What a bus client counted: a snapshot for status records, metrics and screens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

OTHER_KIND = "other"
MALFORMED = "malformed"


@dataclass(frozen=True)
class BusStats:
    """Counters since the client was made. ``dropped`` counts live messages that were not sent, by kind.

    ``dropped_because`` counts the same by reason: ``disconnected``, ``backlog`` (the network is slower than
    the producer), ``oversize`` or ``malformed``.
    """

    connected: bool
    server: str | None
    connects: int
    disconnects: int
    failed_attempts: int
    last_failure: str | None
    published: int
    dropped: Mapping[str, int]
    dropped_because: Mapping[str, int]
    received: int
    overruns: int
    denied: int
    pending_bytes: int

    @property
    def dropped_total(self) -> int:
        """All live messages that were not sent."""
        return sum(self.dropped.values())


def kind_of(subject: str) -> str:
    """Return the kind of a subject: ``meter`` of ``rack.a.meter.main``, else its first token."""
    parts = subject.split(".", 3)
    return parts[2] if parts[0] == "rack" and len(parts) > 2 else parts[0]


class DropCounter:
    """Counts drops by kind and by reason, in bounded memory."""

    def __init__(self, max_kinds: int) -> None:
        self._max_kinds = max_kinds
        self.by_kind: Counter[str] = Counter()
        self.by_reason: Counter[str] = Counter()

    def add(self, subject: str, reason: str) -> bool:
        """Count one drop; return whether it is the first for this reason."""
        # A malformed subject is nobody's kind, and must not put its control characters into a metric.
        kind = OTHER_KIND if reason == MALFORMED else kind_of(subject)
        if kind not in self.by_kind and len(self.by_kind) >= self._max_kinds:
            kind = OTHER_KIND
        self.by_kind[kind] += 1
        self.by_reason[reason] += 1
        return self.by_reason[reason] == 1
