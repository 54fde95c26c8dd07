"""Reads stored rows back, oldest first, as the exact bytes that the chain covers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from nats.js import JetStreamContext

from stagebox_mixer.audit.stream import AuditStream
from stagebox_mixer.limits import LIMITS


@dataclass(frozen=True)
class StoredRow:
    """A row as it is stored. ``seq`` is its number in the stream."""

    seq: int
    data: bytes

    @property
    def text(self) -> str:
        """The bytes as text; a row that is no UTF-8 is none of ours, and its text shows that."""
        return self.data.decode("utf-8", "replace")


class AuditReader:
    """Pages through the stream."""

    def __init__(self, jetstream: Callable[[], JetStreamContext]) -> None:
        self._stream = AuditStream(jetstream)

    async def last(self) -> int:
        """Return the number of the newest row, 0 if there is none.

        Raises:
            BusError: the stream cannot be reached.
        """
        return await self._stream.last()

    async def page(self, after: int, limit: int) -> list[StoredRow]:
        """Return the rows behind number ``after``: at most ``limit``, fewer if they are long.

        Empty only behind the newest row. A row that the stream no longer has is left out.

        Raises:
            BusError: the stream cannot be reached.
        """
        after = max(0, after)
        end = min(await self._stream.last(), after + min(limit, LIMITS.audit_page_rows))
        rows: list[StoredRow] = []
        size = 0
        for first in range(after + 1, end + 1, LIMITS.audit_reads_at_once):
            numbers = range(first, min(first + LIMITS.audit_reads_at_once, end + 1))
            found = await asyncio.gather(*(self._stream.row(seq) for seq in numbers))
            for seq, data in zip(numbers, found, strict=True):
                if data is None:
                    continue
                size += len(data)
                if rows and size > LIMITS.audit_page_bytes:
                    return rows
                rows.append(StoredRow(seq, data))
        return rows
