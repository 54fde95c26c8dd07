"""Hosts that were taken over: real processes and threads that know the protocol and keep to none of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting import process
from stagebox_rack.modules.hosting.chain import Chain
from stagebox_rack.modules.hosting.lane import ANSWERED, ASKED, REPLY, STATUS, WET, Lane
from stagebox_rack.modules.hosting.places import ChainPlace
from stagebox_rack.modules.hosting.process import Answer
from support.hosting import RATE


class Captor:
    """The other side of one chain, as a thread of ours: ``lane`` and ``reply`` are what its host is given."""

    def __init__(self) -> None:
        self.lane: Lane
        self.reply = -1

    async def ask(self, verb: str, fields: dict[str, Any], descriptors: Sequence[int] = ()) -> Answer:
        """Take what a host is given of a chain."""
        memory, reply = descriptors
        self.lane = Lane(memory, fields["Rate"] // 50, fields["Channels"], LIMITS.module_lane_blocks)
        self.reply = os.dup(reply)
        return Answer()

    def kill(self, reason: str = "") -> None:
        """Nothing can be done about it."""

    def answer(self) -> None:
        """Say that what was asked is done, and audible."""
        header = self.lane.header
        header[STATUS], header[ANSWERED] = WET, header[ASKED]
        os.write(self.reply, REPLY.pack(header[ASKED]))


class Taken:
    """A chain whose host does what ``obey`` does whenever it is rung."""

    def __init__(self, obey: Callable[[Captor], None]) -> None:
        self.captor = Captor()
        self._obey = obey
        self._heard, self._bell = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._bell, False)
        self._place = ChainPlace("hall", 0, RATE, 1, self._bell)
        self._thread = threading.Thread(target=self._run, name="hostile")

    @property
    def chain(self) -> Chain:
        return self._place.chain

    async def __aenter__(self) -> Taken:
        await self._place.attach(self.captor)
        self._place.switch(placed=True, running=True, hosted=True)
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        os.close(self._bell)
        self._thread.join(10)
        os.close(self._heard)
        os.close(self.captor.reply)
        self.captor.lane.close()
        await self._place.close()

    def _run(self) -> None:
        while os.read(self._heard, 4096):
            self._obey(self.captor)


@contextmanager
def hosts_that(body: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let hosts be ours with the methods of ``body``, in which ``self`` is the host."""
    script = "from stagebox_rack.modules.hosting import child\nclass Hostile(child.Child):\n"
    script += "\n".join(f"    {line}" for line in body.strip().splitlines())
    script += "\nchild.Child = Hostile\nchild.main()\n"

    def start(control: int, bell: int, page: int, stderr: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", script, str(os.getpid()), str(control), str(bell), str(page)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=(control, bell, page),
            start_new_session=True,
        )

    with monkeypatch.context() as patched:
        patched.setattr(process, "_start", start)
        yield
