"""Records on their way to telemetry modules: bounded by a socket's buffer, never waited for, drops counted."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass

from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.lane import BELL

HEAD = struct.Struct("=BH")
"""Before subject and record: the kind, and the subject's bytes."""

METER, EVENT, ALERT = 1, 2, 3


@dataclass
class FeedCounters:
    """Running totals of one feed."""

    offered: int = 0
    dropped: int = 0


class Feed:
    """One feed. :meth:`offer` may be called from any one thread, all else belongs to the event loop's."""

    def __init__(self, name: str, number: int, bell: int) -> None:
        """Make the socket of lane ``number``; ``bell`` is the descriptor to ring, and stays the caller's.

        Raises:
            OSError: no descriptor is left.
        """
        self.name = name
        self.counters = FeedCounters()
        self.live = False
        """Whether a host takes records; set by who arranges."""
        self._bell = bell
        self._ring = BELL.pack(number)
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)

    def offer(self, kind: int, subject: str, record: bytes) -> bool:
        """Give a wire record of ``kind`` (1 meter, 2 event, 3 alert) to the modules; False if it was dropped."""
        if not self.live:
            return False
        self.counters.offered += 1
        name = subject.encode()
        if len(name) + len(record) <= LIMITS.module_feed_record_bytes:
            with contextlib.suppress(OSError):
                self._ours.send(HEAD.pack(kind, len(name)) + name + record)
                os.write(self._bell, self._ring)
                return True
        self.counters.dropped += 1
        return False

    def drain(self) -> None:
        """Forget what no host took."""
        self.theirs.setblocking(False)
        with contextlib.suppress(OSError):
            while self.theirs.recv(1, socket.MSG_DONTWAIT):
                pass

    def close(self) -> None:
        """Take nothing any more."""
        self.live = False
        self._ours.close()
        self.theirs.close()
