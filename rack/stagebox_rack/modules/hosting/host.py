"""One host under supervision: started when it is needed, ended when it is silent, replaced when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import termios
import time
from collections.abc import Callable
from typing import Any

import structlog

from stagebox import cbor
from stagebox.tasks import end_tasks
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.arrangement import Arrangement
from stagebox_rack.modules.hosting.hosted import HostDied, HostEvent
from stagebox_rack.modules.hosting.process import HostGone, HostProcess

log = structlog.get_logger()


class Host:
    """Host ``number`` of the rack, with the arrangements that were given to it."""

    def __init__(self, number: int, report: Callable[[HostEvent], None]) -> None:
        """Make the pipe it is rung through.

        Raises:
            OSError: no descriptor is left.
        """
        self.number = number
        self._report = report
        self._bells = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._bells[1], False)
        self._process: HostProcess | None = None
        self._arrangements: dict[int, tuple[Arrangement, asyncio.Task[None]]] = {}
        self._needed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.deaths = 0

    @property
    def bell(self) -> int:
        """The descriptor to ring."""
        return self._bells[1]

    @property
    def taken(self) -> int:
        """How many bytes may be taken by what is placed on it."""
        return sum(one.room for one, _ in self._arrangements.values())

    @property
    def lanes(self) -> int:
        """How many lanes it has."""
        return len(self._arrangements)

    @property
    def pid(self) -> int | None:
        """The process id of the host that runs."""
        return None if self._process is None else self._process.pid

    @property
    def current(self) -> HostProcess | None:
        """The host that runs and answers."""
        return self._process

    def free(self) -> int | None:
        """Return a lane number that is not used; None if there is none."""
        return next((one for one in range(LIMITS.module_chains) if one not in self._arrangements), None)

    def start(self) -> None:
        """Begin to supervise."""
        self._task = asyncio.create_task(self._supervise(), name=f"module-host-{self.number}")

    def add(self, arrangement: Arrangement) -> None:
        """Bring what is placed there to this host."""
        place = arrangement.place
        task = asyncio.create_task(arrangement.run(), name=f"modules-{place.name}")
        self._arrangements[place.number] = (arrangement, task)

    def need(self) -> None:
        """Something is placed: there has to be a host."""
        self._needed.set()

    async def remove(self, arrangement: Arrangement) -> None:
        """Forget it, and let the host forget it."""
        await arrangement.arrange(())
        number = arrangement.place.number
        await end_tasks([self._arrangements[number][1]])
        if self._process is not None:
            with contextlib.suppress(HostGone):
                await self._process.ask("drop", {"Lane": number})
        del self._arrangements[number]  # only now may another lane have the number
        await arrangement.place.close()

    async def stop(self) -> None:
        """Close everything of it, and end the host."""
        for arrangement, _ in list(self._arrangements.values()):
            await self.remove(arrangement)
        await end_tasks([self._task])
        for descriptor in self._bells:
            os.close(descriptor)

    # --- supervision -----------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        pause = LIMITS.module_host_retry_first
        while True:
            await self._needed.wait()
            begun = time.monotonic()
            try:
                reason, on_stage = await self._live()
            except OSError as error:
                reason, on_stage = f"it cannot be started: {error}", 0
            self._mourn(reason, on_stage)
            if time.monotonic() - begun >= LIMITS.module_host_settled:
                pause = LIMITS.module_host_retry_first
            await asyncio.sleep(pause)
            pause = min(2 * pause, LIMITS.module_host_retry_max)

    async def _live(self) -> tuple[str, int]:
        """Run one process until it ends; return why, and who was on stage."""
        self._forget_rings()
        process = HostProcess(self._bells, self._took)
        try:
            process.kill(await self._watch(process))
            await process.ended.wait()
            on_stage = process.on_stage
        finally:
            self._process = None
            await asyncio.shield(process.close())
        if process.words:
            log.warning("module_host_words", host=self.number, words=process.words)
        return process.reason, on_stage

    async def _watch(self, process: HostProcess) -> str:
        """Return when it ended, or has to be; why, unless it says so itself."""
        try:
            async with asyncio.timeout(LIMITS.module_host_start):
                await process.ready
        except TimeoutError:
            return f"it was not ready after {LIMITS.module_host_start:g} s"
        except HostGone:
            return ""
        self._process = process
        for arrangement, _ in self._arrangements.values():
            arrangement.poke()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LIMITS.module_host_watch):
                    await process.ended.wait()
                return ""
            silent = self._silent_for(process)
            if silent > LIMITS.module_host_silence + self._longest_epoch():
                return f"it did not answer for {silent:.1f} s"

    def _forget_rings(self) -> None:
        """What the host before was rung for, or left half read, is not for the next one."""
        size = bytearray(4)
        fcntl.ioctl(self._bells[0], termios.FIONREAD, size)
        if left := int.from_bytes(size, sys.byteorder):
            os.read(self._bells[0], left)

    def _silent_for(self, process: HostProcess) -> float:
        now = time.monotonic()
        lanes = [arrangement.place.silent_for(now) for arrangement, _ in self._arrangements.values()]
        return max([process.silent_for(now), *lanes])

    def _longest_epoch(self) -> float:
        return max((arrangement.longest_epoch for arrangement, _ in self._arrangements.values()), default=0.0)

    def _mourn(self, reason: str, on_stage: int) -> None:
        self.deaths += 1
        blamed = [arrangement.lost(on_stage, reason) for arrangement, _ in self._arrangements.values()]
        insert = next((one for one in blamed if one), "")
        log.warning("module_host_died", host=self.number, reason=reason, insert=insert)
        self._report(HostDied(self.number, reason, insert))

    def _took(self, fields: dict[str, Any]) -> None:
        number = cbor.take_uint(fields, "Instance", "event")
        for arrangement, _ in self._arrangements.values():
            if arrangement.took(number, fields):
                return
