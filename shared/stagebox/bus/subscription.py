"""A subscription that outlives connections, with a bounded queue in front of a slow consumer.

A plain function as callback is called at once in the read loop, so it must be quick; a coroutine function or
an ``async for`` consumes from the queue. When the queue is full the newest message is dropped and counted in
:attr:`Subscription.overruns`, never silently.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import structlog

from stagebox.bus.message import BusMessage
from stagebox.tasks import end_tasks

Callback = Callable[[BusMessage], None] | Callable[[BusMessage], Awaitable[None]]

_log = structlog.get_logger("stagebox.bus")


class Subscription:
    """One interest in a subject pattern. Made by :meth:`BusClient.subscribe`."""

    def __init__(
        self,
        pattern: str,
        callback: Callback | None,
        *,
        queue: str,
        max_messages: int,
        max_bytes: int,
    ) -> None:
        self.pattern = pattern
        self.queue = queue
        self.received = 0
        self.overruns = 0
        self.callback_errors = 0
        self.denied: str | None = None
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._pending: deque[BusMessage] = deque()
        self._pending_bytes = 0
        self._ready = asyncio.Event()
        self._closed = False
        self._logged_errors: set[type[Exception]] = set()
        self._worker: asyncio.Task[None] | None = None
        self._direct: Callable[[BusMessage], None] | None = None
        if callback is not None and _is_async(callback):
            consume = cast("Callable[[BusMessage], Awaitable[None]]", callback)
            self._worker = asyncio.get_running_loop().create_task(self._work(consume), name="bus-consumer")
        elif callback is not None:
            self._direct = cast("Callable[[BusMessage], None]", callback)

    @property
    def pending(self) -> int:
        """How many messages wait for the consumer."""
        return len(self._pending)

    def deliver(self, message: BusMessage) -> None:
        """Take one message from the connection. Never raises."""
        if self._closed:
            return
        self.received += 1
        if self._direct is not None:
            try:
                self._direct(message)
            except Exception as error:  # a callback must not end the connection it came by
                self._callback_failed(error)
            return
        size = len(message.payload)
        if len(self._pending) >= self._max_messages or self._pending_bytes + size > self._max_bytes:
            self.overruns += 1
            if self.overruns == 1:
                _log.warning("subscription_overrun", pattern=self.pattern, pending=len(self._pending))
            return
        self._pending.append(message)
        self._pending_bytes += size
        self._ready.set()

    async def _work(self, consume: Callable[[BusMessage], Awaitable[None]]) -> None:
        async for message in self:
            try:
                await consume(message)
            except Exception as error:
                self._callback_failed(error)

    def _callback_failed(self, error: Exception) -> None:
        self.callback_errors += 1
        if type(error) not in self._logged_errors:
            self._logged_errors.add(type(error))
            _log.error("subscription_callback_failed", pattern=self.pattern, exc_info=error)

    def __aiter__(self) -> AsyncIterator[BusMessage]:
        return self

    async def __anext__(self) -> BusMessage:
        while not self._pending:
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        message = self._pending.popleft()
        self._pending_bytes -= len(message.payload)
        return message

    async def end(self) -> None:
        """Stop: no message is delivered any more, an ``async for`` ends after what it already has."""
        self._closed = True
        self._ready.set()
        worker, self._worker = self._worker, None
        await end_tasks([worker])


def _is_async(callback: Callback) -> bool:
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(
        getattr(callback, "func", None) or getattr(callback, "__call__", None)  # noqa: B004
    )
