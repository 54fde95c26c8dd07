"""The ingest's I/O: read acknowledged batches from JetStream in order, verify, commit.

The position in the stream is kept in the ledger, in the same transaction as what was committed, and reading starts
from it after every start and every interruption. So a crash at any point repeats nothing and skips nothing; and a
batch that the ledger holds already, from a stream that was made anew, is recognised by its journal's chain. A batch
that does not verify is rejected, audited and passed over; nothing of it is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamInfo
from nats.js.client import JetStreamContext

from stagebox.bus import BusClient
from stagebox.errors import BusError, InputError, StageboxError
from stagebox.subjects import parse
from stagebox_mixer.audit import Audit, Row
from stagebox_mixer.ingest.ledger import Commit, Ledger, Position
from stagebox_mixer.ingest.verification import (
    BatchRejected,
    ChainHead,
    CheckpointAudit,
    Continuation,
    VerifiedBatch,
    continues,
    open_batch,
)
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.outages import explained
from stagebox_mixer.registry.model import RackEntry
from stagebox_mixer.registry.store import Registry
from stagebox_mixer.streams import WAL_STREAM

log = structlog.get_logger()
_T = TypeVar("_T")


class _Stopping(Exception):
    """The ingest is asked to stop and nothing is under way."""


@dataclass
class _Work:
    """What one fetch comes to: committed together with the position behind it."""

    commits: list[Commit] = field(default_factory=list)
    rejected: list[tuple[str, bytes]] = field(default_factory=list)
    refusals: list[Row] = field(default_factory=list)
    gaps: list[Row] = field(default_factory=list)


class Ingest:
    """The one reader of the WAL stream."""

    def __init__(self, *, bus: BusClient, registry: Registry, ledger: Ledger, audit: Audit) -> None:
        self._bus = bus
        self._registry = registry
        self._ledger = ledger
        self._audit = audit
        # Bounded, because a rack may name as many journals as it likes: heads by number, checks to one a rack.
        self._heads: OrderedDict[tuple[str, bytes], ChainHead] = OrderedDict()
        self._checks: dict[str, tuple[bytes, CheckpointAudit]] = {}
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self.committed_batches = 0
        self.rejected_batches = 0

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
                self._heads.clear()
                self._checks.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), LIMITS.ingest_retry_s)

    async def _follow(self) -> None:
        """Read from the ledger's position until interrupted."""
        await self._or_stop(self._bus.wait_connected())
        js = self._bus.js
        info = await js.stream_info(WAL_STREAM)
        stream_id = _stream_id(info)
        position = Position(stream_id, await self._ledger.position(stream_id, info.state.last_seq))
        consumer = (await js.add_consumer(WAL_STREAM, _consumer_config(position.stream_seq))).name
        subscription = await js.pull_subscribe_bind(consumer=consumer, stream=WAL_STREAM)
        delivered = 0
        try:
            while True:
                if self._bus.js is not js:
                    raise BusError("the bus connection was replaced")
                messages = await self._or_stop(_fetch(subscription))
                if not messages:
                    continue
                delivered = _check_complete(messages, delivered)
                last = int(messages[-1].metadata.sequence.stream)
                await self._take(messages, Position(stream_id, last))
        finally:
            with contextlib.suppress(StageboxError, OSError), explained("the consumer"):
                await subscription.unsubscribe()
                await js.delete_consumer(WAL_STREAM, consumer)

    async def _take(self, messages: Sequence[Msg], position: Position) -> None:
        work = _Work()
        for message in messages:
            await self._verify(message, work)
        for row in work.gaps:
            await self._audit.record(row)
        await self._ledger.commit(work.commits, position=position, rejected=work.rejected)
        self.committed_batches += len(work.commits)
        self.rejected_batches += len(work.rejected)
        while len(self._heads) > LIMITS.ingest_heads:  # only now: the ledger holds them again
            self._heads.popitem(last=False)
        for row in work.refusals:
            self._audit.refused(row)

    async def _verify(self, message: Msg, work: _Work) -> None:
        rack, journal = message.subject.split(".")[1], bytes(16)
        entry = await self._entry(message.subject)
        try:
            if entry is None:
                raise BatchRejected("unknown_rack", f"no rack {rack!r} is registered")
            verified = open_batch(message.data, rack=rack, keys=entry.keys)
            journal = verified.batch.journal
            key = (rack, journal)
            if key not in self._heads:
                self._heads[key] = await self._ledger.head(rack, journal)
            head = self._heads[key]
            continuation = continues(head, verified)
        except BatchRejected as error:
            log.error("wal_batch_rejected", rack=rack, code=error.code, reason=error.message)
            work.rejected.append((rack, journal))
            work.refusals.append(_refusal("wal_batch", rack, error))
            return
        if continuation is Continuation.COMMITTED:
            return
        if continuation is Continuation.AFTER_GAP:
            log.error("wal_gap", rack=rack, first=head.last + 1, last=verified.batch.first - 1)
            work.gaps.append(_gap(rack, head, verified))
        self._heads[key] = verified.head
        self._heads.move_to_end(key)
        stream_seq = int(message.metadata.sequence.stream)
        work.commits.append(self._prepare(verified, head, entry.keys, stream_seq, work))

    async def _entry(self, subject: str) -> RackEntry | None:
        try:
            rack = parse(subject).rack
        except InputError:
            return None  # nobody could be registered under such a name
        return await self._registry.rack(rack)

    def _prepare(
        self, verified: VerifiedBatch, head: ChainHead, keys: Sequence[bytes], stream_seq: int, work: _Work
    ) -> Commit:
        batch = verified.batch
        journal, check = self._checks.get(batch.rack, (None, None))
        if check is None or journal != batch.journal:
            check = CheckpointAudit(batch.rack, keys, LIMITS.ingest_digests_per_rack)
            self._checks[batch.rack] = batch.journal, check
        check.keys = keys
        before = (check.checkpoints, check.proved)
        for record in batch.records:
            try:
                check.observe(record)
            except BatchRejected as error:
                # The batch itself is authentic: its records are kept, and stay unproved.
                log.error("wal_checkpoint_rejected", rack=batch.rack, reason=error.message)
                work.refusals.append(_refusal("wal_checkpoint", batch.rack, error))
        return Commit(
            rack=batch.rack,
            journal=batch.journal,
            first=batch.first,
            head=verified.head,
            payload=verified.payload,
            stream_seq=stream_seq,
            checkpoints=check.checkpoints - before[0],
            proved=check.proved - before[1],
            missing=batch.first - head.last - 1,
        )

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
        if held != await self._ledger.stream_id():
            return  # made anew, and not yet read: the ledger's sequences mean nothing in it
        newest: dict[str, int] = {}
        for row in await self._ledger.all():
            newest[row.rack] = max(newest.get(row.rack, 0), row.stream_seq)
        for rack, stream_seq in newest.items():
            if stream_seq > 1:
                with explained(f"the stream {WAL_STREAM}"):
                    await js.purge_stream(WAL_STREAM, seq=stream_seq, subject=f"rack.{rack}.wal")


def _stream_id(info: StreamInfo) -> int:
    if info.created is None:
        raise BusError(f"the server does not say when the stream {WAL_STREAM} was made")
    return int(info.created.timestamp() * 1_000_000) * 1000


def _refusal(action: str, rack: str, error: BatchRejected) -> Row:
    return Row(f"rack:{rack}", action, rack, "refused", error.code, {"message": error.message})


def _gap(rack: str, head: ChainHead, verified: VerifiedBatch) -> Row:
    detail: dict[str, str | int] = {
        "journal": verified.batch.journal.hex(),
        "first": head.last + 1,
        "last": verified.batch.first - 1,
    }
    return Row(f"rack:{rack}", "wal_gap", rack, "ok", "missing", detail)


async def _fetch(subscription: JetStreamContext.PullSubscription) -> list[Msg]:
    try:
        return await subscription.fetch(LIMITS.ingest_fetch, timeout=LIMITS.ingest_wait_s)
    except TimeoutError:
        return []


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
