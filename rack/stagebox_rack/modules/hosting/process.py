"""One host process, from its start to its end: descriptors, messages, last words. No policy.

It is in a session of its own, has a minimal environment and no descriptor but those it is given, and dies with us.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stagebox import cbor
from stagebox.errors import DecodeError
from stagebox.logs import printable
from stagebox.modules.confinement import environment
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.lane import BELL, CONTROL
from stagebox_rack.modules.hosting.messages import SAID_ITEMS, pack, receive, send, unpack
from stagebox_rack.modules.hosting.stage import Stage


class HostGone(Exception):
    """The host ended before it answered."""


@dataclass(frozen=True)
class Answer:
    """What a host says to what it was told; ``code`` is empty if it was done."""

    code: str = ""
    reason: str = ""


class HostProcess:
    """A running host. ``bells`` are both ends of the pipe it is rung through; they stay the caller's."""

    def __init__(self, bells: tuple[int, int], took: Callable[[dict[str, Any]], None]) -> None:
        """Start it; ``took`` is given its events, and raises `DecodeError` for what is none.

        Raises:
            OSError: it cannot be started.
        """
        self.ended = asyncio.Event()
        self._took = took
        self._bell = bells[1]
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[asyncio.Future[Answer], float]] = {}
        self._answered = time.monotonic()
        self._words = bytearray()
        self._verdict = ""
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as given:
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            given.callback(theirs.close)
            undo.callback(self._control.close)
            self._control.setblocking(False)
            page = Stage.create()
            given.callback(os.close, page)
            self._stage = Stage(page)
            undo.callback(self._stage.close)
            self._stderr, writing = os.pipe()
            given.callback(os.close, writing)
            undo.callback(os.close, self._stderr)
            self._process = _start(theirs.fileno(), bells[0], page, writing)
            undo.callback(self._kill_now)
            self._pidfd = os.pidfd_open(self._process.pid)
            undo.pop_all()
        os.set_blocking(self._stderr, False)
        # Its first answer is to no question: it is ready.
        self.ready = self._promise(0)
        self._loop.add_reader(self._pidfd, self._end)
        self._loop.add_reader(self._control, self._receive)
        self._loop.add_reader(self._stderr, self._listen)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def on_stage(self) -> int:
        """The number of the instance that is called just now, or was when it ended; 0 for none."""
        return int(self._stage.words[Stage.INSTANCE])

    @property
    def words(self) -> str:
        """The end of what it said on its standard error, fit to be printed."""
        return printable(self._words.decode("utf-8", "replace"))

    @property
    def reason(self) -> str:
        """Why it ended."""
        if self._verdict:
            return self._verdict
        code = self._process.returncode
        if code is None:
            return "it runs"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}"
        return f"ended with {code}"

    def silent_for(self, now: float) -> float:
        """How many seconds of monotonic time it has owed the answer that is due; 0 if it owes none.

        It answers in the order it was asked, so one is due from when it was asked, or the one before was answered.
        """
        if not self._asked:
            return 0.0
        _, first = next(iter(self._asked.values()))
        return max(0.0, now - max(self._answered, first))

    async def ask(self, verb: str, fields: dict[str, Any], descriptors: Sequence[int] = ()) -> Answer:
        """Tell it to do something, and return its answer.

        Raises:
            HostGone: it ended before.
        """
        number = next(self._numbers)
        data = pack({**fields, "Do": verb, "ID": number})
        async with self._sending:
            answer = self._promise(number)
            try:
                await self._send(data, descriptors)
            except asyncio.CancelledError:
                self._asked.pop(number, None)  # it was not sent, so nothing is owed
                raise
        return await answer

    def kill(self, reason: str = "") -> None:
        """End it at once; ``reason`` is why, if it is not gone already."""
        if not self.ended.is_set():
            self._verdict = self._verdict or reason
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self) -> None:
        """End it if it did not, and let go of everything."""
        self.kill()
        await self.ended.wait()
        self._listen()
        self._loop.remove_reader(self._control)
        self._loop.remove_reader(self._stderr)
        self._control.close()
        self._stage.close()
        os.close(self._stderr)
        os.close(self._pidfd)

    # --- inside --------------------------------------------------------------------------------------

    def _promise(self, number: int) -> asyncio.Future[Answer]:
        answer: asyncio.Future[Answer] = self._loop.create_future()
        if self.ended.is_set():
            answer.set_exception(HostGone())
        else:
            self._asked[number] = (answer, time.monotonic())
        return answer

    async def _send(self, data: bytes, descriptors: Sequence[int]) -> None:
        while not self.ended.is_set():
            try:
                send(self._control, data, descriptors)
            except BlockingIOError:
                # It is full of what the host did not read yet; whoever watches ends a host that never does.
                await asyncio.sleep(LIMITS.module_host_watch / 10)
            except OSError:
                return  # its end is noticed by its process
            else:
                self._ring()
                return

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._bell, BELL.pack(CONTROL))

    def _receive(self) -> None:
        for _ in range(LIMITS.module_messages_a_turn):
            try:
                data, descriptors = receive(self._control)
            except BlockingIOError:
                return
            except OSError:
                continue
            for descriptor in descriptors:
                os.close(descriptor)  # it has none to give
            if not data:
                self._loop.remove_reader(self._control)
                return
            try:
                self._take(unpack(data, SAID_ITEMS))
            except DecodeError as error:
                self._loop.remove_reader(self._control)
                self.kill(f"it talks nonsense: {error.message}")
                return

    def _take(self, fields: dict[str, Any]) -> None:
        if "Answer" not in fields:
            self._took(fields)
            return
        number = cbor.take_uint(fields, "Answer", "answer")
        if number != next(iter(self._asked), None):
            raise DecodeError("an answer to what was not asked")
        answer, _ = self._asked.pop(number)
        self._answered = time.monotonic()
        if not answer.done():
            code, reason = fields.get("Code", ""), fields.get("Reason", "")
            answer.set_result(Answer(printable(str(code)), printable(str(reason))))

    def _listen(self) -> None:
        try:
            data = os.read(self._stderr, LIMITS.module_host_words_bytes)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._stderr)
        self._words = (self._words + data)[-LIMITS.module_host_words_bytes :]

    def _end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._process.wait()
        self._receive()
        self.ended.set()
        asked, self._asked = self._asked, {}
        for answer, _ in asked.values():
            if not answer.done():
                answer.set_exception(HostGone())
                answer.exception()  # nobody may be waiting any more

    def _kill_now(self) -> None:
        self._process.kill()
        self._process.wait()


def _start(control: int, bell: int, page: int, stderr: int) -> subprocess.Popen[bytes]:
    module = "stagebox_rack.modules.hosting.child"
    return subprocess.Popen(
        [sys.executable, "-I", "-m", module, str(os.getpid()), str(control), str(bell), str(page)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        cwd="/",
        env=environment(),
        pass_fds=(control, bell, page),
        start_new_session=True,
    )
