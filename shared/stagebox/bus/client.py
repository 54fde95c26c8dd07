"""The bus client of both ends: racks and subscribers over the snake, the mixer over loopback.

Rules: a fresh connection for every attempt, with jittered back-off, for ever; subscriptions outlive
connections; live data is published without waiting and every message not sent is counted; durable data gets
an error when the bus is down, so that its owner keeps it; a failure is logged once per cause; closing leaves
no task, descriptor or thread. Everything here runs on one event loop, which is the caller's.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Mapping
from typing import Any

import structlog
from nats import errors as nats_errors
from nats.js import JetStreamContext

from stagebox.bus.causes import Failure
from stagebox.bus.connection import Connection
from stagebox.bus.message import BusMessage
from stagebox.bus.options import BusOptions
from stagebox.bus.stats import BusStats, DropCounter
from stagebox.bus.subscription import Callback, Subscription
from stagebox.bus.supervisor import ConnectedHook, DisconnectedHook, Supervisor
from stagebox.errors import BusError, InputError

_PATTERN = re.compile(r"(?:(?:\*|[^\s\x00.*>]+)\.)*(?:\*|>|[^\s\x00.*>]+)")

_log = structlog.get_logger("stagebox.bus")


class BusClient:
    """A client that stays connected. Use ``async with``, or :meth:`start` and :meth:`close`."""

    def __init__(self, options: BusOptions, *, source: random.Random | None = None) -> None:
        self._options = options
        self._supervisor = Supervisor(
            options, source if source is not None else random.SystemRandom(), self._restore, self._on_denied
        )
        self._drops = DropCounter(options.limits.max_counted_kinds)
        self._subscriptions: dict[Subscription, int] = {}
        self._denied_seen: set[str] = set()
        self._published = self._denied = 0

    # Life

    async def __aenter__(self) -> BusClient:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start connecting in the background. See :meth:`wait_connected`."""
        self._supervisor.start()

    async def wait_connected(self, timeout: float | None = None) -> None:
        """Wait until connected.

        Raises:
            BusError: not within ``timeout`` seconds, or the client gave up (see ``give_up_after``).
            TlsError: as BusError, where a certificate is the cause.
        """
        await self._supervisor.wait_connected(timeout)

    async def close(self) -> None:
        """Send what is queued, within the drain timeout, and close for good."""
        if self._supervisor.closed:
            return
        await self._supervisor.close()
        for subscription in list(self._subscriptions):
            await subscription.end()
        self._subscriptions.clear()

    # State

    @property
    def connected(self) -> bool:
        """Whether a connection is up now."""
        return self._supervisor.connected

    @property
    def supervised(self) -> bool:
        """Whether the client still keeps itself connected, now or in a while."""
        return self._supervisor.running

    @property
    def last_failure(self) -> Failure | None:
        """Why the last attempt or connection ended, if one did."""
        return self._supervisor.last_failure

    def on_connected(self, hook: ConnectedHook) -> None:
        """Call ``hook`` after every connect, once the subscriptions stand. A coroutine runs as a task."""
        self._supervisor.connected_hooks.append(hook)

    def on_disconnected(self, hook: DisconnectedHook) -> None:
        """Call ``hook`` with the reason after every loss of a connection."""
        self._supervisor.disconnected_hooks.append(hook)

    def on_attempt_failed(self, hook: DisconnectedHook) -> None:
        """Call ``hook`` with the reason after every attempt that made no connection, before the next one."""
        self._supervisor.failed_hooks.append(hook)

    def stats(self) -> BusStats:
        """Return the counters now."""
        supervisor, live = self._supervisor, self._supervisor.live
        failure = supervisor.last_failure
        return BusStats(
            connected=self.connected,
            server=live.server if live is not None else None,
            connects=supervisor.connects,
            disconnects=supervisor.disconnects,
            failed_attempts=supervisor.failed_attempts,
            last_failure=failure.cause.value if failure is not None else None,
            published=self._published,
            dropped=dict(self._drops.by_kind),
            dropped_because=dict(self._drops.by_reason),
            received=sum(subscription.received for subscription in self._subscriptions),
            overruns=sum(subscription.overruns for subscription in self._subscriptions),
            denied=self._denied,
            pending_bytes=live.pending_data_size if live is not None else 0,
        )

    def transport_facts(self) -> dict[str, Any]:
        """Return what the live TLS object says: ``tls``, ``cipher`` and ``client_certificate``.

        ``client_certificate`` is whether ours went out in this connection's handshake, or None if this
        Python cannot tell.

        Raises:
            BusError: not connected.
        """
        return self._require().transport_facts()

    # Sending

    def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Send a live message: never waits, never raises. Returns False, and counts it, if it was dropped."""
        live = self._supervisor.live
        reason = "disconnected"
        if live is not None:
            refused = live.offer(subject, payload, reply, dict(headers) if headers else None)
            if refused is None:
                self._published += 1
                return True
            reason = refused
        if self._drops.add(subject, reason) and reason != "disconnected":
            _log.warning(
                "live_message_dropped", subject=ascii(subject[:128]), reason=reason, size=len(payload)
            )
        return False

    async def publish_confirmed(self, subject: str, payload: bytes, *, timeout: float | None = None) -> None:
        """Send a message and wait until the server has taken it.

        Raises:
            BusError: not connected, refused here, or no answer in time.
        """
        live = self._require()
        refused = live.offer(subject, payload, "", None)
        if refused is not None:
            raise BusError(f"cannot publish on {subject!r}: {refused}")
        self._published += 1
        await self._flush(live, timeout)

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until the server has taken everything sent so far.

        Raises:
            BusError: not connected, or no answer in time.
        """
        await self._flush(self._require(), timeout)

    async def _flush(self, live: Connection, timeout: float | None) -> None:
        limit = self._options.limits.flush_timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):
                await live.flush(timeout=int(limit) + 1)
        except (nats_errors.Error, OSError, TimeoutError) as error:
            raise BusError(f"the bus did not confirm within {limit:g} s: {type(error).__name__}") from None

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> BusMessage:
        """Ask and return the answer.

        Raises:
            BusError: not connected, nobody answers there, no answer in time, or the connection was lost.
        """
        live = self._require()
        limit = self._options.limits.request_timeout if timeout is None else timeout
        try:
            answer = await live.request(
                subject, payload, timeout=limit, headers=dict(headers) if headers else None
            )
        except nats_errors.NoRespondersError:
            raise BusError(f"nobody answers on {subject!r}", remedy="check that the mixer runs") from None
        except (nats_errors.TimeoutError, TimeoutError):
            raise BusError(f"no answer on {subject!r} within {limit:g} s") from None
        except (nats_errors.Error, OSError) as error:
            raise BusError(f"request on {subject!r} failed: {type(error).__name__}") from None
        return BusMessage(answer.subject, answer.data, answer.reply, answer.headers)

    @property
    def js(self) -> JetStreamContext:
        """JetStream on the live connection. Get it anew for every use: it dies with the connection.

        Raises:
            BusError: not connected.
        """
        return self._require().stream_context()

    def _require(self) -> Connection:
        live = self._supervisor.live
        if live is None or not live.alive:
            raise BusError("the bus is not connected", remedy="it reconnects by itself; try again later")
        return live

    # Receiving

    async def subscribe(
        self,
        pattern: str,
        callback: Callback | None = None,
        *,
        queue: str = "",
        max_messages: int | None = None,
        max_bytes: int | None = None,
        lasting: bool = False,
    ) -> Subscription:
        """Subscribe now and after every reconnect; without ``callback``, iterate over the result.

        When connected, returns once the server has taken the subscription. During :meth:`swap_certificate`
        a message may be delivered twice. A ``lasting`` subscription that the server does not permit is only logged:
        it stays, and every new connection asks for it again.

        Raises:
            InputError: a malformed pattern.
            BusError: the server does not permit it and it is not ``lasting``, or the client is closed.
        """
        check_pattern(pattern)
        if self._supervisor.closed:
            raise BusError("this bus client is closed")
        limits = self._options.limits
        subscription = Subscription(
            pattern,
            callback,
            queue=queue,
            max_messages=limits.subscription_messages if max_messages is None else max_messages,
            max_bytes=limits.subscription_bytes if max_bytes is None else max_bytes,
        )
        self._subscriptions[subscription] = 0
        live = self._supervisor.live
        if live is not None and live.alive:
            self._subscriptions[subscription] = live.attach(pattern, queue, subscription.deliver)
            with contextlib.suppress(BusError):  # lost meanwhile: the next connection subscribes again
                await self._flush(live, None)
            if subscription.denied is not None and not lasting:
                await self.unsubscribe(subscription)
                raise BusError(
                    f"the server refused to let us subscribe {pattern!r}",
                    remedy="use an identity whose role may read it",
                )
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription."""
        sid = self._subscriptions.pop(subscription, 0)
        if self._supervisor.live is not None and sid:
            self._supervisor.live.detach(sid)
        await subscription.end()

    # Connecting

    async def swap_certificate(self) -> None:
        """Move to a new connection, made with what the TLS context and the providers give now.

        The old connection carries the traffic until the new one stands, then its requests in flight are
        waited for and it is closed. Without a connection it only cuts the current back-off short.

        Raises:
            TlsError, BusError: the new connection failed; the old one stays.
        """
        await self._supervisor.swap()

    def retry_now(self) -> None:
        """Cut the current back-off short, for instance because new credentials have come."""
        self._supervisor.retry_now()

    def _restore(self, fresh: Connection) -> None:
        for subscription in self._subscriptions:
            sid = fresh.attach(subscription.pattern, subscription.queue, subscription.deliver)
            self._subscriptions[subscription] = sid

    def _on_denied(self, text: str) -> None:
        self._denied += 1
        for subscription in self._subscriptions:
            if f'subscription to "{subscription.pattern.lower()}"' in text:
                subscription.denied = text
        if len(self._denied_seen) < self._options.limits.max_counted_kinds and text not in self._denied_seen:
            self._denied_seen.add(text)
            _log.error("bus_permission_denied", detail=text)


def check_pattern(pattern: str) -> None:
    """Check a subscription pattern.

    Raises:
        InputError: empty, whitespace, an empty token or a misplaced wildcard.
    """
    if not _PATTERN.fullmatch(pattern):
        raise InputError(
            f"{pattern!r} is not a subject pattern",
            remedy="write tokens separated by dots; '*' is one token, '>' at the end is the rest",
        )
