"""Counts audit rows by action and result on their way, so that metrics need no counting of their own."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from stagebox_mixer.audit import Row


class AuditLog(Protocol):
    """Where rows go."""

    async def record(self, row: Row) -> object:
        """Write a row durably, or raise."""

    def refused(self, row: Row) -> None:
        """Write a refusal without waiting; repeats are counted."""


class TalliedAudit:
    """Passes rows on to ``audit``; ``counts`` maps (action, result) to how many went there since the start."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self.counts: Counter[tuple[str, str]] = Counter()

    async def record(self, row: Row) -> object:
        """Write a row; it counts once it is written.

        Raises:
            StageboxError: it is not written.
        """
        written = await self._audit.record(row)
        self.counts[row.action, row.result] += row.count
        return written

    def refused(self, row: Row) -> None:
        """Write a refusal."""
        self.counts[row.action, row.result] += row.count
        self._audit.refused(row)

    def done(self, *actions: str) -> int:
        """Return how often these actions took effect: a row stands before its act, one that failed has a second."""
        return sum(self.counts[action, "ok"] - self.counts[action, "failed"] for action in actions)

    def denied(self, *actions: str) -> int:
        """Return how often these actions were refused."""
        return sum(self.counts[action, "refused"] for action in actions)
