"""What a rack and its host say to each other beside the audio: one CBOR map a packet, descriptors beside it.

The rack believes nothing that a host says: it decodes within bounds, and a host that says what none of ours would
is ended.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from typing import Any

from stagebox import cbor
from stagebox_rack.limits import LIMITS

_ITEMS = 4096
SAID_ITEMS = 32
"""Of what a host says: it nests nothing, and what the rack takes of its time goes by items."""
_DESCRIPTORS = 2


def pack(fields: dict[str, Any]) -> bytes:
    """Return a message."""
    return cbor.encode(fields)


def unpack(data: bytes, items: int = _ITEMS) -> dict[str, Any]:
    """Return the fields of a message of up to ``items`` CBOR items.

    Raises:
        DecodeError: malformed.
    """
    return cbor.expect_map(
        cbor.decode(data, max_bytes=LIMITS.module_message_bytes, max_items=items), "message"
    )


def send(link: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one message.

    Raises:
        BlockingIOError: not now. OSError: nobody is there.
    """
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    link.sendmsg([data], beside)


def receive(link: socket.socket) -> tuple[bytes, list[int]]:
    """Return the next message and the descriptors that came with it; an empty one when the other side is gone.

    Raises:
        BlockingIOError: there is none. OSError: the other side is gone.
    """
    found = array.array("i")
    space = socket.CMSG_LEN(_DESCRIPTORS * found.itemsize)
    data, beside, flags, _ = link.recvmsg(LIMITS.module_message_bytes + 1, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for descriptor in found:
            os.close(descriptor)
        raise OSError("a message was cut short")
    return data, found.tolist()
