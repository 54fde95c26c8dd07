"""Hears the heartbeats of racks on the bus and keeps the roll.

A heartbeat is taken for the rack whose subject it came on: nats-server lets nobody else publish there, and the rack
was let in on three proofs. What another rack has JetStream deliver there has headers, and is refused. (Subscribers who
do not run the server prove each record by its checkpoint.)
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import structlog

from stagebox import subjects
from stagebox.bus import BusClient, BusMessage
from stagebox.bus.subscription import Subscription
from stagebox.errors import InputError
from stagebox.records.status import Status
from stagebox_mixer.limits import LIMITS, MixerLimits
from stagebox_mixer.presence.roll import Heartbeat, Presence, PresenceState, Roll

log = structlog.get_logger()


class PresenceService:
    """``bus`` is a connection of ``credentials.live_user``; ``heard`` gets every heartbeat."""

    def __init__(
        self,
        bus: BusClient,
        *,
        now: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        limits: MixerLimits = LIMITS,
    ) -> None:
        self._bus = bus
        self._now = now
        self._wall_ns = wall_ns
        self._limits = limits
        self._roll = Roll(now(), limits)
        self._subscription: Subscription | None = None
        self.heard: Callable[[str, Status], None] = lambda rack, status: None
        self.malformed = 0
        self.transitions: Counter[PresenceState] = Counter()

    async def start(self) -> None:
        """Begin to hear heartbeats.

        Raises:
            BusError: the server does not let us.
        """
        self._subscription = await self._bus.subscribe(
            subjects.ALL_STATUSES, self.take, max_messages=self._limits.presence_pending
        )

    async def stop(self) -> None:
        """Hear no more."""
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
            self._subscription = None

    async def run(self) -> None:
        """Say whose presence changed, as long as the mixer runs."""
        while True:
            await asyncio.sleep(self._limits.presence_sweep_s)
            self.sweep()

    def sweep(self) -> None:
        """Look once."""
        for rack, state, before in self._roll.changes(self._now()):
            self.transitions[state] += 1
            say = log.info if state is PresenceState.ONLINE else log.warning
            say("rack_presence", rack=rack, state=state.value, before=before.value if before else None)

    def take(self, message: BusMessage) -> None:
        """Take one message on ``rack.*.status``."""
        try:
            rack = subjects.parse(message.subject).rack
            if message.relayed:
                raise InputError(f"rack {rack!r} did not send this itself")
            status = Status.decode(message.payload)
        except InputError as error:
            self.malformed += 1
            log.warning("heartbeat_malformed", subject=message.subject, error=error.message)
            return
        self._roll.heard(
            rack,
            Heartbeat(status.state, status.body, status.time_ns, status.boot, self._now(), self._wall_ns()),
        )
        self.heard(rack, status)

    def of(self, rack: str) -> Presence:
        """Whether ``rack`` is there now."""
        return self._roll.of(rack, self._now())
