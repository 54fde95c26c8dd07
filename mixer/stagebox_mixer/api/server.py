"""uvicorn inside the mixer: our own sockets, our own TLS context, and the peer certificate in the scope.

uvicorn does not pass the client certificate on, so a protocol subclass reads it from the connection and puts
the chain it proved into ``scope["extensions"]["stagebox.peer"]``. Nor does it end connections that never finish a
request; the same subclass does, and bounds how many there are, so that nobody holds memory and descriptors by waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from stagebox.errors import ConfigError
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.source_rate import source_of

PEER = "stagebox.peer"


class PeerCertificateProtocol(H11Protocol):
    """HTTP/1.1 with the DER of the verified client certificate in the scope."""

    _timer: asyncio.TimerHandle | None = None
    source = ""

    def connection_made(self, transport: Any) -> None:
        """Remember the certificate the peer proved in the handshake, if it gave one."""
        super().connection_made(transport)
        self.source = source_of(self.client[0]) if self.client else ""
        if self._are_too_many():
            transport.abort()
            return
        self._wait_for_request()
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        peer = tls.getpeercert(binary_form=True) if tls is not None else None
        inner = self.app

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:
            extensions = {**scope.get("extensions", {}), PEER: peer}
            await inner({**scope, "extensions": extensions}, receive, send)

        self.app = with_peer

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _are_too_many(self) -> bool:
        same = sum(getattr(other, "source", None) == self.source for other in self.connections)
        return len(self.connections) > LIMITS.api_connections or same > LIMITS.api_connections_per_source

    def _wait_for_request(self) -> None:
        self._timer = self.loop.call_later(LIMITS.api_request_s, self._look, self.cycle)

    def _look(self, before: object) -> None:
        """End the connection if a whole interval brought no request, or not the rest of one."""
        if self.cycle is before and self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self.transport.abort()
            return
        self._wait_for_request()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the mixer."""
        yield


class ApiServer:
    """Serves ``app`` over HTTPS on an already bound socket."""

    def __init__(self, app: FastAPI, listener: socket.socket, context: ssl.SSLContext) -> None:
        config = uvicorn.Config(
            app,
            http=PeerCertificateProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(LIMITS.api_shutdown_s),
            h11_max_incomplete_event_size=LIMITS.request_body_bytes,
        )
        config.load()
        config.ssl = context
        self._server = _Server(config)
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether it serves."""
        return self._task is not None and not self._task.done()

    async def start(self) -> None:
        """Begin to serve; returns when connections are accepted."""
        self._task = asyncio.create_task(self._server.serve([self._listener]), name="api")
        while not self._server.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.002)

    async def stop(self) -> None:
        """Finish the requests under way, then end."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
            self._task = None


def bind(host: str, port: int, flag: str) -> socket.socket:
    """Bind a listening socket.

    Raises:
        ConfigError: the port is taken or not allowed; names the port and ``flag``.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; else every answer waits 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            remedy=f"stop what uses it, or choose another port with {flag}",
        ) from None
    listener.setblocking(False)
    return listener


def check_port_free(host: str, port: int, flag: str) -> None:
    """Check that a child process will be able to listen there.

    Raises:
        ConfigError: the port is taken or not allowed; names the port and ``flag``.
    """
    if port:
        bind(host, port, flag).close()
