"""One subscription turned into typed, verified records, in order per subject and in bounded memory.

The stream feeds a :class:`Verifier` with what arrives and hands out what it settles. With ``verify=True`` a
record waits until it is settled and until those before it on its subject are; with ``"live"`` it is handed
out at once and settles later; with False nothing is checked and everything is marked unverified. Nothing is
lost silently: what a slow consumer misses is in ``counters.overruns``.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Literal

import structlog

from stagebox import envelope
from stagebox.bus.message import BusMessage
from stagebox.errors import DecodeError, InputError, StageboxError, VerificationError
from stagebox.limits import LIMITS
from stagebox.records.digest import record_digest
from stagebox.subjects import Kind, UnknownKindError
from stagebox.subscriber.counters import Counters
from stagebox.subscriber.limits import SubscriberLimits
from stagebox.subscriber.patterns import matches
from stagebox.subscriber.record import Record, Verification, parse_record
from stagebox.subscriber.sequence import SequenceGaps
from stagebox.subscriber.trust import RackTrust
from stagebox.subscriber.verifier import Outcome, Verdict, Verifier

Verify = Literal[True, False, "live"]
OnBad = Literal["raise", "count"]

_log = structlog.get_logger("stagebox.subscriber")

# Kinds that no checkpoint lists, because each message carries its rack's signature.
_SIGNED_DOMAINS = {Kind.WAL: envelope.DOMAIN_WAL, Kind.ACK: envelope.DOMAIN_ACK}


class RecordStream:
    """An asynchronous iterator of records. Made by :meth:`Subscriber.records`."""

    def __init__(
        self,
        pattern: str,
        trust: RackTrust | None,
        *,
        verify: Verify,
        on_bad: OnBad,
        limits: SubscriberLimits,
    ) -> None:
        self._pattern = pattern
        self._trust = trust
        self._verify = verify
        self._on_bad = on_bad
        self._limits = limits
        self._verifier: Verifier[Record] | None = None
        if verify and trust is not None:
            self._verifier = Verifier(trust, limits, lambda subject: matches(pattern, subject))
        self._gaps = SequenceGaps(limits)
        self._counters = Counters()
        self._ready_records: deque[Record] = deque()
        self._errors: deque[StageboxError] = deque()
        self._held: dict[str, deque[Record]] = {}
        self._held_count = 0
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._complained: set[tuple[str, str]] = set()

    @property
    def counters(self) -> Counters:
        """A copy of the counts now."""
        verifier = self._verifier
        self._counters.pending = verifier.pending if verifier is not None else 0
        self._counters.lost = self._gaps.lost
        self._counters.checkpoints = verifier.checkpoints if verifier is not None else 0
        self._counters.checkpoint_gaps = verifier.checkpoint_gaps if verifier is not None else 0
        copy = Counters()
        copy.add(self._counters)
        return copy

    # In

    def take_checkpoint(self, message: BusMessage) -> None:
        """Take a checkpoint that was subscribed beside the pattern."""
        self._prove(message)

    def take(self, message: BusMessage) -> None:
        """Take a message of the pattern."""
        if self._closed:
            return
        self._counters.received += 1
        if self._held_count + len(self._ready_records) >= self._limits.max_held_records:
            self._overrun()
            return
        try:
            record = parse_record(message.subject, message.payload, time.time_ns())
        except UnknownKindError as error:
            self._skip(message.subject, error)
            return
        except InputError as error:
            self._counters.bad += 1
            self._complain(message.subject, "malformed record", error)
            return
        if self._verifier is None:
            self._settle(record, Verification.UNVERIFIED, "verification was not asked for")
            self._emit(record)
        elif record.kind is Kind.CHECKPOINT:
            self._take_signed(record, self._prove(message))
        elif record.kind in _SIGNED_DOMAINS:
            self._take_signed(record, self._proves_itself(record))
        else:
            self._take_live(record, self._verifier)

    def _skip(self, subject: str, error: UnknownKindError) -> None:
        """Pass over what a later release publishes: it is not this reader's, and nothing is wrong with it."""
        self._counters.skipped += 1
        if self._counters.skipped == 1:
            _log.info("unknown_kind_skipped", subject=subject, pattern=self._pattern, detail=error.message)

    def _take_live(self, record: Record, verifier: Verifier[Record]) -> None:
        digest = record_digest(record.subject, record.payload)
        outcomes = verifier.add_record(record, record.subject, digest, record.position, self._loop.time())
        if any(outcome.record is record and outcome.verdict is Verdict.DUPLICATE for outcome in outcomes):
            self._counters.duplicates += 1
            return
        if self._verify == "live":
            self._finish(outcomes)
            if record.verification is not Verification.BAD:
                self._emit(record)
        else:
            self._held.setdefault(record.subject, deque()).append(record)
            self._held_count += 1
            self._finish(outcomes)
        self._arm()

    def _take_signed(self, record: Record, proved: bool) -> None:
        """Take a record that carries its own signature."""
        if proved:
            self._settle(record, Verification.VERIFIED)
            self._emit(record)
        elif record.kind in _SIGNED_DOMAINS:
            known = self._trust is not None and self._trust.current_key(record.rack) is not None
            why = (
                "not signed by the rack's last known key"
                if known
                else "no checkpoint of this rack was seen yet"
            )
            self._settle(record, Verification.UNVERIFIABLE, why)
            self._emit(record)
        else:
            self._settle(record, Verification.BAD, "the checkpoint does not verify")

    def _proves_itself(self, record: Record) -> bool:
        public = self._trust.current_key(record.rack) if self._trust is not None else None
        if public is None:
            return False
        try:
            envelope.open_envelope(
                _SIGNED_DOMAINS[record.kind], record.payload, public, max_bytes=LIMITS.max_envelope_bytes
            )
        except (DecodeError, VerificationError):
            return False
        return True

    def _prove(self, message: BusMessage) -> bool:
        """Feed a checkpoint to the verifier; tell whether it verified."""
        if self._closed or self._verifier is None:
            return False
        now = datetime.datetime.now(datetime.UTC)
        try:
            _, outcomes = self._verifier.add_checkpoint(message.subject, message.payload, now)
        except (InputError, VerificationError) as error:
            self._counters.bad_checkpoints += 1
            self._complain(message.subject, "bad checkpoint", error)
            return False
        self._finish(outcomes)
        self._arm()
        return True

    def _expire(self) -> None:
        self._timer = None
        if self._verifier is not None and not self._closed:
            self._finish(self._verifier.expire(self._loop.time()))
            self._arm()

    def _arm(self) -> None:
        """Keep one timer for the oldest pending record."""
        if self._timer is not None or self._verifier is None or self._closed:
            return
        deadline = self._verifier.next_deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._expire)

    # Settling

    def _finish(self, outcomes: list[Outcome[Record]]) -> None:
        touched = set()
        for outcome in outcomes:
            self._settle(outcome.record, Verification(outcome.verdict.value), outcome.reason)
            touched.add(outcome.record.subject)
        if self._verify is True:
            for subject in touched:
                self._release(subject)

    def _settle(self, record: Record, verification: Verification, reason: str = "") -> None:
        record.settle(verification, reason)
        counters, position = self._counters, record.position
        if verification is Verification.VERIFIED:
            counters.verified += 1
        elif verification is Verification.UNVERIFIABLE:
            counters.unverifiable += 1
        elif verification is Verification.UNVERIFIED:
            counters.unverified += 1
        else:
            counters.bad += 1
            self._complain(
                record.subject, reason, VerificationError(f"record on {record.subject!r}: {reason}")
            )
        if position is None or verification is Verification.BAD:
            return
        if verification is Verification.VERIFIED or self._verifier is None:
            self._gaps.genuine(record.subject, *position)
        else:
            self._gaps.doubtful(record.subject, *position)

    def _release(self, subject: str) -> None:
        """Hand out the settled records at the head of a subject's line."""
        line = self._held.get(subject)
        while line and line[0].verification is not Verification.PENDING:
            record = line.popleft()
            self._held_count -= 1
            if record.verification is not Verification.BAD:
                self._emit(record)
        if line is not None and not line:
            del self._held[subject]

    def _emit(self, record: Record) -> None:
        if len(self._ready_records) >= self._limits.queue_records:
            self._overrun(record)
            return
        self._ready_records.append(record)
        self._wake.set()

    def _overrun(self, record: Record | None = None) -> None:
        # A settled record was counted under its verification already; it moves to the overruns.
        if record is not None and record.verification is Verification.VERIFIED:
            self._counters.verified -= 1
        elif record is not None and record.verification is Verification.UNVERIFIABLE:
            self._counters.unverifiable -= 1
        elif record is not None and record.verification is Verification.UNVERIFIED:
            self._counters.unverified -= 1
        self._counters.overruns += 1
        if self._counters.overruns == 1:
            _log.warning("subscriber_overrun", pattern=self._pattern, queued=len(self._ready_records))

    def _complain(self, subject: str, what: str, error: StageboxError) -> None:
        if (subject, what) not in self._complained and len(self._complained) < self._limits.max_racks:
            self._complained.add((subject, what))
            _log.warning("verification_failed", subject=subject, what=what, detail=error.message)
        if self._on_bad == "raise" and len(self._errors) < self._limits.max_errors_queued:
            wrong = (
                error
                if isinstance(error, VerificationError)
                else VerificationError(f"{subject!r}: {error.message}")
            )
            self._errors.append(wrong)
            self._wake.set()

    # Out

    def __aiter__(self) -> AsyncIterator[Record]:
        return self

    async def __anext__(self) -> Record:
        while True:
            if self._errors:
                raise self._errors.popleft()
            if self._ready_records:
                return self._ready_records.popleft()
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()

    def end(self) -> None:
        """Take nothing more; the iteration ends after what is ready."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake.set()
