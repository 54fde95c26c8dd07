"""What the demo's subscriber received and could prove, per rack: the public SDK in, figures out.

Rules: only what came over the bus is counted here; a record counts as verified when the SDK settled it so. The
racks' own figures are taken only from status records that verified.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from demo.limits import LIMITS
from stagebox import MeterFrame, Status
from stagebox.subjects import Kind
from stagebox.subscriber import Counters, Record, RecordStream, Subscriber, Verification

_KINDS = (Kind.METER, Kind.AUDIO, Kind.STATUS, Kind.EVENT)


@dataclass
class KindTally:
    """Records of one kind of one rack."""

    received: int = 0
    verified: int = 0
    unproved: int = 0  # unverified or bad
    pending: deque[Record] = field(default_factory=deque, repr=False)

    def take(self, record: Record) -> None:
        """Count one record that was just received."""
        self.received += 1
        self.pending.append(record)

    def sweep(self) -> None:
        """Count what has been settled since."""
        for _ in range(len(self.pending)):
            record = self.pending.popleft()
            if record.verification is Verification.PENDING:
                self.pending.append(record)
            elif record.verification is Verification.VERIFIED:
                self.verified += 1
            else:
                self.unproved += 1


class RackTelemetry:
    """Everything known of one rack from the bus."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kinds = {kind: KindTally() for kind in _KINDS}
        self.frame: MeterFrame | None = None
        self.first_frame = asyncio.Event()
        self.first_frame_at = 0.0
        self.heard = asyncio.Event()
        """Set by its first audio record."""
        self._statuses: deque[Record] = deque()
        self.status: Status | None = None
        self.final: Status | None = None

    def take(self, record: Record, now: float) -> None:
        """Take a record of this rack; ``now`` is monotonic."""
        self.kinds[record.kind].take(record)
        if isinstance(record.value, MeterFrame):
            self._meter(record.value, now)
        elif isinstance(record.value, Status):
            self._statuses.append(record)
        elif record.kind is Kind.AUDIO:
            self.heard.set()

    def sweep(self) -> None:
        """Follow what has been verified since; a status is believed only then."""
        for tally in self.kinds.values():
            tally.sweep()
        while self._statuses and self._statuses[0].verification is not Verification.PENDING:
            record = self._statuses.popleft()
            if record.verification is Verification.VERIFIED and isinstance(record.value, Status):
                self.status = record.value
                if record.value.state == "stopping":
                    self.final = record.value

    def _meter(self, frame: MeterFrame, now: float) -> None:
        self.frame = frame
        if not self.first_frame.is_set():
            self.first_frame_at = now
            self.first_frame.set()


class Telemetry:
    """The subscriptions of the demo, open between ``async with`` in and out."""

    def __init__(self, subscriber: Subscriber, racks: Sequence[str]) -> None:
        self._subscriber = subscriber
        self._exit = contextlib.AsyncExitStack()
        self._streams: dict[Kind, RecordStream] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()
        self.racks = {name: RackTelemetry(name) for name in racks}
        self.strangers = 0

    async def __aenter__(self) -> Self:
        await self._exit.enter_async_context(self._subscriber)
        try:
            for kind in _KINDS:
                pattern = f"rack.*.{kind.value}" + (".>" if kind in (Kind.METER, Kind.AUDIO) else "")
                opened = self._subscriber.open_records(pattern, verify="live", on_bad="count")
                stream = await self._exit.enter_async_context(opened)
                self._streams[kind] = stream
                self._tasks.append(asyncio.create_task(self._follow(stream), name=f"follow-{kind.value}"))
        except BaseException:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connected(self) -> bool:
        """Whether the subscriber's own connection stands."""
        return self._subscriber.bus_stats().connected

    def counters(self, kind: Kind) -> Counters:
        """Return the SDK's counts of one kind, over all racks."""
        return self._streams[kind].counters

    def transport(self) -> dict[str, Any]:
        """Return the TLS facts of the subscriber's own connection."""
        return self._subscriber.bus.transport_facts()

    def sweep(self) -> None:
        """Bring every rack's figures up to date."""
        for rack in self.racks.values():
            rack.sweep()

    async def settled(self, published: Callable[[RackTelemetry], dict[Kind, int] | None]) -> None:
        """Return when all that the racks say they published is here and settled, or the deadline passed.

        ``published`` reads a rack's own count from its final status; what did not come shows in the counts.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMITS.live_settle):
                while not self._complete(published):  # noqa: ASYNC110 - a condition over many records
                    await asyncio.sleep(LIMITS.settle_poll)
        self.sweep()

    def _complete(self, published: Callable[[RackTelemetry], dict[Kind, int] | None]) -> bool:
        self.sweep()
        for rack in self.racks.values():
            expected = published(rack)
            if expected is None:
                return False
            for kind, count in expected.items():
                tally = rack.kinds[kind]
                if tally.received < count or tally.pending:
                    return False
        return True

    async def _follow(self, stream: RecordStream) -> None:
        async for record in stream:
            rack = self.racks.get(record.rack)
            if rack is None:
                self.strangers += 1
            else:
                rack.take(record, self._loop.time())
