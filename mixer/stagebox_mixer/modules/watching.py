"""Hears which modules do not run: alerts at once, heartbeats in case an alert was missed. Faults go on one by one.

A heartbeat counts only for a module on the sheet that the rack has taken last, so that what it said of a sheet of
before blames nobody, and each of its complaints counts once, but for those that could not be acted on. Only so many
faults of one rack wait. What another rack has JetStream deliver on a rack's subject has headers, and is refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
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
        self._waiting_of: Counter[str] = Counter()
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
            if message.relayed:
                raise InputError(f"rack {rack!r} did not send this itself")
            alert = Event.decode(message.payload)
        except InputError as error:
            self.malformed += 1
            log.warning("alert_malformed", subject=message.subject, error=error.message)
            return
        fault = of_alert(rack, alert.name, alert.detail, alert.time_ns)
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
            if (fault.insert, fault.digest) not in listed or complaint in self._heard:
                continue
            if not self._put(fault):
                continue  # it is said again
            self._heard[complaint] = None
            while len(self._heard) > LIMITS.module_faults_waiting:
                self._heard.popitem(last=False)

    def _put(self, fault: Fault) -> bool:
        """Let a fault wait for its turn; return False if there is no room for it."""
        if not fault.counts:
            log.info("module_not_running", rack=fault.rack, module=fault.module, code=fault.code)
            return True
        self.faults += 1
        # One rack that complains without end keeps no other from being heard.
        if self._waiting_of[fault.rack] >= LIMITS.module_faults_of_rack or self._waiting.full():
            self.dropped += 1
            return False
        self._waiting_of[fault.rack] += 1
        self._waiting.put_nowait(fault)
        return True

    async def run(self) -> None:
        """Report faults for ever, in turn."""
        while True:
            fault = await self._waiting.get()
            self._waiting_of -= Counter((fault.rack,))  # forgets who has none
            log.warning(
                "module_fault", rack=fault.rack, module=fault.module, version=fault.version, code=fault.code
            )
            try:
                await self._report(fault)
            except StageboxError as error:
                for complaint in [complaint for complaint in self._heard if complaint[0] == fault]:
                    del self._heard[complaint]  # the next heartbeat says it again
                log.error("module_not_rolled_back", rack=fault.rack, module=fault.module, error=error.message)
            except Exception as error:
                # One report must not end the watch over all others.
                log.error("module_watch_error", rack=fault.rack, module=fault.module, error=repr(error))
