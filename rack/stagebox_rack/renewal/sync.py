"""Tells the mixer where this rack stands, on every connect and every ten minutes, and keeps what it hears.

Only an answer that the pinned cluster signed as the answer to our own request counts; deny lists count by their own
signature and epoch, whoever sends them. Nothing else on the bus changes anything here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from stagebox.bus import BusClient
from stagebox.bus.subscription import Subscription
from stagebox.certificates import to_der
from stagebox.control.request import Answer, Verb
from stagebox.control.sync import SyncAnswer, SyncReport
from stagebox.errors import BusError, StageboxError
from stagebox_rack.asking import MixerDesk
from stagebox_rack.commands.service import CommandService
from stagebox_rack.identity.denied import DenyListWitness
from stagebox_rack.identity.takeover import Takeover
from stagebox_rack.limits import LIMITS
from stagebox_rack.renewal.service import RenewalService

log = structlog.get_logger()


class SyncService:
    """The reports of one running rack, and its copy of the deny list."""

    def __init__(
        self,
        *,
        bus: BusClient,
        takeover: Takeover,
        witness: DenyListWitness,
        commands: CommandService,
        renewal: RenewalService,
        managed_by: str,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._bus = bus
        self._takeover = takeover
        self._witness = witness
        self._commands = commands
        self._renewal = renewal
        self._managed_by = managed_by
        self._desk = MixerDesk(
            bus, lambda: takeover.credentials.active, timeout=LIMITS.renew_request_timeout, wall_ns=wall_ns
        )
        self._wanted = asyncio.Event()
        self._writing = asyncio.Lock()
        self._complained = ""
        self._handed_in = 0
        self.completed = 0

    def connected(self) -> None:
        """The bus is up (again), perhaps with another identity: report."""
        self._wanted.set()

    async def run(self) -> None:
        """Report on every connect and once in a while, until cancelled."""
        pause = LIMITS.sync_interval
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            except TimeoutError:
                log.debug("sync_due")
            self._wanted.clear()
            pause = LIMITS.sync_interval
            if not self._bus.connected:
                continue  # the next connect reports
            try:
                await self.sync()
            except StageboxError as error:
                pause = LIMITS.sync_retry
                self._complain("sync_failed", error)

    async def hear(self, subscription: Subscription) -> None:
        """Keep what newer deny lists come on ``mixer.denied``, until cancelled."""
        async for message in subscription:
            try:
                await self._offer(message.payload)
            except StageboxError as error:
                self._complain("deny_list_refused", error)

    async def sync(self) -> None:
        """Report once and take the answer.

        Raises:
            BusError: nobody answers. StageboxError: the answer does not verify, or refuses.
        """
        identity = self._takeover.held.newest
        active = self._takeover.credentials.active
        report = SyncReport(
            serial=identity.passport.serial,
            status=identity.passport.status.value,
            command=self._commands.highest,
            deny_epoch=self._witness.epoch,
            chain=tuple(to_der(active.chain)),
            renewal=self._managed_by,
            problem=self._renewal.problem,
        )
        answer = await self._ask(Verb.SYNC, report.body())
        heard = SyncAnswer.from_body(answer.body)
        await self._commands.synced(heard.command, answer.time_ns)
        if heard.deny_list:
            await self._offer(heard.deny_list)
        elif report.deny_epoch == 0:
            self._witness.settle()
        if heard.want_deny_list and self._witness.data:
            await self._ask(Verb.DENY_LIST, {"List": self._witness.data})
            if self._handed_in != self._witness.epoch:
                self._handed_in = self._witness.epoch
                self._wanted.set()  # hear at once what the mixer made of it
        self._complained = ""
        self.completed += 1

    async def _ask(self, verb: Verb, body: dict[str, Any]) -> Answer:
        answer = await self._desk.ask(verb, body)
        if answer.error:
            raise BusError(f"the mixer refuses {verb.value}: {answer.message or answer.error}")
        return answer

    async def _offer(self, data: bytes) -> None:
        async with self._writing:
            if await asyncio.to_thread(self._witness.offer, data):
                log.info("deny_list_kept", epoch=self._witness.epoch)

    def _complain(self, name: str, error: StageboxError) -> None:
        if error.message != self._complained:
            self._complained = error.message
            log.warning(name, reason=error.message)
