"""Proves live records by the checkpoints that list them: a pure state machine, no I/O, no clock.

Records and checkpoints go in, outcomes come out. A record is *verified* when a checkpoint whose signature,
certificate chain, rack name and place in the chain all hold lists its digest; *bad* when such a checkpoint
lists another digest under its number; *unverifiable* when none came in time or memory ran out; a *duplicate*
when the same bytes were there before. Memory is bounded whatever is lost, reordered, repeated or forged: a
forged record can at most push others from verified to unverifiable, never the other way.

Records are matched by digest, not by number, so a forgery that takes a genuine record's number does not
displace it. What is proved is origin, integrity and order, not freshness: a record carries its own time, and
a reader who has just come cannot tell a replay of old records with their old checkpoints. Arrival times are
seconds of any monotonic clock; certificate times are UTC.
"""

from __future__ import annotations

import datetime
import enum
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from stagebox import envelope, subjects
from stagebox.errors import VerificationError
from stagebox.limits import LIMITS
from stagebox.records.checkpoint import Checkpoint, payload_hash
from stagebox.subscriber.chain import CheckpointChain, Place
from stagebox.subscriber.limits import SubscriberLimits
from stagebox.subscriber.trust import RackTrust

T = TypeVar("T")

Position = tuple[bytes, int]
"""The boot id and sequence number that a record claims."""

_ENVELOPE_OVERHEAD = 256


