"""The fault proxy is transparent until a fault is switched on, does each fault, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

import pytest

from support.fault_proxy import BUFFER_BYTES, CHUNK_BYTES, HOST, FaultProxy
from support.leaks import eventually, no_leaks

pytestmark = pytest.mark.usefixtures("leak_check")

LONG_S = 3600.0
T = TypeVar("T")


class Peer:
    """One end of a connection, with what it received in the pieces it came in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read(self, size: int) -> bytes:
        return await soon(self.reader.readexactly(size))

    async def rest(self) -> bytes:
        return await soon(self.reader.read())

    def abort(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class Scene:
    """A target that hands out its connections, the proxy before it, and clients."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self.peers: list[Peer] = []
        self.target_port = 0
        self.proxy = FaultProxy(0)

    async def client(self) -> Peer:
        return self._peer(*await soon(asyncio.open_connection(HOST, self.proxy.port)))

    async def target(self) -> Peer:
        return await soon(self.accepted.get())

    async def pair(self) -> tuple[Peer, Peer]:
        return await self.client(), await self.target()

    def _peer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Peer:
        self.peers.append(Peer(reader, writer))
        return self.peers[-1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.put_nowait(self._peer(reader, writer))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Scene]:
        server = await asyncio.start_server(self._accept, HOST, 0)
        self.target_port = server.sockets[0].getsockname()[1]
        try:
            async with FaultProxy(self.target_port) as self.proxy:
                yield self
        finally:
            server.close()
            for peer in self.peers:
                await peer.close()
            await server.wait_closed()


@pytest.fixture
async def scene(leak_check: None) -> AsyncIterator[Scene]:
    async with Scene().running() as scene:
        yield scene


async def soon(awaitable: Awaitable[T]) -> T:
    async with asyncio.timeout(5):
        return await awaitable


async def turns(count: int = 100) -> None:
    """Let everything happen that can happen by now: loopback hands data over without delay."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_undisturbed_bytes_and_ends_pass_in_both_directions(scene: Scene) -> None:
    client, target = await scene.pair()
    data = os.urandom(3 * CHUNK_BYTES + 1)
    await client.send(b"ask")
    assert await target.read(3) == b"ask"
    client.writer.write_eof()
    assert await target.rest() == b""
    await target.send(data)
    await target.close()
    assert await client.rest() == data
    await eventually(lambda: scene.proxy.connections == 0)


async def test_a_reset_by_either_end_reaches_the_other(scene: Scene) -> None:
    client, target = await scene.pair()
    client.abort()
    with pytest.raises(ConnectionResetError):
        await target.rest()
    client, target = await scene.pair()
    target.abort()
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_what_was_said_before_a_reset_arrives_before_it(scene: Scene) -> None:
    client, target = await scene.pair()
    scene.proxy.latency_s = LONG_S
    await client.send(b"unheard")
    await target.send(bytes(1000))
    await turns()
    target.abort()
    await turns()
    scene.proxy.clear()
    scene.proxy.slice_bytes = 7  # many turns, while the write to the target fails in the first
    assert await client.read(1000) == bytes(1000)
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_a_reset_that_only_a_write_is_told_of_is_no_end(scene: Scene) -> None:
    client, target = await scene.pair()
    scene.proxy.latency_s = LONG_S
    await client.send(b"unheard")
    await eventually(lambda: scene.proxy.held > 0)
    scene.proxy.black_hole()
    target.abort()
    await turns()
    scene.proxy.clear()  # wakes who has waited longest first: the write
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_a_target_that_is_not_there_resets_the_client() -> None:
    with socket.create_server((HOST, 0)) as nobody:
        port = nobody.getsockname()[1]
    async with FaultProxy(port) as proxy:
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        with pytest.raises(ConnectionResetError):
            await soon(reader.read())
        writer.close()


async def test_latency_delays_each_direction(scene: Scene) -> None:
    client, target = await scene.pair()
    scene.proxy.latency_s = 0.05
    clock = asyncio.get_running_loop().time
    start = clock()
    await client.send(b"there")
    await target.read(5)
    there = clock()
    await target.send(b"back")
    await client.read(4)
    assert there - start >= 0.05
    assert clock() - there >= 0.05


async def test_latency_does_not_add_up_over_the_pieces_on_their_way(scene: Scene) -> None:
    client, target = await scene.pair()
    scene.proxy.latency_s = latency = 0.2
    pieces, clock = 12, asyncio.get_running_loop().time
    start = clock()
    await asyncio.gather(client.send(bytes(pieces * CHUNK_BYTES)), target.read(pieces * CHUNK_BYTES))
    assert latency <= clock() - start < pieces * latency


async def test_clear_lets_go_at_once_what_latency_held(scene: Scene) -> None:
    client, target = await scene.pair()
    scene.proxy.latency_s = LONG_S
    await client.send(b"late")
    await eventually(lambda: scene.proxy.held > 0)
    scene.proxy.clear()
    assert await target.read(4) == b"late"
    assert scene.proxy.latency_s == 0


async def test_a_black_hole_keeps_everything_until_it_is_cleared(scene: Scene) -> None:
    client, target = await scene.pair()
    scene.proxy.black_hole()
    late = await scene.client()
    await client.send(b"one")
    await late.send(b"two")
    client.writer.write_eof()
    target.abort()
    await eventually(lambda: scene.proxy.connections == 2)
    await turns()
    assert scene.accepted.empty()
    assert not client.reader.at_eof()
    assert client.reader.exception() is None
    assert scene.proxy.held == 0
    scene.proxy.clear()
    with pytest.raises(ConnectionResetError):
        await client.rest()
    assert await (await scene.target()).read(3) == b"two"


async def test_a_black_hole_keeps_bytes_and_their_end_in_order(scene: Scene) -> None:
    client, target = await scene.pair()
    scene.proxy.latency_s = LONG_S
    await client.send(b"held ")
    await eventually(lambda: scene.proxy.held > 0)
    scene.proxy.black_hole()
    scene.proxy.latency_s = 0
    await client.send(b"and more")
    client.writer.write_eof()
    reading = asyncio.create_task(target.rest())
    await turns()
    assert not reading.done()
    scene.proxy.clear()
    assert await reading == b"held and more"


async def test_a_black_hole_stops_what_is_half_forwarded(scene: Scene) -> None:
    client, target = await scene.pair()
    scene.proxy.slice_bytes = 7
    data = os.urandom(1000)
    await client.send(data)
    first = await target.read(7)
    scene.proxy.black_hole()
    rest = asyncio.create_task(target.read(len(data) - 7))
    await turns(1000)
    assert not rest.done()
    scene.proxy.clear()
    assert first + await rest == data


async def test_reset_ends_live_held_and_waiting_connections_at_both_ends(scene: Scene) -> None:
    client, target = await scene.pair()
    scene.proxy.black_hole()
    held = await scene.client()
    await eventually(lambda: scene.proxy.connections == 2)
    with socket.create_connection(
        (HOST, scene.proxy.port)
    ) as waiting:  # the loop has had no turn to accept it
        scene.proxy.reset()
        assert scene.proxy.connections == 0
        with pytest.raises(ConnectionResetError):
            waiting.recv(1)
    for peer in (client, target, held):
        with pytest.raises(ConnectionResetError):
            await peer.rest()
    scene.proxy.clear()
    client, target = await scene.pair()
    await client.send(b"again")
    assert await target.read(5) == b"again"


async def test_slices_arrive_one_by_one_and_whole(scene: Scene) -> None:
    client, target = await scene.pair()
    scene.proxy.slice_bytes = 7
    data = os.urandom(1000)
    await client.send(data)
    client.writer.write_eof()
    pieces = []
    while piece := await soon(target.reader.read(len(data))):
        pieces.append(piece)
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= 7
    scene.proxy.clear()
    await target.send(data)
    assert await client.reader.read(len(data)) == data


async def test_refuse_closes_new_connections_and_no_live_one(scene: Scene) -> None:
    client, target = await scene.pair()
    scene.proxy.refuse()
    refused = await scene.client()
    assert await refused.rest() == b""
    await client.send(b"still here")
    assert await target.read(10) == b"still here"
    assert scene.accepted.empty()
    assert scene.proxy.connections == 1
    scene.proxy.clear()
    await scene.pair()


@pytest.mark.parametrize("latency_s", [0.0, 0.01])
async def test_who_does_not_read_slows_who_writes_within_bounded_memory(
    scene: Scene, latency_s: float
) -> None:
    client, target = await scene.pair()
    scene.proxy.latency_s = latency_s
    size = 32 * 1024 * 1024
    sending = asyncio.create_task(client.send(bytes(size)))
    await eventually(lambda: scene.proxy.held >= BUFFER_BYTES)
    await turns()
    assert scene.proxy.held <= BUFFER_BYTES + CHUNK_BYTES
    assert not sending.done()
    scene.proxy.latency_s = 0
    await target.read(size)
    await soon(sending)
    await eventually(lambda: scene.proxy.held == 0)


async def test_tiny_pieces_are_bounded_too(scene: Scene) -> None:
    client, _ = await scene.pair()
    scene.proxy.latency_s = LONG_S
    for _ in range(BUFFER_BYTES // 256 + 50):
        client.writer.write(b"x")
        await turns(3)
    assert BUFFER_BYTES <= scene.proxy.held <= BUFFER_BYTES + CHUNK_BYTES


async def test_the_exit_leaves_nothing_whatever_state_connections_are_in() -> None:
    async with no_leaks():
        with socket.socket() as waiting:
            async with Scene().running() as scene:
                await scene.pair()
                stalled, _ = await scene.pair()
                stalled.writer.write(bytes(32 * 1024 * 1024))
                await eventually(lambda: scene.proxy.held >= BUFFER_BYTES)
                scene.proxy.latency_s = LONG_S
                delayed, _ = await scene.pair()
                await delayed.send(b"on its way")
                await turns()
                scene.proxy.black_hole()
                await scene.client()
                waiting.settimeout(5)
                waiting.connect((HOST, scene.proxy.port))
            with pytest.raises(ConnectionResetError):
                waiting.recv(1)


async def test_the_exit_leaves_nothing_when_the_test_failed() -> None:
    async with no_leaks():
        with pytest.raises(ZeroDivisionError):
            async with Scene().running() as scene:
                await scene.pair()
                raise ZeroDivisionError
