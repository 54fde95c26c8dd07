"""Finds what a test left behind: asyncio tasks, threads, file descriptors, child processes.

A leak is what is still there after a short settling time; what ends by itself within it is none. The loop's own
resolver pool belongs to the loop and ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

SETTLE_S = 2.0


@dataclass(frozen=True)
class Snapshot:
    """What this process owns at one moment."""

    tasks: frozenset[asyncio.Task[object]]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[str, str]]
    children: frozenset[int]

    @classmethod
    def take(cls) -> Snapshot:
        """Look now; inside a running loop its tasks count too."""
        return cls(
            _tasks(),
            frozenset(t for t in threading.enumerate() if not t.name.startswith("asyncio_")),
            frozenset(_descriptors().items()),
            frozenset(child.pid for child in psutil.Process().children()),
        )

    def leaks(self, before: Snapshot) -> list[str]:
        """Say what is here and was not there ``before``."""
        found = [f"task {task!r}" for task in self.tasks - before.tasks if not task.done()]
        found += [f"thread {thread!r}" for thread in self.threads - before.threads]
        found += [f"descriptor {fd} -> {target}" for fd, target in self.descriptors - before.descriptors]
        found += [f"child process {_describe(pid)}" for pid in self.children - before.children]
        return found


async def settled_leaks(before: Snapshot, settle_s: float = SETTLE_S) -> list[str]:
    """Return what is left after settling; returns at once when nothing is."""
    deadline = time.monotonic() + settle_s
    for _ in range(3):
        await asyncio.sleep(0)
    while True:
        settled = time.monotonic() >= deadline  # before looking, which itself takes long on a busy machine
        found = Snapshot.take().leaks(before)
        if found:
            gc.collect()  # a descriptor may only wait for its cycle to be collected
            found = Snapshot.take().leaks(before)
        if not found or settled:
            return found
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def no_leaks(settle_s: float = SETTLE_S) -> AsyncIterator[None]:
    """Fail if the block leaves a task, a thread, a descriptor or a child process behind."""
    gc.collect()
    before = Snapshot.take()
    yield
    found = await settled_leaks(before, settle_s)
    assert not found, "left behind: " + "; ".join(found)


async def eventually(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    """Wait for a condition that has no event to await."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - any condition, not an event
            await asyncio.sleep(0.005)


def _tasks() -> frozenset[asyncio.Task[object]]:
    """Return all tasks but the one that asks."""
    try:
        return frozenset(asyncio.all_tasks() - {asyncio.current_task()})
    except RuntimeError:  # no running loop: a synchronous test
        return frozenset()


def _descriptors() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(entry)  # noqa: PTH115
            if not target.startswith(f"/proc/{os.getpid()}"):
                found[entry.name] = target
    return found


def _describe(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"{pid} {process.name()} ({process.status()})"
    except psutil.NoSuchProcess:
        return str(pid)
