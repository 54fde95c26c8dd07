"""The bytes of one connection: a WebSocket that coalesces its writes, and TCP that closes in bounded time.

Rules: everything queued goes out in order, joined into as few frames as the frame bound allows; a close never
waits on a dead peer, because after a short polite goodbye the socket is aborted; nothing outlives a close.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import ParseResult

import aiohttp
from nats.aio.transport import TcpTransport, WebSocketTransport

from stagebox.bus.causes import ClosedByPeer, NotABus


class CoalescingWebSocketTransport(WebSocketTransport):
    """A nats-py WebSocket transport that sends all queued chunks as one binary frame.

    nats-py's own sends one frame per chunk, which costs a TLS record and a wake-up of the peer each.
    """

    def __init__(
        self, *, max_frame_bytes: int, close_timeout: float, server_hostname: str | None = None
    ) -> None:
        # Deliberately not calling the base: it would make a session of its own and leave it open.
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._session: aiohttp.ClientSession | None = None
        self._raw: asyncio.Transport | None = None
        self._queued: deque[bytes] = deque()
        self._max_frame_bytes = max_frame_bytes
        self._close_timeout = close_timeout
        self._server_hostname = server_hostname
        self._closing: asyncio.Task[None] | None = None

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:
        """Open ``ws://``. The caller bounds the time."""
        await self._open(uri.geturl(), None)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: float,
    ) -> None:
        """Open ``wss://``. The caller bounds the time."""
        await self._open(uri if isinstance(uri, str) else uri.geturl(), ssl_context)

    async def _open(self, url: str, context: ssl.SSLContext | None) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        try:
            self._ws = await self._session.ws_connect(
                url,
                ssl=context if context is not None else True,
                server_hostname=self._server_hostname,
                timeout=aiohttp.ClientWSTimeout(ws_close=self._close_timeout),
                compress=0,
                heartbeat=None,
                max_msg_size=0,
            )
        except aiohttp.WSServerHandshakeError as error:
            raise NotABus(f"the server answered the WebSocket handshake with HTTP {error.status}") from None
        connection = cast(Any, self._ws)._response.connection
        self._raw = connection.transport if connection is not None else None

    def write(self, payload: bytes) -> None:
        """Queue a chunk; :meth:`drain` sends it."""
        self._queued.append(payload)

    def writelines(self, payload: Iterable[bytes]) -> None:
        """Queue chunks; :meth:`drain` sends them."""
        self._queued.extend(payload)

    async def drain(self) -> None:
        """Send everything queued, in order, in frames of at most ``max_frame_bytes`` (or one chunk).

        Frames are cut off the shared queue one at a time, so that two concurrent drains cannot reorder.
        """
        while self._queued:
            if self._ws is None:
                raise ClosedByPeer("the WebSocket is not open")
            await self._ws.send_bytes(self._next_frame())

    def _next_frame(self) -> bytes:
        queued = self._queued
        first = queued.popleft()
        if not queued:
            return first
        chunks, size = [first], len(first)
        while queued and size + len(queued[0]) <= self._max_frame_bytes:
            size += len(queued[0])
            chunks.append(queued.popleft())
        return b"".join(chunks)

    async def read(self, buffer_size: int) -> bytes:
        """Return the next message's bytes, or ``b""`` when the peer closed."""
        return await self.readline()

    async def readline(self) -> bytes:
        """Return the next message's bytes, or ``b""`` when the peer closed.

        Raises:
            ConnectionError: the connection broke; the cause is chained.
        """
        if self._ws is None:
            return b""
        message = await self._ws.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            return cast(bytes, message.data)
        if message.type is aiohttp.WSMsgType.ERROR:
            raise ConnectionError("the WebSocket broke") from cast(BaseException, message.data)
        return b""

    def close(self) -> None:
        """Begin closing."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._shut())

    async def wait_closed(self) -> None:
        """Wait for the close, which is bounded by the close timeout."""
        self.close()
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def _shut(self) -> None:
        try:
            if self._ws is not None and not self._ws.closed:
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(self._close_timeout):
                        await self._ws.close()
        finally:
            self._queued.clear()
            if self._raw is not None:
                # A graceful TLS close would keep the descriptor for up to 30 s if the peer is gone.
                self._raw.abort()
            if self._session is not None:
                await self._session.close()
            await asyncio.sleep(0)  # lets the loop run the abort, which closes the descriptor

    def at_eof(self) -> bool:
        """Tell whether the WebSocket is closed."""
        return self._ws is None or self._ws.closed

    def __bool__(self) -> bool:
        return self._ws is not None

    def ssl_object(self) -> ssl.SSLObject | None:
        """Return the live TLS object, or None on a plain connection."""
        if self._raw is None:
            return None
        return cast("ssl.SSLObject | None", self._raw.get_extra_info("ssl_object"))


class BoundedTcpTransport(TcpTransport):
    """nats-py's TCP transport with a close that cannot hang on a dead peer."""

    def __init__(self, *, close_timeout: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._close_timeout = close_timeout

    async def wait_closed(self) -> None:
        """Wait briefly for a graceful close, then abort."""
        writer = self._io_writer
        if writer is None:
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self._close_timeout):
                await writer.wait_closed()
        writer.transport.abort()
        await asyncio.sleep(0)

    def ssl_object(self) -> ssl.SSLObject | None:
        """Return the live TLS object, or None on a plain connection."""
        writer = self._io_writer
        return None if writer is None else cast("ssl.SSLObject | None", writer.get_extra_info("ssl_object"))


BusTransport = CoalescingWebSocketTransport | BoundedTcpTransport
