"""Native code of the modules that run, compiled once each, in memory that nobody can change.

It is made in this run by our own compiler from bytes that the guard verified, and goes nowhere but to our hosts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass

from stagebox.errors import ModuleError
from stagebox.modules.compiling import compile_module
from stagebox.modules.sealed import sealed

Compile = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Code:
    """Native code: its number, and a descriptor of the memory it is in."""

    number: int
    descriptor: int


class NativeCode:
    """The code of one rack, by the module's bytes. One module is compiled at a time."""

    def __init__(self, compile_: Compile = compile_module) -> None:
        self._compile = compile_
        self._codes: dict[bytes, asyncio.Task[Code]] = {}
        self._numbers = 0
        self._one = asyncio.Lock()

    async def of(self, data: bytes) -> Code:
        """Return the code of ``data``, made now if need be.

        Raises:
            ModuleError: it does not compile. Whatever else: it could not be tried, and is the next time.
        """
        task = self._codes.get(data)
        if task is None:
            self._numbers += 1
            task = asyncio.create_task(self._make(data, self._numbers), name=f"module-code-{self._numbers}")
            self._codes[data] = task
        try:
            return await asyncio.shield(task)
        except ModuleError:
            raise
        except Exception:
            if self._codes.get(data) is task:
                del self._codes[data]
            raise

    def keep(self, wanted: Collection[bytes]) -> None:
        """Let go of the code of everything else."""
        for data in [data for data in self._codes if data not in wanted]:
            self._codes.pop(data).add_done_callback(_let_go)

    async def close(self) -> None:
        """Let go of everything; returns when nothing is being compiled."""
        tasks = list(self._codes.values())
        self.keep(())
        if tasks:
            await asyncio.wait(tasks)

    async def _make(self, data: bytes, number: int) -> Code:
        async with self._one:
            return Code(number, await asyncio.to_thread(self._make_sealed, data))

    def _make_sealed(self, data: bytes) -> int:
        return sealed("stagebox-native", self._compile(data))


def _let_go(task: asyncio.Task[Code]) -> None:
    if not task.cancelled() and task.exception() is None:
        os.close(task.result().descriptor)
