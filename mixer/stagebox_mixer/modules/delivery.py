"""Brings connected racks their new patch sheets by command, in the background.

One delivery a rack: calls that come meanwhile are folded into one more look at what it is to run. What a rack does not
take now it asks for when it connects next, so nothing is retried here for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import structlog

from stagebox.control.command import Ack, AckResult, CommandVerb
from stagebox.errors import StageboxError
from stagebox.tasks import end_tasks
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.sheets import Sheets

log = structlog.get_logger()
ACTOR = "mixer"


class Commands(Protocol):
    """Sends signed commands."""

    async def send(
        self,
        rack: str,
        verb: str,
        args: Mapping[str, Any] | None = None,
        *,
        actor: str,
        ttl_s: float | None = None,
    ) -> Ack:
        """Send one and return the rack's verified ack."""


class SheetDelivery:
    """Sends each rack the sheet that :class:`~stagebox_mixer.modules.sheets.Sheets` makes for it."""

    def __init__(self, commands: Commands, sheets: Sheets) -> None:
        self._commands = commands
        self._sheets = sheets
        self._slots = asyncio.Semaphore(LIMITS.patches_at_once)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self.delivered = self.failed = 0

    def deliver(self, rack: str) -> None:
        """Bring a rack its sheet in the background."""
        if rack in self._running:
            self._again.add(rack)
            return
        self._running[rack] = asyncio.create_task(self._deliver(rack), name=f"deliver-patch-{rack}")

    async def idle(self) -> None:
        """Return when every delivery under way has ended."""
        while self._running:
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def stop(self) -> None:
        """Give up what is under way."""
        await end_tasks(self._running.values())

    async def _deliver(self, rack: str) -> None:
        try:
            while True:
                try:
                    async with self._slots:
                        self._again.discard(rack)  # the look below is later than any call before
                        await self._send(rack)
                except StageboxError as error:
                    self.failed += 1
                    log.warning("patch_not_delivered", rack=rack, error=error.message)
                if rack not in self._again:
                    return
        except Exception as error:
            # A background task nobody awaits: the rack asks for its sheet when it connects next.
            self.failed += 1
            log.error("patch_delivery_failed", rack=rack, error=repr(error))
        finally:
            self._again.discard(rack)
            del self._running[rack]

    async def _send(self, rack: str) -> None:
        made = await self._sheets.issue(rack)
        ack = await self._commands.send(rack, CommandVerb.PATCH, {"Sheet": made.data}, actor=ACTOR)
        if ack.result is AckResult.DONE:
            self.delivered += 1
            self._sheets.taken(rack, made.sheet.serial)
        else:
            self.failed += 1
            log.warning("patch_not_taken", rack=rack, result=ack.result.value, reason=ack.reason)
