"""Processes that are made to be killed, without paying for an interpreter and its imports each time.

``Zygote("support.lives")`` starts one process that imports the module and then forks for every job; a job is a function
of that module which takes a :class:`Life` and keywords, and is a coroutine.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NoReturn, Self

_SAID = b"@ "
_PR_SET_PDEATHSIG = 1


@dataclass
class Life:
    """One process's side: it dies by SIGKILL at the ``nth`` time it passes ``point``."""

    point: str
    nth: int

    def at(self, point: str) -> None:
        """Pass a named point."""
        if self.reaches(point):
            self.die()

    def reaches(self, point: str) -> bool:
        """Whether this passing is the one to die at."""
        if point != self.point:
            return False
        self.nth -= 1
        return self.nth <= 0

    def die(self) -> NoReturn:
        """End as by ``kill -9``."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("nobody outlives SIGKILL")

    def say(self, *words: object) -> None:
        """Tell the test something, in one write; a line that was cut off by a death before it ends first."""
        os.write(1, b"\n" + _SAID + " ".join(map(str, words)).encode() + b"\n")


class Zygote:
    """The test's side. One job at a time."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._pid: int | None = None
        self._doomed = False
        self.noise: list[str] = []

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "support.zygote", self._module,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()  # the kernel kills a job that runs with it
        await self._process.communicate()

    async def live(
        self, job: str, *, point: str = "", nth: int = 1, **arguments: Any
    ) -> AsyncIterator[list[str]]:
        """Start a job and yield what it says, as words, until it ends; then ``["ended", status]``."""
        assert self._process.stdin is not None
        self._doomed = False
        order = {"job": job, "point": point, "nth": nth, "arguments": arguments}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        async for words in self._words():
            yield words
            if words[0] == "ended":
                return

    def kill(self) -> None:
        """``kill -9`` the job that runs, or that is being started: a zygote that still imports has none yet."""
        self._doomed = True
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)

    async def bury(self) -> None:
        """``kill -9`` a job whose words nobody hears any more, so that another may begin."""
        self.kill()
        async for words in self._words():
            if words[0] == "ended":
                return

    async def _words(self) -> AsyncIterator[list[str]]:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if line.startswith(_SAID):
                words = line[len(_SAID) :].decode().split()
                if words[0] == "pid":
                    self._pid = int(words[1])
                    if self._doomed:
                        self.kill()
                    continue
                if words[0] == "ended":
                    self._pid = None
                yield words
            elif line.strip():
                self.noise = [*self.noise[-40:], line.decode(errors="replace").rstrip()]
        raise AssertionError("the zygote ended: " + "\n".join(self.noise))


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _live(module: Any, order: dict[str, Any]) -> NoReturn:
    _die_with_parent()
    life = Life(order["point"], order["nth"])
    code = 1
    try:
        asyncio.run(getattr(module, order["job"])(life, **order["arguments"]))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _main() -> None:
    module = importlib.import_module(sys.argv[1])
    said = Life("", 0)
    while line := sys.stdin.readline():
        pid = os.fork()
        if not pid:
            _live(module, json.loads(line))
        said.say("pid", pid)
        _, status = os.waitpid(pid, 0)
        said.say("ended", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _main()
