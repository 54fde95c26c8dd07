from __future__ import annotations

import asyncio
import itertools
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.transport import Transport

from stagebox.bus.connection import Connection
from stagebox.bus.transport import CoalescingWebSocketTransport

REPLACED = [
    "_close",
    "_select_next_server",
    "_process_connect_init",
    "_process_info",
    "_process_err",
    "_process_op_err",
    "_process_headers",
    "_process_msg",
    "_read_loop",
    "_flusher",
    "_flush_pending",
]
USED = ["_process_headers", "_connect_command", "_ping_interval", "jetstream", "flush", "request"]


class RecordingSocket:
    """Stands for the WebSocket: keeps frames, and lets other tasks run in the middle of each send."""

    closed = False

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    async def send_bytes(self, data: bytes) -> None:
        self.frames.append(data)
        await asyncio.sleep(0)


def transport_over(socket: RecordingSocket, max_frame: int) -> CoalescingWebSocketTransport:
    transport = CoalescingWebSocketTransport(max_frame_bytes=max_frame, close_timeout=0.1)
    transport._ws = cast(Any, socket)
    return transport


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=60), st.integers(1, 200))
def test_joined_frames_carry_the_same_bytes_and_keep_the_bound(chunks: list[bytes], bound: int) -> None:
    async def run() -> list[bytes]:
        socket = RecordingSocket()
        transport = transport_over(socket, bound)
        transport.writelines(chunks)
        await transport.drain()
        return socket.frames

    frames = asyncio.run(run())
    assert b"".join(frames) == b"".join(chunks)
    assert all(len(frame) <= bound or frame in chunks for frame in frames)
    assert all(len(a) + len(b) > bound for a, b in itertools.pairwise(frames) if b not in chunks)


async def test_a_hundred_small_messages_leave_in_one_frame() -> None:
    socket = RecordingSocket()
    transport = transport_over(socket, 65536)
    for index in range(100):
        transport.write(b"PUB a 1\r\n%d\r\n" % (index % 10))
    await transport.drain()
    assert len(socket.frames) == 1


async def test_two_drains_at_once_keep_the_order() -> None:
    socket = RecordingSocket()
    transport = transport_over(socket, 8)
    transport.writelines([b"%04d" % index for index in range(40)])
    first = asyncio.create_task(transport.drain())
    await asyncio.sleep(0)
    transport.writelines([b"%04d" % index for index in range(40, 80)])
    await asyncio.gather(first, transport.drain())
    assert b"".join(socket.frames) == b"".join(b"%04d" % index for index in range(80))


def test_nats_py_still_has_what_the_connection_replaces_and_uses() -> None:
    for name in REPLACED:
        assert name in vars(Client), f"nats-py has no {name} any more: look at stagebox.bus.connection again"
        assert name in vars(Connection)
    for name in USED:
        assert hasattr(Client, name)
    assert {"connect", "connect_tls", "drain", "read", "readline", "close"} <= set(dir(Transport))
