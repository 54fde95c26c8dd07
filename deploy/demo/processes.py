"""Starts, watches and ends the demo's processes. Rules: every one leads a session of its own, so Ctrl-C in the
terminal reaches only the demo; each is told to stop first and killed after a deadline; the kernel stops them
when the demo itself is killed; standard error goes to a log file in the demo's directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from demo.errors import DemoError
from demo.limits import LIMITS

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_OWN_SETTINGS = "STAGEBOX_"


def _stop_with_parent() -> None:
    # Runs in the child between fork and exec: one system call, bound before. TERM and not KILL, so that a
    # mixer whose demo was killed still ends its nats-server.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def stagebox() -> str:
    """Return the ``stagebox`` command of this environment.

    Raises:
        DemoError: it is not installed.
    """
    path = Path(sys.executable).with_name("stagebox")
    if not path.exists():
        raise DemoError(f"{path} is missing", remedy="run the demo by `just demo`, which installs it")
    return str(path)


def environment(settings: Mapping[str, str] = {}) -> dict[str, str]:
    """Return the environment of a child: the demo's, without the user's own Stagebox settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_SETTINGS)}
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        kept.pop(name, None)
    return {**kept, **settings}


class Child:
    """One running process. Made by :meth:`spawn`; ``spawned`` is the monotonic time just before."""

    def __init__(self, name: str, log: Path, process: asyncio.subprocess.Process, spawned: float) -> None:
        self.name = name
        self.log = log
        self.spawned = spawned
        self._process = process
        self._stopping = False

    @classmethod
    async def spawn(
        cls, name: str, argv: Sequence[str], *, log: Path, settings: Mapping[str, str] = {}, stdin: bool = False
    ) -> Child:  # fmt: skip
        """Start ``argv``; its standard output can be read, its standard error goes to ``log``."""
        loop = asyncio.get_running_loop()
        with log.open("ab") as errors:
            spawned = loop.time()
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                cwd=log.parent,
                env=environment(settings),
                start_new_session=True,
                preexec_fn=_stop_with_parent,
            )
        return cls(name, log, process, spawned)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended_early(self) -> bool:
        """Whether it is gone although nobody asked it to stop."""
        return self._process.returncode is not None and not self._stopping

    async def line(self, timeout: float) -> str:
        """Return the next line of its standard output.

        Raises:
            DemoError: it ended, or did not write one in time.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                raw = await self._process.stdout.readline()
        except TimeoutError:
            raise DemoError(f"the {self.name} was not ready in {timeout:g} s", log=self.log) from None
        if not raw:
            raise await self.failure()
        return raw.decode("utf-8", "replace").rstrip()

    async def failure(self) -> DemoError:
        """Wait for the end nobody asked for, and return it as an error."""
        code = await self._exited()
        return DemoError(f"the {self.name} ended by itself with code {code}", log=self.log)

    async def finish(self, text: str | None, timeout: float) -> tuple[int, str]:
        """Write ``text`` to its standard input, wait for its end; return its code and standard output.

        Raises:
            DemoError: it took too long and was killed.
        """
        try:
            async with asyncio.timeout(timeout):
                out, _ = await self._process.communicate(None if text is None else text.encode())
        except TimeoutError:
            raise DemoError(f"{self.name} took over {timeout:g} s", log=self.log) from None
        finally:
            await self.kill()
        return self._process.returncode or 0, out.decode("utf-8", "replace")

    async def stop(self, timeout: float) -> int:
        """Ask it to end and wait; returns its exit code.

        Raises:
            DemoError: it did not end in time and was killed.
        """
        self._stopping = True
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(timeout):
                return await self._exited()
        except TimeoutError:
            raise DemoError(
                f"the {self.name} did not stop in {timeout:g} s and was killed", log=self.log
            ) from None
        finally:
            await self.kill()

    async def _exited(self) -> int:
        # Process.wait() also waits for the pipes, which a grandchild may hold.
        while (code := self._process.returncode) is None:  # noqa: ASYNC110
            await asyncio.sleep(LIMITS.exit_poll)
        return code

    async def kill(self) -> None:
        """Make sure that nothing of its session is left."""
        self._stopping = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        async with asyncio.timeout(LIMITS.killed):
            await self._process.wait()


async def command(
    name: str, arguments: Sequence[str], *, log: Path, text: str | None = None, codes: Sequence[int] = (0,)
) -> str:
    """Run one ``stagebox`` command and return its standard output.

    Raises:
        DemoError: it ended with a code that is not in ``codes``, or took too long.
    """
    child = await Child.spawn(name, [stagebox(), *arguments], log=log, stdin=text is not None)
    code, out = await child.finish(text, LIMITS.command)
    if code not in codes:
        raise DemoError(f"`stagebox {' '.join(arguments[:3])}` ended with code {code}", log=log)
    return out


def tail(log: Path) -> list[str]:
    """Return the last lines of a log, empty if there is none."""
    try:
        text = log.read_text("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-LIMITS.log_tail_lines :]
