"""Compares what racks say of their journals with what they said before and with what came.

A rack says in every heartbeat which journal it keeps and how far it is committed. That never goes back: if it does, or
if another journal takes its place before all of the old one came, a tail was cut off or a disk put back. Racks of the
first release do not name their journal and are not watched.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from stagebox.errors import StageboxError
from stagebox.records.status import Status
from stagebox.records.walbatch import JOURNAL_BYTES
from stagebox.tasks import end_tasks
from stagebox_mixer.audit import Audit, Row
from stagebox_mixer.lake.lake import Lake

log = structlog.get_logger()


class JournalWatch:
    """One alarm for each stretch of records, however often a rack repeats itself."""

    def __init__(self, lake: Lake, audit: Audit) -> None:
        self._lake = lake
        self._audit = audit
        self._current: dict[str, bytes] = {}
        self._raised: dict[tuple[str, str], tuple[bytes, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.alarms = 0

    async def stop(self) -> None:
        """End what is under way."""
        await end_tasks(list(self._tasks))

    def heard(self, rack: str, status: Status) -> None:
        """Take one heartbeat."""
        said = _journal_of(status.body)
        if said is None:
            return
        journal, committed = said
        shortened = self._lake.report(rack, journal, committed)
        if shortened is not None:
            self._alarm("wal_shortened", rack, journal, shortened)
        before = self._current.get(rack)
        self._current[rack] = journal
        if before is not None and before != journal:
            unshipped = self._lake.unshipped(rack, before)
            if unshipped is not None:
                self._alarm("wal_replaced", rack, before, unshipped)

    def _alarm(self, action: str, rack: str, journal: bytes, records: tuple[int, int]) -> None:
        if self._raised.get((action, rack)) == (journal, records[1]):
            return
        self._raised[action, rack] = (journal, records[1])
        self.alarms += 1
        log.error(action, rack=rack, first=records[0], last=records[1])
        detail: dict[str, str | int] = {"journal": journal.hex(), "first": records[0], "last": records[1]}
        row = Row(f"rack:{rack}", action, rack, "ok", "missing", detail)
        task = asyncio.create_task(self._record(row), name="journal-alarm")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _record(self, row: Row) -> None:
        try:
            await self._audit.record(row)
        except StageboxError as error:
            log.error("alarm_not_audited", action=row.action, error=error.message)


def _journal_of(body: dict[str, Any]) -> tuple[bytes, int] | None:
    wal = body.get("wal")
    if not isinstance(wal, dict):
        return None
    name, committed = wal.get("journal"), wal.get("committed")
    if type(name) is not str or type(committed) is not int or committed < 0:
        return None
    try:
        journal = bytes.fromhex(name)
    except ValueError:
        return None
    return (journal, committed) if len(journal) == JOURNAL_BYTES else None
