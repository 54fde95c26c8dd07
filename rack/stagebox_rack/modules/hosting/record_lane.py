"""A host's side of one feed: records to its telemetry modules, one after the other."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.calls import Moment
from stagebox_rack.modules.hosting.feed import HEAD
from stagebox_rack.modules.hosting.instance import Instance


class RecordLane:
    """One feed as its host sees it."""

    def __init__(self, descriptor: int) -> None:
        self.moment = Moment()
        self._socket = socket.socket(fileno=descriptor)
        self._instances: list[Instance] = []
        self._leaving: list[Instance] = []
        self._rung = False

    @property
    def instances(self) -> Iterable[Instance]:
        """What hears here."""
        return tuple(self._instances)

    def serve(self) -> bool:
        """Note that there is a record, which is a chore: audio goes first."""
        self._rung = True
        return True

    def order(self, wanted: list[tuple[Instance, int]]) -> None:
        """Let exactly these hear, in this order."""
        instances = [one for one, _ in wanted]
        self._leaving += [one for one in self._instances if one not in instances]
        self._instances = instances

    def look(self) -> None:
        """Something was done to an instance; that is looked at in any case."""

    def chores(self) -> bool:
        """Do one thing that is due between two rounds; False if there is none."""
        if self._leaving:
            self._leaving.pop().close()
            return True
        for one in self._instances:
            if one.broken:
                one.repair()
                return True
        return self._rung and self._take()

    def close(self) -> None:
        """End everything that hears here."""
        for one in [*self._instances, *self._leaving]:
            one.close()
        self._instances, self._leaving = [], []
        self._socket.close()

    def _take(self) -> bool:
        try:
            data = self._socket.recv(LIMITS.module_feed_record_bytes + HEAD.size, socket.MSG_DONTWAIT)
        except OSError:
            data = b""
        if len(data) < HEAD.size:
            self._rung = False
            return False
        kind, size = HEAD.unpack_from(data)
        self.moment.start, self.moment.time_ns = 0, time.time_ns()
        subject, record = data[HEAD.size : HEAD.size + size], data[HEAD.size + size :]
        for one in self._instances:
            one.hear(kind, subject, record)
        return True
