"""The audit: an append-only record of who did what, written before it takes effect.

Rows are JSON on ``mixer.audit.<action>`` in the stream AUDIT. Refusals are rows too; a flood of the same
refusal from the same source becomes one row a window with its count, so nothing is dropped and no attacker can
fill the disk.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from nats.js import JetStreamContext
from uuid6 import uuid7

from stagebox.errors import StageboxError
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.outages import explained

log = structlog.get_logger()
VERSION = 1


@dataclass(frozen=True)
class Row:
    """One audit row. ``actor`` did ``action`` to ``subject``; ``result`` is ``ok`` or ``refused``."""

    actor: str
    action: str
    subject: str
    result: str
    reason: str = ""
    detail: dict[str, str | int] = field(default_factory=dict)
    count: int = 1

    def encode(self, row_id: str, time_ns: int) -> bytes:
        """Return the stored form."""
        return json.dumps(
            {
                "v": VERSION,
                "id": row_id,
                "time_ns": time_ns,
                "actor": self.actor,
                "action": self.action,
                "subject": self.subject,
                "result": self.result,
                "reason": self.reason,
                "detail": self.detail,
                "count": self.count,
            },
            sort_keys=True,
        ).encode()


class RefusalWindow:
    """Folds repeated refusals into counts. Pure: the caller brings the time (seconds, monotonic).

    The first refusal of a key is written at once; those that follow within the window are counted and written
    as one row when the window ends. Keys beyond the bound share one overflow key, so memory stays bounded and
    every refusal is still counted.
    """

    def __init__(self, window_s: float, max_keys: int) -> None:
        self._window_s = window_s
        self._max_keys = max_keys
        self._open: dict[tuple[str, str, str], tuple[float, Row, int]] = {}

    def admit(self, row: Row, now: float) -> Row | None:
        """Return the row to write now, or None if it was only counted."""
        key = (row.actor, row.action, row.reason)
        if key not in self._open and len(self._open) >= self._max_keys:
            key = ("", row.action, "overflow")
            row = Row("many", row.action, "many", row.result, "overflow")
        entry = self._open.get(key)
        if entry is None:
            self._open[key] = (now, row, 0)
            return row
        self._open[key] = (entry[0], row, entry[2] + 1)
        return None

    def expire(self, now: float) -> list[Row]:
        """Close the windows that ended and return the counted rows to write."""
        due = [key for key, entry in self._open.items() if now - entry[0] >= self._window_s]
        rows = []
        for key in due:
            _, row, count = self._open.pop(key)
            if count:
                rows.append(
                    Row(row.actor, row.action, row.subject, row.result, row.reason, row.detail, count)
                )
        return rows


class Audit:
    """Writes rows durably. ``record`` raises when it cannot, so that nothing unaudited takes effect."""

    def __init__(self, jetstream: Callable[[], JetStreamContext]) -> None:
        self._jetstream = jetstream
        self._window = RefusalWindow(LIMITS.refusal_window_s, LIMITS.refusal_keys)
        self._refusals: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to close refusal windows in time."""
        self._ticker = asyncio.create_task(self._tick(), name="audit-refusals")

    async def stop(self) -> None:
        """Write what is still counted, then end."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for row in self._window.expire(float("inf")):
            self._write_later(row)
        await asyncio.gather(*self._refusals, return_exceptions=True)

    async def record(self, row: Row) -> None:
        """Write one row durably before the caller goes on.

        Raises:
            BusError: it could not be written; the caller must not act.
        """
        row_id = str(uuid7())
        log.info(
            "audit", actor=row.actor, action=row.action, subject=row.subject, result=row.result,
            reason=row.reason, count=row.count, **row.detail,
        )  # fmt: skip
        with explained("the audit"):
            await self._jetstream().publish(
                f"mixer.audit.{row.action}",
                row.encode(row_id, time.time_ns()),
                headers={"Nats-Msg-Id": row_id},
            )

    def refused(self, row: Row) -> None:
        """Record a refusal without making the refused wait; repeats are folded into counts."""
        admitted = self._window.admit(row, time.monotonic())
        if admitted is not None:
            self._write_later(admitted)

    def _write_later(self, row: Row) -> None:
        task = asyncio.create_task(self._write_refusal(row))
        self._refusals.add(task)
        task.add_done_callback(self._refusals.discard)

    async def _write_refusal(self, row: Row) -> None:
        try:
            await self.record(row)
        except (StageboxError, OSError, TimeoutError) as error:
            # The refusal itself stands; the row is already in the log above.
            log.error("audit_write_failed", action=row.action, error=str(error))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(LIMITS.refusal_window_s / 2)
            for row in self._window.expire(time.monotonic()):
                self._write_later(row)
