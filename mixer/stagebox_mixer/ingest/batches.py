"""From messages of the stream to commits: every batch verified, every contradiction turned into an alarm. Blocking."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from stagebox.errors import StageboxError
from stagebox.records import seal, tombstone
from stagebox_mixer.audit import Row
from stagebox_mixer.ingest.verification import (
    BatchRejected,
    CheckpointAudit,
    Continuation,
    VerifiedBatch,
    continues,
    open_batch,
)
from stagebox_mixer.lake.lake import Commit, Lake
from stagebox_mixer.lake.state import ChainHead
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import RackEntry

log = structlog.get_logger()


@dataclass
class Work:
    """What a few fetches come to: committed together with the position behind them."""

    commits: list[Commit] = field(default_factory=list)
    rejected: list[tuple[str, bytes]] = field(default_factory=list)
    refusals: list[Row] = field(default_factory=list)
    alarms: list[Row] = field(default_factory=list)
    heads: dict[tuple[str, bytes], ChainHead] = field(default_factory=dict)
    messages: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class _Signed:
    """What the signed records of a batch come to."""

    graves: Sequence[tuple[int, int]]
    seal: bytes


class BatchDesk:
    """Verifies batches one after another. Used by one thread at a time."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._checks: dict[str, tuple[bytes, CheckpointAudit]] = {}
        self._alarmed: dict[tuple[str, str], float] = {}

    def forget(self) -> None:
        """What was verified was not committed: begin anew from the lake."""
        self._checks.clear()

    def take(self, subject: str, data: bytes, stream_seq: int, entry: RackEntry | None, work: Work) -> None:
        """Verify one message and add what it comes to to ``work``."""
        work.messages += 1
        work.bytes += len(data)
        rack, journal = subject.split(".")[1], bytes(16)
        try:
            if entry is None:
                raise BatchRejected("unknown_rack", f"no rack {rack!r} is registered")
            verified = open_batch(data, rack=rack, keys=entry.keys)
            journal = verified.batch.journal
            key = (rack, journal)
            head = work.heads.get(key) or self._head(rack, journal)
            continuation = continues(head, verified)
            if continuation is Continuation.COMMITTED:
                self._same_as_committed(verified)
                return
        except BatchRejected as error:
            log.error("wal_batch_rejected", rack=rack, code=error.code, reason=error.message)
            work.rejected.append((rack, journal))
            if error.records is None or not self._alarming(rack, error.code):
                work.refusals.append(_refusal("wal_batch", rack, error))
            else:
                work.alarms.append(_alarm(f"wal_{error.code}", rack, journal, error.records, "contradicts"))
            return
        if continuation is Continuation.AFTER_GAP:
            gap = (head.last + 1, verified.batch.first - 1)
            log.error("wal_gap", rack=rack, first=gap[0], last=gap[1])
            work.alarms.append(_alarm("wal_gap", rack, journal, gap, "missing"))
        work.heads[key] = verified.head
        work.commits.append(self._prepare(verified, head, entry.keys, stream_seq, work))

    def _alarming(self, rack: str, code: str) -> bool:
        """Whether this is worth an alarm of its own: a rack that goes on and on is counted, not repeated."""
        now = time.monotonic()
        before = self._alarmed.get((rack, code))
        if before is not None and now - before < LIMITS.ingest_alarm_again_s:
            return False
        self._alarmed[rack, code] = now
        return True

    def _head(self, rack: str, journal: bytes) -> ChainHead:
        head = self._lake.head(rack, journal)
        if not head.last and len(self._lake.of_rack(rack)) >= LIMITS.ingest_journals_per_rack:
            raise BatchRejected(
                "journals",
                f"rack {rack!r} has {LIMITS.ingest_journals_per_rack} journals and begins another one",
            )
        return head

    def _same_as_committed(self, verified: VerifiedBatch) -> None:
        """Raise unless an old batch is what the lake holds; then the stream was made anew, or purged."""
        batch = verified.batch
        held = self._lake.digest_of(batch.rack, batch.journal, batch.first)
        if held is not None and held != verified.head.digest:
            raise BatchRejected(
                "rewind",
                f"records {batch.first}-{batch.last} came again and differ",
                (batch.first, batch.last),
            )

    def _prepare(
        self, verified: VerifiedBatch, head: ChainHead, keys: Sequence[bytes], stream_seq: int, work: Work
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
        signed = _signed(verified, keys, work)
        return Commit(
            rack=batch.rack,
            journal=batch.journal,
            first=batch.first,
            head=verified.head,
            payload=verified.payload,
            signature=verified.signature,
            key=verified.key,
            stream_seq=stream_seq,
            checkpoints=check.checkpoints - before[0],
            proved=check.proved - before[1],
            missing=batch.first - head.last - 1,
            graves=signed.graves,
            seal=signed.seal,
        )


def _signed(verified: VerifiedBatch, keys: Sequence[bytes], work: Work) -> _Signed:
    """Verify the seals and tombstones journalled in a batch; what does not verify explains and proves nothing."""
    batch = verified.batch
    graves: list[tuple[int, int]] = []
    newest = b""
    for record in batch.records:
        try:
            if record.kind == tombstone.KIND:
                grave = tombstone.open_tombstone(record.data, keys[0], keys[1:])
                if (grave.rack, grave.journal) == (batch.rack, batch.journal):
                    graves.append((grave.first, grave.last))
            elif record.kind == seal.KIND:
                sealed = seal.open_seal(record.data, keys[0], keys[1:])
                if (sealed.rack, sealed.journal) == (batch.rack, batch.journal):
                    newest = seal.seal_hash(record.data)
        except StageboxError as error:
            rejected = BatchRejected(record.kind, error.message)
            log.error("wal_signed_record_rejected", rack=batch.rack, kind=record.kind, reason=error.message)
            work.refusals.append(_refusal(f"wal_{record.kind}", batch.rack, rejected))
    return _Signed(graves, newest)


def _refusal(action: str, rack: str, error: BatchRejected) -> Row:
    return Row(f"rack:{rack}", action, rack, "refused", error.code, {"message": error.message})


def _alarm(action: str, rack: str, journal: bytes, records: tuple[int, int], reason: str) -> Row:
    detail: dict[str, str | int] = {"journal": journal.hex(), "first": records[0], "last": records[1]}
    return Row(f"rack:{rack}", action, rack, "ok", reason, detail)
