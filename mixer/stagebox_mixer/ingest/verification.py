"""What a journal batch must prove before it is committed. Pure.

A batch is signed by an identity key of its rack, names its journal and continues that journal's chain. Which keys
count is the registry's word: the current one, one issued and not yet proved, and earlier ones, because what a replaced
key signed may still be on its way; so do those of a rack that was suspended or removed since. A rack that lost records
(an evicted or damaged file) goes on after a gap in its own signed numbering: what comes behind is taken and the gap is
counted and audited, never papered over. Checkpoints must list the digests of the records journalled with them.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from stagebox import envelope
from stagebox.errors import DecodeError, StageboxError, VerificationError
from stagebox.limits import LIMITS as SHARED
from stagebox.records.checkpoint import Checkpoint
from stagebox.records.digest import record_digest
from stagebox.records.walbatch import WalBatch, WalRecord, payload_digest
from stagebox.subjects import Kind
from stagebox_mixer.lake.state import ARRIVALS, BATCHES, ChainHead

_CHECKPOINT: Final = Kind.CHECKPOINT.value
_LAST_NS: Final = (1 << 63) - 1
_TABLES: Final = frozenset({ARRIVALS, BATCHES})


class BatchRejected(VerificationError):
    """A batch does not prove what it claims; ``code`` goes to the audit.

    ``records`` are (first, last) of an authentic batch that contradicts what is committed: a reason for alarm.
    """

    def __init__(self, code: str, message: str, records: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.records = records


@dataclass(frozen=True)
class VerifiedBatch:
    """A batch whose signature by ``key`` verified, with the payload exactly as signed."""

    batch: WalBatch
    payload: bytes
    signature: bytes
    key: bytes

    @cached_property
    def head(self) -> ChainHead:
        """The chain head once this batch is committed."""
        return ChainHead(self.batch.last, payload_digest(self.payload))


def open_batch(data: bytes, *, rack: str, keys: Sequence[bytes]) -> VerifiedBatch:
    """Verify the signature, by any of the rack's ``keys``, and the name.

    Raises:
        BatchRejected: malformed, not signed by a key of this rack, or in another rack's name.
    """
    try:
        payload, signature = envelope.split(data)
        key = _signer(payload, signature, keys)
        batch = WalBatch.decode(payload)
    except DecodeError as error:
        raise BatchRejected("malformed", error.message) from None
    except VerificationError as error:
        raise BatchRejected("signature", error.message) from None
    if batch.rack != rack:
        raise BatchRejected("other_rack", f"a batch of rack {batch.rack!r} on the subject of {rack!r}")
    if any(record.time_ns > _LAST_NS or record.kind in _TABLES for record in batch.records):
        # No rack's journal takes such a record, and the lake has no place for it.
        raise BatchRejected("malformed", "a record's time or kind is none that the lake can hold")
    return VerifiedBatch(batch, payload, signature, key)


def _signer(payload: bytes, signature: bytes, keys: Sequence[bytes]) -> bytes:
    for key in keys[:-1]:
        try:
            envelope.verify(envelope.DOMAIN_WAL, payload, signature, key)
        except VerificationError:
            continue
        return key
    envelope.verify(envelope.DOMAIN_WAL, payload, signature, keys[-1])
    return keys[-1]


class Continuation(enum.Enum):
    """How a batch relates to what is committed of its journal."""

    COMMITTED = enum.auto()
    NEXT = enum.auto()
    AFTER_GAP = enum.auto()


def continues(head: ChainHead, verified: VerifiedBatch) -> Continuation:
    """Tell whether the batch is committed already, the next one, or the next one after missing records.

    Raises:
        BatchRejected: it overlaps, or continues another history.
    """
    batch = verified.batch
    if batch.last <= head.last:
        if batch.last == head.last and verified.head.digest != head.digest:
            raise BatchRejected(
                "fork", f"records up to {batch.last} differ from what is committed", (batch.first, batch.last)
            )
        return Continuation.COMMITTED
    if batch.first <= head.last:
        raise BatchRejected(
            "overlap",
            f"the batch starts at {batch.first}, the committed journal ends at {head.last}",
            (batch.first, head.last),
        )
    if batch.first > head.last + 1:
        # What the batch names as the one before it is not here to compare with; the signature stands.
        return Continuation.AFTER_GAP
    if batch.previous != head.digest:
        raise BatchRejected(
            "fork",
            f"the batch from {batch.first} does not continue the committed chain",
            (batch.first, batch.last),
        )
    return Continuation.NEXT


@dataclass
class CheckpointAudit:
    """Compares a rack's journalled live records with the checkpoints journalled beside them.

    ``keys`` may be set anew when the rack gets another key; what was observed stays. Bounded: digests that no
    checkpoint claims are forgotten, oldest first, and counted as unproved.
    """

    rack: str
    keys: Sequence[bytes]
    max_digests: int
    checkpoints: int = 0
    proved: int = 0
    forgotten: int = 0
    _open: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def observe(self, record: WalRecord) -> None:
        """Take one committed record.

        Raises:
            BatchRejected: a checkpoint that is not this rack's, or not signed by it.
        """
        if record.kind == _CHECKPOINT:
            self._check(record)
            return
        # The subject is in the digest; kept beside it, long ones would be memory without bound.
        self._open[record_digest(record.subject, record.data)] = None
        if len(self._open) > self.max_digests:
            self._open.popitem(last=False)
            self.forgotten += 1

    def _check(self, record: WalRecord) -> None:
        try:
            payload = envelope.open_by_any(
                envelope.DOMAIN_CHECKPOINT, record.data, self.keys, max_bytes=SHARED.max_checkpoint_bytes
            )
            checkpoint = Checkpoint.decode(payload)
        except StageboxError as error:
            raise BatchRejected("checkpoint", error.message) from None
        if checkpoint.rack != self.rack:
            raise BatchRejected("checkpoint", f"a checkpoint of rack {checkpoint.rack!r}")
        self.checkpoints += 1
        for stream in checkpoint.streams.values():
            for digest in stream.digests:
                if self._open.pop(digest, False) is None:
                    self.proved += 1
