"""Brings racks the passports that were issued to them without their asking: suspend, activate, approve, rotate.

In the background, one delivery a rack: calls that come meanwhile are folded into one more look at the registry. What a
rack does not take now it gets when it next says where it stands (``sync``), so nothing is retried here for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from stagebox.control.command import AckResult, CommandVerb
from stagebox.errors import StageboxError
from stagebox.tasks import end_tasks
from stagebox_mixer.commands.service import Commands
from stagebox_mixer.registry.model import RackEntry
from stagebox_mixer.registry.store import Registry

log = structlog.get_logger()
ACTOR = "mixer"


class PassportDelivery:
    """``pending_passport`` returns the signed passport of an entry's pending issue, None if it has none to deliver."""

    def __init__(
        self,
        *,
        commands: Commands,
        registry: Registry,
        pending_passport: Callable[[RackEntry], bytes | None],
    ) -> None:
        self._commands = commands
        self._registry = registry
        self._pending_passport = pending_passport
        self._running: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()

    def deliver(self, name: str) -> None:
        """Deliver the pending passport of rack ``name`` in the background, if there is one."""
        if name in self._running:
            self._again.add(name)
            return
        task = asyncio.create_task(self._deliver(name), name=f"deliver-passport-{name}")
        self._running[name] = task

    async def idle(self) -> None:
        """Return when every delivery under way has ended."""
        while self._running:
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def stop(self) -> None:
        """Give up what is under way; racks fetch it when they next connect."""
        await end_tasks(self._running.values())

    async def _deliver(self, name: str) -> None:
        taken = 0
        try:
            while True:
                self._again.discard(name)
                try:
                    taken = await self._deliver_pending(name, taken)
                except StageboxError as error:
                    log.warning("passport_not_delivered", rack=name, error=error.message)
                if name not in self._again:
                    return
        except Exception as error:
            # A background task nobody awaits: the rack gets its passport at its next report.
            log.error("passport_delivery_failed", rack=name, error=repr(error))
        finally:
            self._again.discard(name)
            del self._running[name]

    async def _deliver_pending(self, name: str, taken: int) -> int:
        """Send the pending passport unless it is number ``taken``; return the serial the rack has taken."""
        entry = await self._registry.rack(name)
        if entry is None or entry.removed_at or entry.pending is None or entry.pending.serial == taken:
            return taken
        data = self._pending_passport(entry)
        if data is None:
            return taken
        ack = await self._commands.send(name, CommandVerb.PASSPORT, {"Passport": data}, actor=ACTOR)
        if ack.result is AckResult.DONE:
            return entry.pending.serial
        log.warning("passport_not_taken", rack=name, result=ack.result.value, reason=ack.reason)
        return taken
