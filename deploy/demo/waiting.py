"""Hears from a rack that it is up and waiting for its enrollment: the receiving end of sd_notify(3)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from types import TracebackType
from typing import Self

_DATAGRAM_BYTES = 4096
_READY = b"READY=1"


class ReadySocket:
    """A notification socket in the abstract namespace; ``address`` goes into ``NOTIFY_SOCKET``."""

    def __init__(self) -> None:
        self.address = f"@stagebox-demo-{secrets.token_hex(8)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + self.address[1:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    async def ready(self) -> None:
        """Return when ``READY=1`` has come."""
        loop = asyncio.get_running_loop()
        while True:
            message = await loop.sock_recv(self._socket, _DATAGRAM_BYTES)
            if _READY in message.split(b"\n"):
                return
