"""The audit as the rest of the mixer uses it: rows before acts, refusals within bounds, a witness of the head."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from nats.js import JetStreamContext

from stagebox.audit_chain import Head
from stagebox.errors import StageboxError, StorageError
from stagebox.tasks import end_tasks
from stagebox_mixer.audit.refusals import RefusalWindow, TokenBucket
from stagebox_mixer.audit.row import Row, bounded
from stagebox_mixer.audit.stream import AuditStream
from stagebox_mixer.audit.witness import Witness
from stagebox_mixer.audit.writer import ChainWriter
from stagebox_mixer.limits import LIMITS

log = structlog.get_logger()


class Audit:
    """Writes rows durably. ``record`` raises when it cannot, so that nothing unaudited takes effect.

    ``witness`` is the file that remembers the head; None keeps no witness.
    """

    def __init__(self, jetstream: Callable[[], JetStreamContext], witness: Path | None = None) -> None:
        self._witness = Witness(witness) if witness is not None else None
        self._writer = ChainWriter(AuditStream(jetstream), self._advanced)
        self._window = RefusalWindow(TokenBucket(LIMITS.refusal_burst_rows, LIMITS.refusal_rows_per_s))
        self._refusals: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Hold the stream to the witness, then begin to close refusal windows in time.

        Raises:
            BusError: the stream cannot be reached. StorageError: there can be no witness where it shall be.
        """
        noted, doubt = None, None
        if self._witness is not None:
            try:
                noted = self._witness.load()
            except StorageError as error:
                log.error("audit_witness_damaged", error=error.message)
                doubt = "witness_damaged"
        await self._writer.open(noted, doubt)
        if self._witness is not None:
            self._witness.start()
        self._ticker = asyncio.create_task(self._tick(), name="audit-refusals")

    async def stop(self) -> None:
        """Write what is still counted and the witness, then end."""
        await end_tasks([self._ticker])
        await asyncio.gather(*self._refusals, return_exceptions=True)
        for row in self._window.expire(time.monotonic(), everything=True):
            self._write_later(row)
        await asyncio.gather(*self._refusals, return_exceptions=True)
        await self._writer.drained()
        if self._witness is not None:
            await self._witness.stop()

    def head(self) -> Head:
        """Return number and hash of the newest row this mixer knows; (0, zeros) before the first."""
        return self._writer.head

    def witness(self) -> Head | None:
        """Return the head that is in the witness file, None if there is none."""
        return self._witness.noted if self._witness is not None else None

    async def record(self, row: Row) -> int:
        """Write one row durably before the caller goes on; return its number in the stream.

        Raises:
            BusError: it could not be written; the caller must not act. InputError: it cannot be a row.
        """
        log.info(
            "audit", actor=row.actor, action=row.action, subject=row.subject, result=row.result,
            reason=row.reason, count=row.count, detail=row.detail,
        )  # fmt: skip
        return await self._writer.write(row)

    def refused(self, row: Row) -> None:
        """Record a refusal without making the refused wait; what is over the bounds is folded into counts."""
        admitted = self._window.admit(bounded(row), time.monotonic())
        if admitted is not None:
            self._write_later(admitted)

    def _advanced(self, head: Head) -> None:
        if self._witness is not None:
            self._witness.advance(head)

    def _write_later(self, row: Row) -> None:
        task = asyncio.create_task(self._write_refusal(row), name="audit-refusal")
        self._refusals.add(task)
        task.add_done_callback(self._refusals.discard)

    async def _write_refusal(self, row: Row) -> None:
        try:
            await self.record(row)
        except (StageboxError, OSError) as error:
            # The refusal itself stands. Its count waits for the next overflow row.
            log.error("audit_write_failed", action=row.action, count=row.count, error=str(error))
            self._window.overflow(row, time.monotonic())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(LIMITS.refusal_window_s / 2)
            for row in self._window.expire(time.monotonic()):
                self._write_later(row)