class Verdict(enum.StrEnum):
    """What became of a record."""

    VERIFIED = "verified"
    UNVERIFIABLE = "unverifiable"
    BAD = "bad"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The verdict on one record; ``record`` is what was given with it."""

    record: T
    verdict: Verdict
    reason: str = ""


@dataclass(slots=True)
class _Pending(Generic[T]):
    record: T
    position: Position | None
    arrived: float


@dataclass(slots=True)
class _Covered:
    digest: bytes
    seen: bool


class Verifier(Generic[T]):
    """Verifies the records of any number of racks. ``wanted`` says for which subjects records may come."""

    def __init__(
        self,
        trust: RackTrust,
        limits: SubscriberLimits,
        wanted: Callable[[str], bool] = lambda _subject: True,
    ) -> None:
        self._trust = trust
        self._limits = limits
        self._wanted = wanted
        self._pending: OrderedDict[tuple[str, bytes], _Pending[T]] = OrderedDict()
        self._claims: dict[tuple[str, Position], list[bytes]] = {}
        self._covered: OrderedDict[str, OrderedDict[Position, _Covered]] = OrderedDict()
        self._chains: OrderedDict[str, CheckpointChain] = OrderedDict()
        self._gaps_forgotten = 0
        self.checkpoints = 0

    @property
    def pending(self) -> int:
        """How many records wait for their checkpoint."""
        return len(self._pending)

    @property
    def checkpoint_gaps(self) -> int:
        """How many checkpoints are missing between those received."""
        return self._gaps_forgotten + sum(chain.gaps for chain in self._chains.values())

    def next_deadline(self) -> float | None:
        """Return when :meth:`expire` has something to do."""
        for entry in self._pending.values():
            return entry.arrived + self._limits.unverifiable_after
        return None

    def add_record(
        self, record: T, subject: str, digest: bytes, position: Position | None, arrived: float
    ) -> list[Outcome[T]]:
        """Take a record; return what is settled by that (it, or older ones that memory cannot hold)."""
        key = (subject, digest)
        if key in self._pending:
            return [Outcome(record, Verdict.DUPLICATE, "received before")]
        stream = self._covered.get(subject)
        covered = stream.get(position) if stream is not None and position is not None else None
        if covered is not None:
            return [self._judge(record, covered, digest)]
        self._pending[key] = _Pending(record, position, arrived)
        if position is not None:
            self._claims.setdefault((subject, position), []).append(digest)
        outcomes = []
        while len(self._pending) > self._limits.max_pending_records:
            outcomes.append(self._drop_oldest("too many records wait for checkpoints"))
        return outcomes

    def add_checkpoint(
        self, subject: str, data: bytes, now: datetime.datetime
    ) -> tuple[Checkpoint, list[Outcome[T]]]:
        """Verify a checkpoint received on ``subject``; return it and the records it settles.

        Raises:
            DecodeError: malformed.
            VerificationError: it does not prove to be the rack's, or forks its history. Nothing is changed.
        """
        rack = subjects.parse(subject).rack
        payload, signature = envelope.split(data, max_bytes=LIMITS.max_checkpoint_bytes + _ENVELOPE_OVERHEAD)
        checkpoint = Checkpoint.decode(payload)
        if checkpoint.rack != rack:
            raise VerificationError(
                f"a checkpoint of rack {checkpoint.rack!r} came on the subject of {rack!r}"
            )
        public = self._trust.public_key(rack, checkpoint.chain, now)
        envelope.verify(envelope.DOMAIN_CHECKPOINT, payload, signature, public)
        self._check_streams(checkpoint)
        chain = self._chains.get(rack)
        if chain is None:
            chain = CheckpointChain(self._limits)
        own_hash = payload_hash(payload)
        if chain.examine(checkpoint, own_hash) is not Place.NEW:
            return checkpoint, []
        self._check_coverage(checkpoint)
        chain.accept(checkpoint, own_hash)
        self._keep_chain(rack, chain)
        self._trust.remember(rack, public)
        self.checkpoints += 1
        return checkpoint, self._apply(checkpoint)

    def expire(self, now: float) -> list[Outcome[T]]:
        """Give up on records older than ``unverifiable_after`` without a checkpoint."""
        outcomes: list[Outcome[T]] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            outcomes.append(self._drop_oldest("no checkpoint covered it in time"))
        return outcomes

    def _judge(self, record: T, covered: _Covered, digest: bytes) -> Outcome[T]:
        if covered.digest != digest:
            return Outcome(record, Verdict.BAD, "its digest is not the one the rack signed")
        if covered.seen:
            return Outcome(record, Verdict.DUPLICATE, "received before")
        covered.seen = True
        return Outcome(record, Verdict.VERIFIED)

    def _check_streams(self, checkpoint: Checkpoint) -> None:
        own = f"rack.{checkpoint.rack}."
        for subject in checkpoint.streams:
            if not subject.startswith(own):
                raise VerificationError(f"rack {checkpoint.rack!r} vouches for a foreign subject {subject!r}")

    def _check_coverage(self, checkpoint: Checkpoint) -> None:
        for subject, stream in checkpoint.streams.items():
            covered = self._covered.get(subject)
            if not covered:
                continue
            for offset, digest in enumerate(stream.digests):
                seq = stream.first_seq + offset
                known = covered.get((checkpoint.boot, seq))
                if known is not None and known.digest != digest:
                    raise VerificationError(
                        f"rack {checkpoint.rack!r} signed two digests for {subject} number {seq}"
                    )

    def _apply(self, checkpoint: Checkpoint) -> list[Outcome[T]]:
        outcomes: list[Outcome[T]] = []
        for subject, stream in checkpoint.streams.items():
            if not self._wanted(subject):
                continue
            covered = self._coverage_of(subject)
            for offset, digest in enumerate(stream.digests):
                position = (checkpoint.boot, stream.first_seq + offset)
                outcome = self._prove(subject, digest, position)
                outcomes += outcome
                covered.setdefault(position, _Covered(digest, bool(outcome)))
                outcomes += self._refute(subject, position)
            while len(covered) > self._limits.covered_per_stream:
                covered.popitem(last=False)
        return outcomes

    def _prove(self, subject: str, digest: bytes, position: Position) -> list[Outcome[T]]:
        entry = self._pending.pop((subject, digest), None)
        if entry is None:
            return []
        self._forget_claim(subject, digest, entry.position)
        if entry.position not in (None, position):
            return [Outcome(entry.record, Verdict.BAD, "the rack signed it under another number")]
        return [Outcome(entry.record, Verdict.VERIFIED)]

    def _refute(self, subject: str, position: Position) -> list[Outcome[T]]:
        """Whoever else claims this number is not what the rack published."""
        outcomes = []
        for digest in self._claims.pop((subject, position), ()):
            entry = self._pending.pop((subject, digest))
            reason = "its digest is not the one the rack signed"
            outcomes.append(Outcome(entry.record, Verdict.BAD, reason))
        return outcomes

    def _drop_oldest(self, reason: str) -> Outcome[T]:
        (subject, digest), entry = self._pending.popitem(last=False)
        self._forget_claim(subject, digest, entry.position)
        return Outcome(entry.record, Verdict.UNVERIFIABLE, reason)

    def _forget_claim(self, subject: str, digest: bytes, position: Position | None) -> None:
        if position is None:
            return
        claims = self._claims[(subject, position)]
        claims.remove(digest)
        if not claims:
            del self._claims[(subject, position)]

    def _coverage_of(self, subject: str) -> OrderedDict[Position, _Covered]:
        covered = self._covered.setdefault(subject, OrderedDict())
        self._covered.move_to_end(subject)
        while len(self._covered) > self._limits.max_covered_streams:
            self._covered.popitem(last=False)
        return covered

    def _keep_chain(self, rack: str, chain: CheckpointChain) -> None:
        self._chains[rack] = chain
        self._chains.move_to_end(rack)
        while len(self._chains) > self._limits.max_racks:
            _, forgotten = self._chains.popitem(last=False)
            self._gaps_forgotten += forgotten.gaps
