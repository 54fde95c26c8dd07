"""One connection to one server, once: nats-py's protocol engine without its own ideas about reconnecting.

All knowledge of nats-py's inside (2.16) is in this module, and so are the casts; a test pins the names it
overrides. Rules: a connection is made for one address and never makes another; addresses advertised by the
server are ignored; every way to lose it ends in :attr:`Connection.lost`, exactly once, and then everything
that waits on it fails at once; :meth:`Connection.shutdown` leaves no task and no descriptor.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable
from typing import Any, TypeVar, cast

from nats import errors as nats_errors
from nats.aio.client import DEFAULT_BUFFER_SIZE, PING_PROTO, Client, Srv
from nats.aio.errors import ErrStaleConnection
from nats.js import JetStreamContext
from nats.protocol.parser import PERMISSIONS_ERR

from stagebox.bus import nkey
from stagebox.bus.causes import (
    ClosedByPeer,
    ClosedByUs,
    CredentialsUnavailable,
    NotABus,
    ServerError,
    SilentPeer,
)
from stagebox.bus.handshake import CertificateWitness
from stagebox.bus.message import BusMessage
from stagebox.bus.options import BusOptions
from stagebox.bus.stats import MALFORMED
from stagebox.bus.transport import BoundedTcpTransport, BusTransport, CoalescingWebSocketTransport

Deliver = Callable[[BusMessage], None]
Denied = Callable[[str], None]

T = TypeVar("T")

_UNSAFE_SUBJECT = re.compile(r"[\s\x00]|^$")
_SOURCE_LOST = (nats_errors.Error, OSError)


class Connection(Client):
    """A live connection. ``denied`` is told the server's text when it refuses a publish or subscribe."""

    def __init__(self, options: BusOptions, server: str, denied: Denied) -> None:
        super().__init__()
        self._bus = options
        self.server = server
        self._denied = denied
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._direct: dict[int, Deliver] = {}
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._closer: asyncio.Task[None] | None = None
        self._witness = CertificateWitness()
        self._js: JetStreamContext | None = None

    @classmethod
    async def open(cls, options: BusOptions, server: str, denied: Denied) -> Connection:
        """Connect, or fail, within the connect timeout. Nothing is left behind by a failure."""
        connection = cls(options, server, denied)
        try:
            context = options.ssl_context
            if context is not None and not isinstance(context, ssl.SSLContext):
                context = _provided("TLS identity", context)
            with connection._witness.watch(context):
                async with asyncio.timeout(options.limits.connect_timeout):
                    await connection._establish(context)
        except BaseException:
            await connection.shutdown()
            raise
        return connection

    async def _establish(self, context: ssl.SSLContext | None) -> None:
        limits = self._bus.limits
        identity = self._bus.identity
        if identity is not None:
            key = _provided("identity key", identity)
            self._public_nkey = nkey.user_public(bytes(key.verify_key))
        jwt, token = self._bus.user_jwt, self._bus.token
        token_text = _provided("token", token) if token is not None else None
        jwt_bytes = _provided("user JWT", jwt).encode("ascii") if jwt is not None else b""
        await super().connect(
            servers=[self.server],
            error_cb=self._swallow,
            name=self._bus.name,
            allow_reconnect=False,
            connect_timeout=cast(int, limits.connect_timeout),
            ping_interval=cast(int, limits.ping_interval),
            max_outstanding_pings=limits.max_unanswered_pings,
            tls=context,
            token=token_text,
            signature_cb=(lambda nonce: nkey.sign_nonce(key, nonce)) if identity is not None else None,
            user_jwt_cb=(lambda: jwt_bytes) if jwt is not None else None,
            inbox_prefix=self._bus.inbox_prefix,
            pending_size=limits.durable_pending_bytes,
        )

    # What the bus client uses

    @property
    def alive(self) -> bool:
        """Whether the connection is up."""
        return self._status == Client.CONNECTED and not self.lost.done()

    def transport_facts(self) -> dict[str, Any]:
        """Return ``tls``, ``cipher`` and ``client_certificate`` as the live TLS object has them."""
        transport = cast("BusTransport | None", self._transport)
        tls = transport.ssl_object() if transport is not None else None
        if tls is None:
            return {"tls": None, "cipher": None, "client_certificate": False}
        cipher = tls.cipher()
        return {
            "tls": tls.version(),
            "cipher": cipher[0] if cipher is not None else None,
            "client_certificate": self._witness.sent(tls),
        }

    def offer(self, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> str | None:
        """Queue a live message, or return in a word why it was not: never waits, never raises."""
        if not self.alive:
            return "disconnected"
        size = len(payload)
        if self._pending_data_size + size > self._bus.limits.live_pending_bytes:
            return "backlog"
        if size > self._max_payload:
            return "oversize"
        if _UNSAFE_SUBJECT.search(subject) or (reply and _UNSAFE_SUBJECT.search(reply)):
            return MALFORMED
        if headers:
            block = _header_block(headers)
            command = b"HPUB %s %s %d %d\r\n%s%s\r\n" % (
                subject.encode(), reply.encode(), len(block), len(block) + size, block, payload,
            )  # fmt: skip
        else:
            command = b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply.encode(), size, payload)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += size
        self._pending.append(command)
        self._pending_data_size += len(command)
        self._wake.set()
        return None

    def attach(self, pattern: str, queue: str, deliver: Deliver) -> int:
        """Subscribe; ``deliver`` is called in the read loop for each message. Returns the subscription id."""
        self._sid += 1
        self._direct[self._sid] = deliver
        self._queue_command(b"SUB %s %s %d\r\n" % (pattern.encode(), queue.encode(), self._sid))
        return self._sid

    def detach(self, sid: int) -> None:
        """End a subscription made by :meth:`attach`."""
        if self._direct.pop(sid, None) is not None and self.alive:
            self._queue_command(b"UNSUB %d \r\n" % sid)

    def stream_context(self) -> JetStreamContext:
        """Return the JetStream context of this connection."""
        if self._js is None:
            self._js = self.jetstream()
        return self._js

    async def shutdown(self, *, drain: float = 0.0) -> None:
        """Close: with ``drain`` seconds first for requests in flight and queued data to leave."""
        if self._closer is None:
            self._closer = asyncio.get_running_loop().create_task(self._shut_down(drain), name="bus-close")
        try:
            await asyncio.shield(self._closer)
        except asyncio.CancelledError:
            # Closing is bounded; abandoned half-way it would leave its socket behind.
            await asyncio.wait({self._closer})
            raise

    async def _shut_down(self, drain: float) -> None:
        if drain > 0 and self.alive:
            with contextlib.suppress(*_SOURCE_LOST, TimeoutError):
                async with asyncio.timeout(drain):
                    await self._settle()
        self._fail(ClosedByUs("the connection was closed by this end"))
        subscriptions = list(self._subs.values())
        tasks = [self._reading_task, self._ping_interval_task, self._flusher_task]
        tasks += [subscription._wait_for_msgs_task for subscription in subscriptions]
        for subscription in subscriptions:
            subscription._stop_processing()
            for call in (subscription._pending_next_msgs_calls or {}).values():
                call.cancel()
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._subs.clear()
        self._direct.clear()
        transport = cast("BusTransport | None", self._transport)
        if transport is not None:
            transport.close()
            await transport.wait_closed()
        self._status = Client.CLOSED

    async def _settle(self) -> None:
        if self._resp_map:
            await asyncio.wait(list(self._resp_map.values()))
        await self.flush(timeout=cast(int, self._bus.limits.flush_timeout))

    # What nats-py calls: the parts replaced

    async def _swallow(self, error: Exception) -> None:
        """Take errors that also arrive another way, so that nats-py does not log tracebacks."""

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        await self.shutdown()

    async def _select_next_server(self) -> None:
        # The base loops over its pool for ever, or until its attempts run out, even when told not to.
        server: Srv = self._server_pool[0]
        self._current_server = server
        limits = self._bus.limits
        timeout = limits.connect_timeout
        if server.uri.scheme in ("ws", "wss"):
            websocket = CoalescingWebSocketTransport(
                max_frame_bytes=limits.max_frame_bytes,
                close_timeout=limits.close_timeout,
                server_hostname=self._bus.server_hostname,
            )
            self._transport = websocket
            if server.uri.scheme == "wss":
                await websocket.connect_tls(server.uri, self.ssl_context, DEFAULT_BUFFER_SIZE, timeout)
            else:
                await websocket.connect(server.uri, DEFAULT_BUFFER_SIZE, timeout)
        else:
            self._transport = BoundedTcpTransport(close_timeout=limits.close_timeout)
            await self._transport.connect(server.uri, DEFAULT_BUFFER_SIZE, cast(int, timeout))

    async def _process_connect_init(self) -> None:
        # The base takes the first bytes after CONNECT for the answer, whatever they are.
        self._status = Client.CONNECTING
        await self._read_until(lambda: bool(self._server_info))
        if self._server_info.get("auth_required"):
            self._auth_configured = True
        transport = cast(BusTransport, self._transport)
        if isinstance(transport, BoundedTcpTransport):
            await self._upgrade(transport)
        pong: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pongs = [pong]
        transport.write(self._connect_command() + PING_PROTO)
        await transport.drain()
        await self._read_until(pong.done)
        self._status = Client.CONNECTED
        loop = asyncio.get_running_loop()
        self._reading_task = loop.create_task(self._read_loop(), name="bus-read")
        self._ping_interval_task = loop.create_task(self._ping_interval(), name="bus-ping")
        self._flusher_task = loop.create_task(self._flusher(), name="bus-flush")

    async def _upgrade(self, transport: BoundedTcpTransport) -> None:
        server = cast(Srv, self._current_server)
        wanted, offered = server.uri.scheme == "tls", bool(self._server_info.get("tls_required"))
        if wanted != offered:
            raise NotABus(
                "the server demands TLS" if offered else "the server does not offer TLS on this port"
            )
        if wanted:
            hostname = self._bus.server_hostname or cast(str, server.uri.hostname)
            timeout = cast(int, self._bus.limits.connect_timeout)
            await transport.connect_tls(hostname, self.ssl_context, DEFAULT_BUFFER_SIZE, timeout)

    async def _read_until(self, done: Callable[[], bool]) -> None:
        transport = cast(BusTransport, self._transport)
        while not done():
            data = await transport.read(DEFAULT_BUFFER_SIZE)
            if not data:
                raise ClosedByPeer("the server closed the connection during the handshake")
            try:
                await self._ps.parse(data)
            except (nats_errors.ProtocolError, ValueError):
                raise NotABus("what answers there does not speak the NATS protocol") from None
            if self.lost.done():
                raise self.lost.result()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # connect_urls is left out on purpose: it names nats:// ports that a rack must never try.
        self._server_info = {**self._server_info, **info}
        self._max_payload = int(self._server_info.get("max_payload", self._max_payload))
        self._client_id = self._server_info.get("client_id", self._client_id)

    async def _process_err(self, err_msg: str) -> None:
        text = err_msg.strip("'")
        if PERMISSIONS_ERR in text:
            self._denied(text)
        else:
            self._fail(ServerError(text))

    async def _process_op_err(self, e: Exception) -> None:
        if isinstance(e, ErrStaleConnection):
            limits = self._bus.limits
            e = SilentPeer(
                f"the peer left {limits.max_unanswered_pings} pings of {limits.ping_interval:g} s unanswered"
            )
        self._fail(e)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        deliver = self._direct.get(sid)
        if deliver is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        parsed = await self._process_headers(headers) if headers else None
        deliver(BusMessage(subject.decode(), data, reply.decode(), parsed))

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        """Parse a header block; one that cannot be parsed, which anybody can send, is a header with nothing in it."""
        if not headers:
            return None
        try:
            return await super()._process_headers(headers) or {}
        except Exception:  # the client trips over a block that is too short, or not text
            return {}

    async def _read_loop(self) -> None:
        transport = cast(BusTransport, self._transport)
        try:
            while True:
                data = await transport.read(DEFAULT_BUFFER_SIZE)
                if not data:
                    raise ClosedByPeer("the server closed the connection")
                await self._ps.parse(data)
        except Exception as error:  # whatever it is, the connection cannot be used any more
            self._fail(error)

    async def _flusher(self) -> None:
        transport = cast(BusTransport, self._transport)
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._pending_data_size > 0:
                    chunks, self._pending = self._pending, []
                    self._pending_data_size = 0
                    transport.writelines(chunks)
                    await transport.drain()
                self._drained.set()
        except Exception as error:  # as in the read loop
            self._fail(error)

    async def _flush_pending(self, force_flush: bool = False) -> None:
        self._wake.set()
        while force_flush and self._pending_data_size > self._max_pending_size:
            if self.lost.done():
                raise nats_errors.ConnectionClosedError
            self._drained.clear()
            await self._drained.wait()

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # nats-py writes a ping past what is still queued, so its answer would confirm nothing of it.
        self._pongs.append(future if future is not None else asyncio.get_running_loop().create_future())
        self._queue_command(PING_PROTO)

    def _queue_command(self, command: bytes) -> None:
        self._pending.append(command)
        self._pending_data_size += len(command)
        self._wake.set()

    def _fail(self, error: Exception) -> None:
        """Mark the connection lost, and fail whatever waits on it."""
        if self.lost.done():
            return
        self._status = Client.DISCONNECTED
        self._err = error
        self.lost.set_result(error)
        for waiter in [*self._pongs, *self._resp_map.values()]:
            if not waiter.done():
                waiter.set_exception(nats_errors.ConnectionClosedError())
                waiter.exception()  # a ping nobody awaits must not warn about its exception
        self._drained.set()


def _provided(what: str, provider: Callable[[], T]) -> T:
    """Call a provider of credentials; its own error may quote a secret, so only its type is told."""
    try:
        return provider()
    except Exception as error:
        raise CredentialsUnavailable(f"our {what} is not available ({type(error).__name__})") from None


def _header_block(headers: dict[str, str]) -> bytes:
    lines = [f"{name.strip()}: {' '.join(value.split())}" for name, value in headers.items()]
    return ("NATS/1.0\r\n" + "".join(line + "\r\n" for line in lines) + "\r\n").encode()
