"""A TCP proxy on loopback whose network can be made bad while a test runs.

Undisturbed it is transparent: bytes, half-closes and resets pass in order, and who does not read slows who writes. A
direction holds at most ``BUFFER_BYTES + CHUNK_BYTES``, so latency bounds its throughput. What the kernel has connected
when a switch is turned counts as accepted before. The exit resets what is still live.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from typing import Self

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024
BUFFER_BYTES = 1024 * 1024
_LEAST_COST = 256  # what a held chunk counts for however short it is, so that tiny ones are bounded too


class _Pipe:
    """One direction of a connection: what was read, when, and not yet written. None stands for a reset."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        source.setblocking(False)
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.queue: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue()
        self.held = 0
        self.room, self.ended = asyncio.Event(), asyncio.Event()
        self.room.set()
        self.broken = False  # the sink was found dead

    def hold(self, data: bytes, sign: int = 1) -> None:
        self.held += sign * max(len(data), _LEAST_COST)
        (self.room.clear if self.held >= BUFFER_BYTES else self.room.set)()


class FaultProxy:
    """``async with FaultProxy(target_port) as proxy``: what connects to ``proxy.port`` reaches the target.

    ``port`` is what to listen on; one that is free unless given.
    """

    def __init__(self, target_port: int, port: int = 0) -> None:
        self._target_port, self.port = target_port, port
        self.latency_s = 0.0  # what bytes, ends and resets wait in each direction
        self.slice_bytes = 0  # the most that is forwarded in one piece; 0 for no bound
        self._black = self._refusing = False
        self._cleared = asyncio.Event()  # replaced at every clear
        self._links: dict[asyncio.Task[None], tuple[_Pipe, _Pipe]] = {}

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server((HOST, self.port), backlog=128)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.reset()
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for result in await asyncio.gather(*self._links, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    @property
    def connections(self) -> int:
        """How many connections are live, those in the black hole included."""
        return sum(there.source.fileno() >= 0 for there, _ in self._links.values())

    @property
    def held(self) -> int:
        """The most that a direction of any connection holds in memory, in bytes."""
        return max((pipe.held for pipes in self._links.values() for pipe in pipes), default=0)

    def black_hole(self) -> None:
        """Accept and keep connections, and forward nothing, not even an end, until ``clear``."""
        self._black = True

    def refuse(self) -> None:
        """Close new connections at once until ``clear``; live ones go on."""
        self._accept()
        self._refusing = True

    def clear(self) -> None:
        """End every fault; what was held goes on its way at once."""
        self._accept()
        self._black = self._refusing = False
        self.latency_s, self.slice_bytes = 0.0, 0
        self._cleared.set()
        self._cleared = asyncio.Event()

    def reset(self) -> None:
        """Reset every live connection at both ends; what was on its way is lost. New ones are served."""
        self._accept()
        for task, pipes in self._links.items():
            _close(*pipes, abort=True)
            task.cancel()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                client, target = self._listener.accept()[0], socket.socket()
                there, back = _Pipe(client, target), _Pipe(target, client)
                if self._refusing:
                    _close(there, back)
                    continue
                self._links[task := asyncio.create_task(self._serve(there, back))] = there, back
                task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        _close(*self._links[task])
        if task.cancelled() or task.exception() is None:  # a failure is kept, and raised at the exit
            del self._links[task]

    async def _serve(self, there: _Pipe, back: _Pipe) -> None:
        await self._passable()
        try:
            await asyncio.get_running_loop().sock_connect(there.sink, (HOST, self._target_port))
            async with asyncio.TaskGroup() as group:
                for pipe, other in ((there, back), (back, there)):
                    group.create_task(self._fill(pipe, other))
                    group.create_task(self._pour(pipe, other))
        except* OSError:
            _close(there, back, abort=True)

    async def _fill(self, pipe: _Pipe, other: _Pipe) -> None:
        data: bytes | None = b"-"
        while data:
            await pipe.room.wait()
            try:
                await _ready(pipe.source)
                await self._passable()
                # A write that found it dead was told of the reset, and a read is not told again.
                data = pipe.source.recv(CHUNK_BYTES) or (None if other.broken else b"")
            except OSError:
                data = None
            pipe.hold(data or b"")
            pipe.queue.put_nowait((asyncio.get_running_loop().time(), data))

    async def _pour(self, pipe: _Pipe, other: _Pipe) -> None:
        data: bytes | None = b"-"
        while data:
            arrived, data = await pipe.queue.get()
            await self._passable(arrived)
            if data is None:
                raise ConnectionResetError
            try:
                await self._write(pipe.sink, data, arrived)
            except OSError:  # what the dead sink said before is still delivered, and then the reset
                pipe.broken = True
                pipe.ended.set()
                await other.ended.wait()
                await self._passable()
                raise
            pipe.hold(data, -1)
        pipe.ended.set()

    async def _write(self, sink: socket.socket, data: bytes, arrived: float) -> None:
        rest = memoryview(data)
        while rest:
            await self._passable(arrived)
            try:
                rest = rest[sink.send(rest[: self.slice_bytes or None]) :]
            except BlockingIOError:
                await _ready(sink, write=True)
            for _ in range(2 if self.slice_bytes else 0):  # then a reader in this loop has seen it alone
                await asyncio.sleep(0)
        if not data:
            sink.shutdown(socket.SHUT_WR)

    async def _passable(self, arrived: float = -math.inf) -> None:
        """Return when what arrived at that time of the loop may pass."""
        while self._black or arrived + self.latency_s > asyncio.get_running_loop().time():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(None if self._black else arrived + self.latency_s):
                    await self._cleared.wait()


async def _ready(sock: socket.socket, *, write: bool = False) -> None:
    """Return when the socket may be read or written; nothing is taken from it, so cancelling loses nothing."""
    if sock.fileno() < 0:
        raise ConnectionResetError
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    (loop.add_writer if write else loop.add_reader)(sock, ready.set)
    try:
        await ready.wait()
    finally:
        if sock.fileno() >= 0:  # else _close has removed it, and its number may be another's by now
            (loop.remove_writer if write else loop.remove_reader)(sock)


def _close(*pipes: _Pipe, abort: bool = False) -> None:
    loop = asyncio.get_running_loop()
    for sock in (pipe.source for pipe in pipes if pipe.source.fileno() >= 0):
        loop.remove_reader(sock)
        loop.remove_writer(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", abort, 0))
        sock.close()
