"""Hears which modules do not run: alerts at once, heartbeats in case an alert was missed. Faults go on one by one.

A heartbeat counts only for a module on the sheet that the rack has taken last, so that what it said of a sheet of
before blames nobody, and each of its complaints counts once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import structlog

from stagebox import subjects
from stagebox.bus import BusClient, BusMessage
from stagebox.bus.subscription import Subscription
from stagebox.errors import InputError, StageboxError
from stagebox.records.event import Event
from stagebox.records.status import Status
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.faults import Fault, of_alert, of_heartbeat
from stagebox_mixer.modules.sheets import Sheets

log = structlog.get_logger()


class FaultWatch:
    """``bus`` is a connection of ``credentials.live_user``; ``report`` gets every fault that counts."""

    def __init__(self, bus: BusClient, sheets: Sheets, report: Callable[[Fault], Awaitable[object]]) -> None:
        self._bus = bus
        self._sheets = sheets
        self._report = report
        self._waiting: asyncio.Queue[Fault] = asyncio.Queue(LIMITS.module_faults_waiting)
        self._heard: OrderedDict[tuple[Fault, int], None] = OrderedDict()
        self._subscription: Subscription | None = None
        self.faults = self.dropped = self.malformed = 0

    async def start(self) -> None:
        """Begin to hear alerts.

        Raises:
            BusError: the server does not let us.
        """
        self._subscription = await self._bus.subscribe(subjects.ALL_ALERTS, self.take)

    async def stop(self) -> None:
        """Hear no more."""
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
            self._subscription = None

    def take(self, message: BusMessage) -> None:
        """Take one message on ``rack.*.alert``."""
        try:
            rack = subjects.parse(message.subject).rack
            alert = Event.decode(message.payload)
        except InputError as error:
            self.malformed += 1
            log.warning("alert_malformed", subject=message.subject, error=error.message)
            return
        fault = of_alert(rack, alert.name, alert.detail)
        if fault is not None:
            self._put(fault)

    def heard(self, rack: str, status: Status) -> None:
        """Take a heartbeat."""
        sheet = self._sheets.last(rack)
        if sheet is None or not sheet.taken or "modules" not in status.body:
            return
        listed = {(insert.id, insert.digest.hex()) for insert in sheet.sheet.inserts}
        for fault in of_heartbeat(rack, status.body):
            complaint = (fault, sheet.sheet.serial)
            if (fault.insert, fault.digest) in listed and complaint not in self._heard:
                self._heard[complaint] = None
                while len(self._heard) > LIMITS.module_faults_waiting:
                    self._heard.popitem(last=False)
                self._put(fault)

    def _put(self, fault: Fault) -> None:
        if not fault.counts:
            log.info("module_not_running", rack=fault.rack, module=fault.module, code=fault.code)
            return
        self.faults += 1
        try:
            self._waiting.put_nowait(fault)
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Report faults for ever, in turn."""
        while True:
            fault = await self._waiting.get()
            log.warning(
                "module_fault", rack=fault.rack, module=fault.module, version=fault.version, code=fault.code
            )
            try:
                await self._report(fault)
            except StageboxError as error:
                log.error("module_not_rolled_back", rack=fault.rack, module=fault.module, error=error.message)
            except Exception as error:
                # One report must not end the watch over all others.
                log.error("module_watch_error", rack=fault.rack, module=fault.module, error=repr(error))
