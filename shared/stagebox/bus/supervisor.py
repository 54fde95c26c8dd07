"""Keeps one connection up: jittered attempts for ever, hand-over without a gap, one log line a cause.

The supervisor owns the live connection and its counters; what travels over it is the client's business.
Rules: a failure is logged when its cause first appears or changes, and the recovery tells how often it
failed; the back-off starts over only after a connection that lasted, so that a server which accepts and then
drops us is not hammered.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from collections.abc import Awaitable, Callable

import structlog

from stagebox.bus.backoff import Backoff
from stagebox.bus.causes import Cause, Failure, classify
from stagebox.bus.connection import Connection, Denied
from stagebox.bus.options import BusOptions
from stagebox.errors import BusError
from stagebox.tasks import end_tasks

ConnectedHook = Callable[[], Awaitable[None] | None]
DisconnectedHook = Callable[[Failure], Awaitable[None] | None]

_log = structlog.get_logger("stagebox.bus")


class CauseLog:
    """Decides what is worth a log line: the first failure of a cause, a change of cause, and the recovery."""

    def __init__(self) -> None:
        self._last: Cause | None = None
        self._repeated = 0

    def observe(self, cause: Cause) -> bool:
        """Return whether to log this failure."""
        if cause is self._last:
            self._repeated += 1
            return False
        self._last, self._repeated = cause, 1
        return True

    def recovered(self) -> int:
        """Forget the cause; return how many failures in a row it had."""
        count, self._last, self._repeated = self._repeated, None, 0
        return count


class Supervisor:
    """Holds the live connection. ``attach`` restores the subscriptions on each new one first."""

    def __init__(
        self,
        options: BusOptions,
        source: random.Random,
        attach: Callable[[Connection], None],
        denied: Denied,
    ) -> None:
        limits = options.limits
        self._options = options
        self._attach = attach
        self._denied = denied
        self._backoff = Backoff(limits.backoff_base, limits.backoff_cap, source)
        self._causes = CauseLog()
        self.live: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._changed = asyncio.Event()
        self._retry_now = asyncio.Event()
        self._given_up = False
        self.closed = False
        self.connected_hooks: list[ConnectedHook] = []
        self.disconnected_hooks: list[DisconnectedHook] = []
        self.failed_hooks: list[DisconnectedHook] = []
        self._hook_tasks: set[asyncio.Task[None]] = set()
        self._server_turn = 0
        self.last_failure: Failure | None = None
        self.connects = 0
        self.disconnects = 0
        self.failed_attempts = 0

    @property
    def connected(self) -> bool:
        """Whether a connection is up now."""
        return self.live is not None and self.live.alive

    @property
    def running(self) -> bool:
        """Whether the connection is still being kept up."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start connecting in the background.

        Raises:
            BusError: closed already.
        """
        if self.closed:
            raise BusError("this bus client is closed")
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._supervise(), name="bus-supervisor")
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # A supervisor that fails must be seen by whoever waits, not only by the garbage collector.
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("bus_supervisor_failed", exc_info=error)
            self.last_failure = classify(error)
            self._given_up = True
        self._changed.set()

    async def wait_connected(self, timeout: float | None) -> None:
        """See :meth:`BusClient.wait_connected`."""
        try:
            async with asyncio.timeout(timeout):
                while not self.connected:
                    if self.closed:
                        raise BusError("this bus client is closed")
                    if self._given_up and self.last_failure is not None:
                        raise self.last_failure.as_error()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            if self.last_failure is not None:
                raise self.last_failure.as_error() from None
            raise BusError(f"not connected to {self._options.servers[0]} within {timeout:g} s") from None

    async def close(self) -> None:
        """Drain and close for good."""
        self.closed = True
        self._changed.set()
        live, self.live = self.live, None
        if live is not None:
            await live.shutdown(drain=self._options.limits.drain_timeout)
        await end_tasks([self._task, *self._hook_tasks])

    def retry_now(self) -> None:
        """Cut the current back-off short."""
        self._retry_now.set()

    async def swap(self) -> None:
        """See :meth:`BusClient.swap_certificate`."""
        async with self._opening:
            old = self.live
            if old is None or not old.alive:
                self._retry_now.set()
                return
            try:
                fresh = await Connection.open(self._options, old.server, self._denied)
            except Exception as error:
                failure = classify(error, old.server)
                self._tell_failed(failure)
                raise failure.as_error() from None
            if self.closed:
                await fresh.shutdown()
                return
            self._adopt(fresh)
        with contextlib.suppress(Exception):
            # Only when the server has taken the new subscriptions may the old ones end.
            await fresh.flush(timeout=int(self._options.limits.flush_timeout) or 1)
        await old.shutdown(drain=self._options.limits.drain_timeout)
        _log.info("bus_connection_swapped", server=fresh.server)

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not self.closed:
            live = await self._attempt()
            if live is None:
                if self._should_give_up(loop.time() - started):
                    self._given_up = True
                    self._changed.set()
                    return
                await self._pause(self._backoff.next_delay())
                continue
            since = loop.time()
            error = await asyncio.shield(live.lost)
            if self.live is not live:
                continue  # swapped, or closing
            if loop.time() - since >= self._options.limits.stable_after:
                self._backoff.reset()
            await self._lose(live, classify(error, live.server))
            await self._pause(self._backoff.next_delay())

    def _should_give_up(self, elapsed: float) -> bool:
        limit, failure = self._options.give_up_after, self.last_failure
        if limit is None or self.connects or failure is None:
            return False
        return elapsed >= limit or failure.cause.permanent

    async def _attempt(self) -> Connection | None:
        """Return a live connection: the swapped-in one, or a new one to the next server."""
        async with self._opening:
            if self.live is not None and self.live.alive:
                return self.live
            servers = self._options.servers
            server = servers[self._server_turn % len(servers)]
            self._server_turn += 1
            try:
                fresh = await Connection.open(self._options, server, self._denied)
            except Exception as error:
                failure = classify(error, server)
                self._note(failure, "bus_connect_failed")
                self._tell_failed(failure)
                return None
            self._adopt(fresh)
            return fresh

    def _adopt(self, fresh: Connection) -> None:
        self.live = fresh
        self.connects += 1
        self._attach(fresh)
        failures = self._causes.recovered()
        _log.info("bus_connected", server=fresh.server, after_failures=failures)
        self._changed.set()
        for hook in self.connected_hooks:
            self._run_hook(hook)

    def _tell_failed(self, failure: Failure) -> None:
        self.failed_attempts += 1
        for hook in self.failed_hooks:
            self._run_hook(hook, failure)

    async def _lose(self, live: Connection, failure: Failure) -> None:
        self.live = None
        self.disconnects += 1
        self._note(failure, "bus_disconnected")
        for hook in self.disconnected_hooks:
            self._run_hook(hook, failure)
        await live.shutdown()

    def _note(self, failure: Failure, event: str) -> None:
        self.last_failure = failure
        self._changed.set()
        if self._causes.observe(failure.cause) and failure.cause is not Cause.CLOSED_BY_US:
            _log.warning(
                event,
                server=failure.server,
                cause=failure.cause.value,
                detail=failure.detail,
                remedy=failure.remedy,
            )

    async def _pause(self, delay: float) -> None:
        self._retry_now.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._retry_now.wait()

    def _run_hook(self, hook: Callable[..., Awaitable[None] | None], *arguments: Failure) -> None:
        try:
            result = hook(*arguments)
        except Exception as error:
            _log.error("bus_hook_failed", exc_info=error)
            return
        if inspect.isawaitable(result):
            task = asyncio.get_running_loop().create_task(_await_hook(result), name="bus-hook")
            self._hook_tasks.add(task)
            task.add_done_callback(self._hook_tasks.discard)


async def _await_hook(result: Awaitable[None]) -> None:
    try:
        await result
    except Exception as error:  # an owner's hook must not end the connection
        _log.error("bus_hook_failed", exc_info=error)
