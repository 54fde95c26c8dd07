"""The ingest's I/O: read acknowledged batches from JetStream in order, verify, commit to the lake.

The position in the stream is kept in the lake, in the same commit as what was verified, and reading starts from it
after every start and every interruption. So a crash at any point repeats nothing and skips nothing; and a batch that
the lake holds already, from a stream that was made anew, is recognised by its journal's chain. A batch that does not
verify is rejected, audited and passed over; nothing of it is stored. One that is authentic and contradicts what is
committed raises a security alarm that names the records.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import structlog
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamInfo
from nats.js.client import JetStreamContext

from stagebox.bus import BusClient
from stagebox.errors import BusError, InputError, StageboxError
from stagebox.subjects import parse
from stagebox_mixer.audit import Audit
from stagebox_mixer.ingest.batches import BatchDesk, Work
from stagebox_mixer.lake.lake import Lake
from stagebox_mixer.lake.state import Position
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.outages import explained
from stagebox_mixer.registry.model import RackEntry
from stagebox_mixer.registry.store import Registry
from stagebox_mixer.streams import WAL_STREAM

log = structlog.get_logger()
_T = TypeVar("_T")


class _Stopping(Exception):
    """The ingest is asked to stop and nothing is under way."""


class Ingest:
    """The one reader of the WAL stream."""

    def __init__(self, *, bus: BusClient, registry: Registry, lake: Lake, audit: Audit) -> None:
        self._bus = bus
        self._registry = registry
        self._lake = lake
        self._audit = audit
        self._desk = BatchDesk(lake)
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._committed_at = 0.0
        self.committed_batches = 0
        self.rejected_batches = 0
        self.alarms = 0

    @property
    def running(self) -> bool:
        """Whether batches are read, or will be once the bus is back."""
        return self._task is not None and not self._task.done()

    async def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.create_task(self._run(), name="ingest")

    async def stop(self) -> None:
        """Finish the commit under way, then end. What is not committed stays in the stream."""
        self._stop.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with explained(f"the stream {WAL_STREAM}"):
                    await self._follow()
            except _Stopping:
                return
            except Exception as error:
                # Nothing may end the ingest for good: what was not committed is read again from its position.
                log.warning("ingest_interrupted", error=str(error) or type(error).__name__)
                self._desk.forget()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), LIMITS.ingest_retry_s)

    async def _follow(self) -> None:
        """Read from the lake's position until interrupted."""
        await self._or_stop(self._bus.wait_connected())
        js = self._bus.js
        info = await js.stream_info(WAL_STREAM)
        stream_id = _stream_id(info)
        position = Position(stream_id, await self._lake.position(stream_id, info.state.last_seq))
        consumer = (await js.add_consumer(WAL_STREAM, _consumer_config(position.stream_seq))).name
        subscription = await js.pull_subscribe_bind(consumer=consumer, stream=WAL_STREAM)
        delivered, room = 0, 1
        work = Work()
        try:
            while True:
                if self._bus.js is not js:
                    raise BusError("the bus connection was replaced")
                messages = await self._or_stop(_fetch(subscription, room, self._until_due(work)))
                if messages:
                    room = _room(messages)
                    delivered = _check_complete(messages, delivered)
                    position = Position(stream_id, int(messages[-1].metadata.sequence.stream))
                    entries = {
                        subject: await self._entry(subject) for subject in {m.subject for m in messages}
                    }
                    await asyncio.to_thread(self._verify, messages, entries, work)
                if work.messages and self._due(work):
                    await self._commit(work, position)
                    work = Work()
        finally:
            with contextlib.suppress(StageboxError, OSError), explained("the consumer"):
                await subscription.unsubscribe()
                await js.delete_consumer(WAL_STREAM, consumer)

    def _until_due(self, work: Work) -> float:
        if not work.messages:
            return LIMITS.ingest_wait_s
        return max(0.01, self._committed_at + LIMITS.ingest_commit_s - time.monotonic())

    def _due(self, work: Work) -> bool:
        late = time.monotonic() >= self._committed_at + LIMITS.ingest_commit_s
        return late or work.bytes >= LIMITS.ingest_commit_bytes

    def _verify(self, messages: Sequence[Msg], entries: Mapping[str, RackEntry | None], work: Work) -> None:
        for message in messages:
            entry = entries[message.subject]
            self._desk.take(message.subject, message.data, int(message.metadata.sequence.stream), entry, work)

    async def _commit(self, work: Work, position: Position) -> None:
        for row in work.alarms:
            await self._audit.record(row)
        await self._lake.commit(work.commits, position=position, rejected=work.rejected)
        self._committed_at = time.monotonic()
        self.committed_batches += len(work.commits)
        self.rejected_batches += len(work.rejected)
        self.alarms += len(work.alarms)
        for row in work.refusals:
            self._audit.refused(row)

    async def _entry(self, subject: str) -> RackEntry | None:
        try:
            rack = parse(subject).rack
        except InputError:
            return None  # nobody could be registered under such a name
        return await self._registry.rack(rack)

    async def _or_stop(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await ``work``, but drop it when the ingest is asked to stop."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                raise _Stopping
            return await task
        finally:
            task.cancel()
            stop.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    async def trim(self, js: JetStreamContext) -> None:
        """Drop from the stream what is committed, but never a rack's last batch: racks read it back."""
        with explained(f"the stream {WAL_STREAM}"):
            held = _stream_id(await js.stream_info(WAL_STREAM))
        if held != self._lake.state().position.stream_id:
            return  # made anew, and not yet read: the lake's sequences mean nothing in it
        newest: dict[str, int] = {}
        for journal in self._lake.all():
            newest[journal.rack] = max(newest.get(journal.rack, 0), journal.stream_seq)
        for rack, stream_seq in newest.items():
            if stream_seq > 1:
                with explained(f"the stream {WAL_STREAM}"):
                    await js.purge_stream(WAL_STREAM, seq=stream_seq, subject=f"rack.{rack}.wal")


def _stream_id(info: StreamInfo) -> int:
    if info.created is None:
        raise BusError(f"the server does not say when the stream {WAL_STREAM} was made")
    return int(info.created.timestamp() * 1_000_000) * 1000


async def _fetch(subscription: JetStreamContext.PullSubscription, count: int, wait_s: float) -> list[Msg]:
    try:
        return await subscription.fetch(count, timeout=wait_s)
    except TimeoutError:
        return []


def _room(messages: Sequence[Msg]) -> int:
    """Return how many messages to fetch next, if they are as large as these: what was fetched is in memory."""
    average = max(1, sum(len(message.data) for message in messages) // len(messages))
    return max(1, min(LIMITS.ingest_fetch, LIMITS.ingest_fetch_bytes // average))


def _check_complete(messages: Sequence[Msg], delivered: int) -> int:
    """Check that nothing is missing after consumer sequence ``delivered``; return the last one.

    Raises:
        BusError: a message got lost on the way; reading must start again from the position.
    """
    for message in messages:
        sequence = int(message.metadata.sequence.consumer)
        if sequence != delivered + 1:
            raise BusError(f"message {delivered + 1} of the consumer got lost on the way")
        delivered = sequence
    return delivered


def _consumer_config(position: int) -> ConsumerConfig:
    return ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=position + 1,
        ack_policy=AckPolicy.NONE,
        mem_storage=True,
        inactive_threshold=LIMITS.ingest_idle_consumer_s,
    )
