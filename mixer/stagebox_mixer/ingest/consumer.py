"""The ingest's I/O: pull acknowledged batches from JetStream, verify, commit, then confirm.

A message is confirmed only after its batch is committed, so a crash repeats messages and never loses one; a
repeated batch is recognised by its sequence and confirmed without a second commit. A batch that does not verify
is rejected, audited and taken out of the queue; nothing of it is stored.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.client import JetStreamContext

from stagebox.bus import BusClient
from stagebox.errors import BusError, InputError, StageboxError
from stagebox.subjects import parse
from stagebox_mixer.audit import Audit, Row
from stagebox_mixer.ingest.ledger import Commit, Ledger
from stagebox_mixer.ingest.verification import (
    BatchRejected,
    ChainHead,
    CheckpointAudit,
    VerifiedBatch,
    continues,
    open_batch,
)
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.store import Registry
from stagebox_mixer.streams import WAL_STREAM

log = structlog.get_logger()

DURABLE = "ingest"
_RETRY_S = 0.5


class Ingest:
    """One consumer of the WAL stream."""

    def __init__(self, *, bus: BusClient, registry: Registry, ledger: Ledger, audit: Audit) -> None:
        self._bus = bus
        self._registry = registry
        self._ledger = ledger
        self._audit = audit
        self._heads: dict[tuple[str, bytes], ChainHead] = {}
        self._checks: dict[tuple[str, bytes], CheckpointAudit] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.committed_batches = 0
        self.rejected_batches = 0

    async def start(self) -> None:
        """Begin to pull."""
        self._task = asyncio.create_task(self._run(), name="ingest")

    async def stop(self) -> None:
        """Finish the commit under way, then end. What is not committed stays in the stream."""
        self._stopping = True
        if self._task is not None:
            try:
                async with asyncio.timeout(LIMITS.ingest_wait_s + 5):
                    await self._task
            except TimeoutError:
                log.warning("ingest_stopped_hard")
            self._task = None

    async def _run(self) -> None:
        while not self._stopping:
            try:
                await self._pull()
            except asyncio.CancelledError:
                raise
            except (StageboxError, NatsError, OSError, TimeoutError) as error:
                log.warning("ingest_interrupted", error=str(error) or type(error).__name__)
                # What was not committed comes again; the heads are read anew.
                self._heads.clear()
                self._checks.clear()
                await asyncio.sleep(_RETRY_S)

    async def _pull(self) -> None:
        await self._bus.wait_connected()
        js = self._bus.js
        await js.add_consumer(WAL_STREAM, _consumer_config())
        subscription = await js.pull_subscribe_bind(durable=DURABLE, stream=WAL_STREAM)
        try:
            while not self._stopping:
                with contextlib.suppress(TimeoutError):
                    messages = await subscription.fetch(LIMITS.ingest_fetch, timeout=LIMITS.ingest_wait_s)
                    await self._take(messages)
                if self._bus.js is not js:
                    raise BusError("the bus connection was replaced")
        finally:
            with contextlib.suppress(NatsError, StageboxError):
                await subscription.unsubscribe()

    async def _take(self, messages: list[Msg]) -> None:
        commits: list[Commit] = []
        for message in messages:
            commit = await self._verify(message)
            if commit is not None:
                commits.append(commit)
        if commits:
            await self._ledger.commit(commits)
            self.committed_batches += len(commits)
        for message in messages:
            await message.ack()

    async def _verify(self, message: Msg) -> Commit | None:
        rack = parse(message.subject).rack
        journal = bytes(16)
        try:
            entry = await self._registry.rack(rack)
            if entry is None:
                raise BatchRejected("unknown_rack", f"no rack {rack!r} is registered")
            verified = open_batch(message.data, rack=rack, rack_public=entry.rack_public)
            journal = verified.batch.journal
            key = (rack, journal)
            if key not in self._heads:
                self._heads[key] = await self._ledger.head(rack, journal)
            if not continues(self._heads[key], verified):
                return None
            commit = self._prepare(verified, entry.rack_public, int(message.metadata.sequence.stream))
        except (BatchRejected, InputError) as error:
            await self._reject(rack, journal, error)
            return None
        self._heads[key] = commit.head
        return commit

    def _prepare(self, verified: VerifiedBatch, rack_public: bytes, stream_seq: int) -> Commit:
        batch = verified.batch
        key = (batch.rack, batch.journal)
        check = self._checks.get(key)
        if check is None or check.rack_public != rack_public:
            check = CheckpointAudit(batch.rack, rack_public, LIMITS.ingest_digests_per_rack)
            self._checks[key] = check
        before = (check.checkpoints, check.proved)
        for record in batch.records:
            check.observe(record)
        return Commit(
            rack=batch.rack,
            journal=batch.journal,
            first=batch.first,
            head=verified.head,
            payload=verified.payload,
            stream_seq=stream_seq,
            checkpoints=check.checkpoints - before[0],
            proved=check.proved - before[1],
        )

    async def _reject(self, rack: str, journal: bytes, error: StageboxError) -> None:
        self.rejected_batches += 1
        code = error.code if isinstance(error, BatchRejected) else "malformed"
        log.error("wal_batch_rejected", rack=rack, code=code, reason=error.message)
        self._audit.refused(
            Row(f"rack:{rack}", "wal_batch", rack, "refused", code, {"message": error.message})
        )
        await self._ledger.count_rejected(rack, journal)

    async def trim(self, js: JetStreamContext) -> None:
        """Drop from the stream what is committed, but never a rack's last batch: racks read it back."""
        newest: dict[str, int] = {}
        for row in await self._ledger.all():
            newest[row.rack] = max(newest.get(row.rack, 0), row.stream_seq)
        for rack, stream_seq in newest.items():
            if stream_seq > 1:
                await js.purge_stream(WAL_STREAM, seq=stream_seq, subject=f"rack.{rack}.wal")


def _consumer_config() -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=DURABLE,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=LIMITS.ingest_ack_wait_s,
        max_ack_pending=LIMITS.ingest_max_pending,
    )
