"""One read for all who ask at the same time, and never one that began before they asked.

Two hundred racks that reconnect at once need not read the same list two hundred times; but an answer that may
have left the server before the question came is not good enough to admit anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Fresh(Generic[T]):
    """Shares calls of ``read``: whoever asks gets the result of one that starts after they asked."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._running: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """Return what a read that begins after this call finds; raises what it raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._running), name="shared-read")
            self._next.add_done_callback(_seen)
        return await asyncio.shield(self._next)

    async def _run(self, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait({before})
        # From here on a question comes too late for this read.
        self._running, self._next = self._next, None
        return await self._read()


def _seen(task: asyncio.Task[T]) -> None:
    if not task.cancelled():
        task.exception()  # whoever asked may have gone; then nobody else looks at it
