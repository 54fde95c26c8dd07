"""Where shipping stands, as a state machine without I/O.

::

    OFFLINE ──connected──▶ READING ──placed──▶ SHIPPING ──sent──▶ (in flight) ──stored──▶ SHIPPING
       ▲                      ▲  └──forked──▶ HALTED
       └──disconnected── any  └──doubt── SHIPPING, in flight or not; HALTED

Rules: the server's last stored batch is the truth, so the cursor moves backwards too. One publish is in flight
at a time, and it names the stream sequence it must follow; any doubt about it (time-out, refusal, lost
connection) means reading again, never assuming. A server that holds what this journal cannot have led to stops
shipping: guessing there would fork the record for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Phase(Enum):
    """What the shipper may do now."""

    OFFLINE = auto()
    READING = auto()
    SHIPPING = auto()
    HALTED = auto()


@dataclass(frozen=True)
class Stored:
    """The last batch of this rack that the server holds, and its place in the stream."""

    stream_sequence: int
    journal: bytes
    first: int
    last: int
    digest: bytes


@dataclass(frozen=True)
class Link:
    """The first local batch after some point: its first sequence and the digest it names as previous."""

    first: int
    previous: bytes


@dataclass(frozen=True)
class Local:
    """What the journal knows about the server's last batch.

    ``acknowledged`` is what the server once held of this journal; ``ending`` the digest of the readable batch
    that ends where the stored one ends; ``missing`` whether no record of the stored one is readable (evicted
    or lost); ``following`` the first readable batch after it.
    """

    journal: bytes
    acknowledged: int
    committed: int
    ending: bytes | None
    missing: bool
    following: Link | None


@dataclass(frozen=True)
class Fork:
    """Why the server's chain and this journal cannot be the same one."""

    reason: str


@dataclass(frozen=True)
class Gap:
    """Records that neither the server nor this journal can give any more."""

    first: int
    last: int


def compare(stored: Stored | None, local: Local) -> Fork | Gap | None:
    """Return what stands between the server's chain and ours; None when ours simply goes on."""
    if stored is not None and stored.journal != local.journal:
        if local.acknowledged:
            return Fork(f"another journal ({stored.journal.hex()}) has taken this one's place at the server")
        stored = None  # a journal before this one, whose disk was lost or replaced: ours begins after it
    last = stored.last if stored is not None else 0
    if stored is not None and last > local.committed:
        return Fork(f"the server holds record {last}, this journal ends at {local.committed}")
    if stored is not None and local.ending is not None:
        if local.ending == stored.digest:
            return _gap(last, local)
        return Fork(f"the server's batch {stored.first}-{last} differs from this journal's")
    if stored is not None and not local.missing:
        return Fork(f"the server's batch {stored.first}-{last} is no batch of this journal")
    following = local.following
    if (
        stored is not None
        and following is not None
        and following.first == last + 1
        and following.previous != stored.digest
    ):
        return Fork(f"batch {following.first} of this journal does not continue the server's batch")
    return _gap(last, local)


def _gap(last: int, local: Local) -> Gap | None:
    next_readable = local.following.first if local.following is not None else local.committed + 1
    return Gap(last + 1, next_readable - 1) if next_readable > last + 1 else None


class Cursor:
    """The state. Methods are events; a call that the state does not allow is a defect and raises."""

    def __init__(self) -> None:
        self.phase = Phase.OFFLINE
        self.acknowledged = 0
        self.stream_sequence = 0
        self.in_flight: int | None = None
        self.reason: str | None = None

    def connected(self) -> None:
        """The bus is up: what the server holds must be read before anything is sent."""
        self.phase, self.in_flight, self.reason = Phase.READING, None, None

    def disconnected(self) -> None:
        """The bus is down; what was in flight may or may not have been stored."""
        self.phase, self.in_flight = Phase.OFFLINE, None

    def doubt(self) -> None:
        """What was in flight may or may not have been stored: read again."""
        self.in_flight = None
        if self.phase is not Phase.OFFLINE:
            self.phase = Phase.READING

    def place(self, stored: Stored | None, local: Local) -> Fork | Gap | None:
        """Take the cursor from the server; return what the operator must hear of, if anything."""
        self._expect(Phase.READING)
        found = compare(stored, local)
        if isinstance(found, Fork):
            self.phase, self.reason = Phase.HALTED, found.reason
            return found
        ours = stored is not None and stored.journal == local.journal
        self.acknowledged = stored.last if ours and stored is not None else 0
        self.stream_sequence = stored.stream_sequence if stored is not None else 0
        self.phase, self.reason = Phase.SHIPPING, None
        return found

    def halt(self, reason: str) -> None:
        """The server holds something that is not ours at all."""
        self._expect(Phase.READING)
        self.phase, self.reason = Phase.HALTED, reason

    def sent(self, first: int, last: int) -> int:
        """Records ``first`` … ``last`` go out; return the stream sequence they must follow."""
        self._expect(Phase.SHIPPING)
        if self.in_flight is not None:
            raise RuntimeError("a publish is already in flight")
        if not self.acknowledged < first <= last:
            raise RuntimeError(f"records {first}-{last} do not follow {self.acknowledged}")
        self.in_flight = last
        return self.stream_sequence

    def stored(self, stream_sequence: int) -> int:
        """The server stored what was in flight; return the acknowledged sequence."""
        self._expect(Phase.SHIPPING)
        if self.in_flight is None or stream_sequence <= self.stream_sequence:
            raise RuntimeError("the server acknowledged what was not sent")
        self.acknowledged, self.in_flight = self.in_flight, None
        self.stream_sequence = stream_sequence
        return self.acknowledged

    def _expect(self, phase: Phase) -> None:
        if self.phase is not phase:
            raise RuntimeError(f"not allowed while {self.phase.name.lower()}")
