"""Ships committed batches to the mixer's stream, in order, each exactly once.

The state is in ``cursor.py``, the stream in ``jetstream.py``; this is the loop between them and the journal.
Rules: nothing is sent that is not durable here; after every connect and every doubt the server is asked what it
holds; a fork stops shipping with an alert and is looked at again once in a while, so that it goes on by itself
when an operator has settled it. Signing and disk reads of a backlog run on worker threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from nacl.signing import SigningKey

from stagebox import envelope
from stagebox.errors import BusError, DecodeError, StageboxError, VerificationError
from stagebox.records.walbatch import JOURNAL_BYTES
from stagebox_rack.limits import LIMITS, RackLimits
from stagebox_rack.wal.cursor import Cursor, Fork, Gap, Link, Local, Phase, Stored
from stagebox_rack.wal.events import JournalEvent, OnEvent
from stagebox_rack.wal.jetstream import Bus, Outgoing, SequenceMismatchError, StoredMessage, WalStream
from stagebox_rack.wal.journal_format import CommittedBatch
from stagebox_rack.wal.pacing import Pace, PaceLimits
from stagebox_rack.wal.wal import Wal

T = TypeVar("T")

FORK_REMEDY = (
    "if this rack's state was replaced or restored, enroll it under a new name; or, after archiving the mixer's "
    "copy, purge the rack's subject from the stream WAL so that this journal becomes the one record"
)


class _OfflineError(StageboxError):
    """The connection went away in the middle of something."""


@dataclass
class ShipperStats:
    """Counters since start."""

    shipped_batches: int = 0
    shipped_records: int = 0
    publishes: int = 0
    resynchronised: int = 0
    refused: int = 0


class Shipper:
    """One rack's shipper. ``connected`` and ``disconnected`` come from the bus client, on its event loop."""

    def __init__(
        self,
        wal: Wal,
        bus: Bus,
        subject: str,
        signing_key: SigningKey,
        *,
        on_event: OnEvent,
        earlier: Collection[bytes] = (),
        limits: RackLimits = LIMITS,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._wal = wal
        self._bus = bus
        self._subject = subject
        self._signing_key = signing_key
        self._publics = (bytes(signing_key.verify_key), *earlier)
        self._on_event = on_event
        self._limits = limits
        self._jitter = jitter
        self._cursor = Cursor()
        self._stream = WalStream(bus, subject, timeout=limits.wal_ship_timeout)
        self._online = asyncio.Event()
        self._gone = asyncio.Event()
        self._pace = self._new_pace()
        self._source: AsyncGenerator[CommittedBatch, None] | None = None
        self._held: CommittedBatch | None = None
        self._failures = 0
        self._halt_reported = False
        self._gaps: set[Gap] = set()
        self.stats = ShipperStats()

    @property
    def phase(self) -> Phase:
        """Where shipping stands."""
        return self._cursor.phase

    @property
    def halted_because(self) -> str | None:
        """Why shipping stopped, while it is halted."""
        return self._cursor.reason

    def connected(self) -> None:
        """The bus is up (again)."""
        self._cursor.connected()
        self._stream = WalStream(self._bus, self._subject, timeout=self._limits.wal_ship_timeout)
        self._failures = 0
        self._pace = self._new_pace()
        self._gone.clear()
        self._online.set()

    def disconnected(self) -> None:
        """The bus is down."""
        self._cursor.disconnected()
        self._online.clear()
        self._gone.set()

    def rekey(self, signing_key: SigningKey) -> None:
        """Sign batches with another key from the next one on; what is stored under the old one is still ours."""
        self._signing_key = signing_key
        self._publics = (bytes(signing_key.verify_key), *self._publics)

    async def run(self) -> None:
        """Ship until cancelled."""
        try:
            while True:
                await self._online.wait()
                try:
                    await self._step()
                except _OfflineError:
                    continue
                except (SequenceMismatchError, BusError) as error:
                    await self._wait_after(error)
                except StageboxError as error:
                    # A local file does not read or verify: nothing behind it may be sent out of order.
                    self._alert("wal_unreadable", error.message)
                    await self._pause(self._limits.wal_ship_halt_retry)
                    self._cursor.doubt()
        finally:
            await self._drop_source()

    async def _step(self) -> None:
        if self._cursor.phase is Phase.READING:
            await self._synchronise()
        elif self._cursor.phase is Phase.HALTED:
            await self._pause(self._limits.wal_ship_halt_retry)
            self._cursor.doubt()
        else:
            await self._ship()

    async def _synchronise(self) -> None:
        await self._drop_source()
        self.stats.resynchronised += 1
        message = await self._while_online(self._stream.last())
        try:
            stored = self._parse(message) if message is not None else None
        except (DecodeError, VerificationError) as error:
            self._cursor.halt(error.message)
            self._report_halt(f"the last stored batch is not this rack's: {error.message}")
            return
        local = await self._local(stored)
        if self._cursor.phase is not Phase.READING:
            return
        found = self._cursor.place(stored, local)
        if isinstance(found, Fork):
            self._report_halt(found.reason)
            return
        if self._halt_reported:
            self._halt_reported = False
            self._on_event(JournalEvent("wal_shipping_resumed", "info"))
        if isinstance(found, Gap):
            self._report_gap(found)
        self._wal.acknowledge(self._cursor.acknowledged, rewind=True)

    async def _ship(self) -> None:
        woken = time.monotonic()
        window = await self._window()
        if not window:
            await self._while_online(self._wal.wait_committed(self._cursor.acknowledged + 1))
            return
        expected = self._cursor.acknowledged + 1
        for batch in window:
            if batch.first > expected:
                self._report_gap(Gap(expected, batch.first - 1))
            expected = batch.last + 1
        backlog = self._wal.committed > window[-1].last
        messages = await self._sign(window)
        if self._cursor.phase is not Phase.SHIPPING:
            raise _OfflineError("the connection changed while a batch was being signed")
        follows = self._cursor.sent(window[0].first, window[-1].last)
        self.stats.publishes += 1
        began = time.monotonic()
        sequence = await self._while_online(self._stream.publish(messages, follows))
        if self._cursor.in_flight is None:
            raise _OfflineError("the connection was replaced while a batch was in flight")
        self._wal.acknowledge(self._cursor.stored(sequence))
        self._failures = 0
        self.stats.shipped_batches += len(window)
        self.stats.shipped_records += sum(batch.last - batch.first + 1 for batch in window)
        now = time.monotonic()
        wait = self._pace.acknowledged(now - began, work=began - woken, backlog=backlog)
        if wait:
            await self._pause(wait)

    def _new_pace(self) -> Pace:
        limits = self._limits
        return Pace(
            PaceLimits(
                least_bytes=limits.wal_ship_window_least_bytes,
                most_bytes=limits.wal_ship_window_bytes,
                step_bytes=limits.wal_ship_window_step_bytes,
                patience=limits.wal_ship_patience,
                line_share=limits.wal_ship_line_share,
                work_share=limits.wal_ship_work_share,
            )
        )

    async def _window(self) -> list[CommittedBatch]:
        limits = self._limits
        room = limits.wal_ship_window if self._stream.atomic else 1
        window: list[CommittedBatch] = []
        size = 0
        while len(window) < room:
            batch = self._held or await self._next()
            self._held = None
            if batch is None:
                break
            size += len(batch.payload)
            if window and size > self._pace.window_bytes:
                self._held = batch
                break
            window.append(batch)
        return window

    async def _next(self) -> CommittedBatch | None:
        if self._source is None:
            self._source = self._wal.batches_after(self._cursor.acknowledged)
        batch = await anext(self._source, None)
        if batch is None:
            self._source = None
        return batch

    async def _sign(self, window: list[CommittedBatch]) -> list[Outgoing]:
        if len(window) == 1:
            return [self._outgoing(window[0])]
        return await asyncio.to_thread(lambda: [self._outgoing(batch) for batch in window])

    def _outgoing(self, batch: CommittedBatch) -> Outgoing:
        data = envelope.seal(envelope.DOMAIN_WAL, batch.payload, self._signing_key)
        return Outgoing(f"{self._wal.rack}:{batch.first}-{batch.digest[:8].hex()}", data)

    def _parse(self, message: StoredMessage) -> Stored:
        try:
            payload = envelope.open_by_any(envelope.DOMAIN_WAL, message.data, self._publics)
        except (DecodeError, VerificationError):
            if self._wal.acknowledged:
                raise
            # The rack was enrolled anew, with another key, and nothing of this journal was ever held there.
            return Stored(message.sequence, bytes(JOURNAL_BYTES), 0, 0, bytes(32))
        batch, decoded = CommittedBatch.of(payload)
        if decoded.rack != self._wal.rack:
            raise VerificationError(f"it names rack {decoded.rack!r}")
        return Stored(message.sequence, decoded.journal, batch.first, batch.last, batch.digest)

    async def _local(self, stored: Stored | None) -> Local:
        if stored is not None and stored.journal != self._wal.journal:
            stored = None
        last = stored.last if stored is not None else 0
        ending = await self._wal.batch_ending(last) if stored is not None else None
        following = None
        async for batch in self._wal.batches_after(last):
            following = Link(batch.first, batch.previous)
            break
        return Local(
            journal=self._wal.journal,
            acknowledged=self._wal.acknowledged,
            committed=self._wal.committed,
            ending=ending.digest if ending is not None else None,
            missing=stored is None or self._wal.missing(stored.first, stored.last),
            following=following,
        )

    async def _while_online(self, awaitable: Awaitable[T]) -> T:
        """Await, but give up when the connection goes: its answer would never come."""
        task = asyncio.ensure_future(awaitable)
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not self._gone.is_set():
                return task.result()
            raise _OfflineError("the connection went away")
        finally:
            for pending in (task, gone):
                pending.cancel()
                with contextlib.suppress(asyncio.CancelledError, StageboxError):
                    await pending

    async def _wait_after(self, error: StageboxError) -> None:
        self._cursor.doubt()
        self._pace.refused()
        self._failures += 1
        if isinstance(error, SequenceMismatchError) and self._failures == 1:
            return  # someone stored what we took for lost: read again at once
        self.stats.refused += 1
        if self._failures == 3:
            self._on_event(JournalEvent("wal_shipping_refused", "warning", {"reason": error.message}))
        longest = min(
            self._limits.wal_ship_retry_max,
            self._limits.wal_ship_retry_first * 2 ** min(self._failures - 1, 16),
        )
        await self._pause(longest * (0.5 + self._jitter() / 2))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), seconds)

    async def _drop_source(self) -> None:
        source, self._source, self._held = self._source, None, None
        if source is not None:
            await source.aclose()

    def _report_halt(self, reason: str) -> None:
        if not self._halt_reported:
            self._halt_reported = True
            detail = {"reason": reason, "remedy": FORK_REMEDY}
            self._on_event(JournalEvent("wal_forked", "alert", detail))

    def _report_gap(self, gap: Gap) -> None:
        if gap not in self._gaps:
            self._gaps.add(gap)
            self._on_event(JournalEvent("wal_gap", "alert", {"first": gap.first, "last": gap.last}))

    def _alert(self, name: str, reason: str) -> None:
        self._on_event(JournalEvent(name, "alert", {"reason": reason}))
