"""The bounded hand-over from audio threads to the event loop: never blocks, counts what it drops."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Handover(Generic[_T]):
    """Items put by any thread come out on the loop, in order, through ``take``."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, take: Callable[[_T], None], *, max_items: int
    ) -> None:
        self._loop = loop
        self._take = take
        self._max_items = max_items
        self._items: deque[_T] = deque()
        self._scheduled = False
        self._counting = threading.Lock()
        self.dropped = 0

    def put(self, item: _T) -> None:
        """Hand ``item`` over; a full queue drops it and counts it."""
        if len(self._items) >= self._max_items:
            with self._counting:  # several sources drop at once; held for one addition
                self.dropped += 1
            return
        self._items.append(item)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """Take everything that waits now. Runs on the loop."""
        # Cleared first: an item appended after the last popleft schedules a new drain.
        self._scheduled = False
        try:
            while self._items:
                self._take(self._items.popleft())
        finally:
            if self._items and not self._scheduled:  # one item failed: the ones behind it must not wait
                self._scheduled = True
                self._loop.call_soon_threadsafe(self.drain)
