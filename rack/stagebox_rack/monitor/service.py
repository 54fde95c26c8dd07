"""The monitor buses of one rack: starts a bus when a lease on it begins and stops it when the last one ends.

Leases do not outlive capture: when it stops (a suspended rack) they are dropped, and a listener's next renewal brings
its back. Runs on the event loop; opening and joining happen in worker threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from stagebox.errors import ConfigError, StageboxError
from stagebox_rack.audio.engine import Tap
from stagebox_rack.audio.insert import InsertPoints
from stagebox_rack.audio.measurement import OpusPacket
from stagebox_rack.limits import LIMITS
from stagebox_rack.monitor.bus import BusPlan
from stagebox_rack.monitor.encoding import BusEncoding, EncodingCounters
from stagebox_rack.monitor.leases import Leases

Report = Callable[[str, dict[str, Any]], None]


class MonitorService:
    """Serves ``plans`` from ``tap``, which gives a source's audio while it is captured; packets go to ``emit``.

    What sits at ``inserts``, by bus, is between the mix and the encoder.
    """

    def __init__(
        self,
        plans: Iterable[BusPlan],
        *,
        tap: Callable[[str], Tap],
        emit: Callable[[OpusPacket], None],
        event: Report,
        inserts: InsertPoints | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plans = {plan.name: plan for plan in plans}
        self._tap = tap
        self._emit = emit
        self._event = event
        self._inserts = inserts or InsertPoints()
        self._now = now
        self._leases = Leases()
        self._running: dict[str, BusEncoding] = {}
        self._counters = {name: EncodingCounters() for name in self._plans}
        self._changing = asyncio.Lock()
        self._wake = asyncio.Event()

    def has(self, bus: str) -> bool:
        """Whether there is such a bus."""
        return bus in self._plans

    @property
    def names(self) -> tuple[str, ...]:
        """The buses there are."""
        return tuple(self._plans)

    async def lease(self, bus: str, lease: bytes, ttl_s: float) -> None:
        """Take, renew or (``ttl_s`` 0) release a lease; when this returns the bus is sent, or is not.

        Raises:
            ConfigError: there is no such bus, or its settings do not fit its source. CaptureError: the source is not
            captured. LeaseRefused: too many listen already.
        """
        if bus not in self._plans:
            raise ConfigError(f"there is no bus {bus!r}", remedy=f"there are: {', '.join(self._plans)}")
        async with self._changing:
            self._leases.take(bus, lease, ttl_s, self._now())
            try:
                await self._follow()
            except StageboxError:
                self._leases.take(bus, lease, 0, self._now())
                raise
        self._wake.set()

    async def run(self) -> None:
        """End what nobody listens to any more, as long as the rack runs."""
        while True:
            end = self._leases.next_end()
            wait = LIMITS.lease_poll if end is None else min(max(0.0, end - self._now()), LIMITS.lease_poll)
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                async with self._changing:
                    await self._stop_unwanted()
            self._wake.clear()

    async def stop(self, reason: str = "capture stopped") -> None:
        """Drop every lease and stop every bus."""
        async with self._changing:
            self._leases.clear()
            await self._stop_unwanted(reason)

    def status(self) -> list[dict[str, Any]]:
        """What a heartbeat says of each bus."""
        return [
            {
                "name": name,
                "source": plan.source,
                "mode": plan.mode,
                "kbit": plan.bit_rate // 1000,
                "listening": name in self._running,
                "leases": self._leases.count(name),
                **vars(self._counters[name]),
            }
            for name, plan in self._plans.items()
        ]

    async def _follow(self) -> None:
        await self._stop_unwanted()
        for name in self._leases.live(self._now()) - self._running.keys():
            plan = self._plans[name]
            encoding = await asyncio.to_thread(
                BusEncoding,
                plan,
                self._tap(plan.source),
                self._emit,
                self._counters[name],
                self._inserts.at(name),
            )
            encoding.start()
            self._running[name] = encoding
            self._event(
                "monitor_started",
                {
                    "bus": name,
                    "source": plan.source,
                    "channels": encoding.channels,
                    "kbit": plan.bit_rate // 1000,
                },
            )

    async def _stop_unwanted(self, reason: str = "nobody listens") -> None:
        wanted = self._leases.live(self._now())
        for name, encoding in list(self._running.items()):
            if name in wanted and encoding.running:
                continue
            del self._running[name]
            ended = not encoding.running
            await asyncio.to_thread(encoding.stop)
            why = encoding.failure or ("the source ended" if ended else reason)
            self._event(
                "monitor_stopped", {"bus": name, "reason": why, "packets": self._counters[name].packets}
            )
