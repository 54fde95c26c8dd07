"""One record as the SDK hands it out: typed, and marked with what is known about its origin."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from stagebox import envelope, subjects
from stagebox.control.command import Ack
from stagebox.errors import DecodeError
from stagebox.records.audio import AudioPacket
from stagebox.records.checkpoint import Checkpoint
from stagebox.records.event import Event
from stagebox.records.meter import MeterFrame
from stagebox.records.module import ModuleRecord
from stagebox.records.status import Status
from stagebox.records.walbatch import WalBatch
from stagebox.subjects import Kind

Value = MeterFrame | AudioPacket | Status | Event | ModuleRecord | Checkpoint | WalBatch | Ack


class Verification(enum.StrEnum):
    """What is known about a record: is it the rack's, unaltered?

    UNVERIFIABLE: no proof came in time, or none ever can. UNVERIFIED: nobody asked for one.
    """

    PENDING = "pending"
    VERIFIED = "verified"
    UNVERIFIABLE = "unverifiable"
    UNVERIFIED = "unverified"
    BAD = "bad"


@dataclass(eq=False, slots=True)
class Record:
    """A record of a rack. ``value`` is its typed content, None for a kind that has none here (a rack's requests).

    ``leaf`` and ``out`` are what the subject names after the kind: a source, a bus; a module and its output.
    ``received_ns`` is this machine's clock in nanoseconds since the Unix epoch. ``verification`` changes at
    most once, from PENDING; ``reason`` says why it is not VERIFIED.
    """

    subject: str
    rack: str
    kind: Kind
    leaf: str | None
    payload: bytes
    received_ns: int
    value: Value | None
    verification: Verification = Verification.PENDING
    reason: str = ""
    out: str | None = None
    _settled: asyncio.Event | None = field(default=None, repr=False)

    @property
    def position(self) -> tuple[bytes, int] | None:
        """The boot id and sequence number, for live records."""
        if isinstance(self.value, MeterFrame | AudioPacket | Status | Event | ModuleRecord):
            return self.value.boot, self.value.seq
        return None

    async def settled(self) -> Verification:
        """Wait until the record is no longer PENDING and return what it became."""
        if self.verification is Verification.PENDING:
            if self._settled is None:
                self._settled = asyncio.Event()
            await self._settled.wait()
        return self.verification

    def settle(self, verification: Verification, reason: str = "") -> None:
        """Set the final verification. For the stream that made the record."""
        self.verification, self.reason = verification, reason
        if self._settled is not None:
            self._settled.set()


def _checkpoint(data: bytes) -> Checkpoint:
    payload, _ = envelope.split(data)
    return Checkpoint.decode(payload)


def _wal_batch(data: bytes) -> WalBatch:
    payload, _ = envelope.split(data)
    return WalBatch.decode(payload)


def _ack(data: bytes) -> Ack:
    payload, _ = envelope.split(data)
    return Ack.decode(payload)


_DECODERS: dict[Kind, Callable[[bytes], Value]] = {
    Kind.METER: MeterFrame.decode,
    Kind.AUDIO: AudioPacket.decode,
    Kind.STATUS: Status.decode,
    Kind.EVENT: Event.decode,
    Kind.ALERT: Event.decode,
    Kind.MODULE: ModuleRecord.decode,
    Kind.CHECKPOINT: _checkpoint,
    Kind.WAL: _wal_batch,
    Kind.ACK: _ack,
}


def parse_record(subject: str, payload: bytes, received_ns: int) -> Record:
    """Decode one message.

    Raises:
        UnknownKindError: of a kind that this software does not know.
        InputError: not a rack's subject (DecodeError: or the payload does not follow its kind's format).
    """
    parsed = subjects.parse(subject)
    decoder = _DECODERS.get(parsed.kind)
    value = decoder(payload) if decoder is not None else None
    if isinstance(value, Checkpoint | WalBatch | Ack) and value.rack != parsed.rack:
        raise DecodeError(f"{parsed.kind.value} of rack {value.rack!r} came on {subject!r}")
    if isinstance(value, ModuleRecord) and value.module != parsed.leaf:
        raise DecodeError(f"a record of module {value.module!r} came on {subject!r}")
    return Record(subject, parsed.rack, parsed.kind, parsed.leaf, payload, received_ns, value, out=parsed.out)
