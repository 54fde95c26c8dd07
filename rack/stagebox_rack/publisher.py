"""Makes records of what the rack measured and did, and sends each where it belongs.

Live: on the bus at once; what the bus cannot take is counted and gone, but for alerts and acks, which are said first
when it is back. Durable: in the journal. Meter frames, status, events, alerts, module records, acks and checkpoints go
both ways; audio packets are live only. Every live record without a signature of its own is listed in the next
checkpoint. Runs on the event loop; nothing here waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import structlog

from stagebox import cbor, subjects
from stagebox.errors import InputError, StageboxError
from stagebox.limits import LIMITS as SHARED
from stagebox.records.audio import AudioPacket
from stagebox.records.event import Event
from stagebox.records.module import ModuleRecord
from stagebox.records.status import Status
from stagebox.subjects import Kind
from stagebox_rack.audio.measurement import AudioItem, MeterMeasurement, OpusPacket, SourceEvent
from stagebox_rack.checkpointing import CheckpointBuilder
from stagebox_rack.late import Late, LateRecord
from stagebox_rack.limits import LIMITS
from stagebox_rack.meter_frames import encode_frame

log = structlog.get_logger()

_ALWAYS_LIVE = frozenset({Kind.STATUS, Kind.ACK})


class LiveBus(Protocol):
    """What is needed of the bus client."""

    def publish(self, subject: str, payload: bytes) -> bool:
        """Send without waiting; False when it was not sent."""
        ...


class Journal(Protocol):
    """What is needed of the write-ahead log."""

    def append(
        self, kind: str, time_ns: int, subject: str, data: bytes, *, urgent: bool = False
    ) -> asyncio.Future[int]:
        """Journal one record; the future resolves when it is durable."""
        ...


class Publisher:
    """One rack's records. ``boot`` is the 16-byte id of this process start.

    While ``limited`` is True (pending, suspended) only status and acks go live: the bus takes nothing else from such
    a rack. The journal takes everything.
    """

    def __init__(
        self,
        *,
        rack: str,
        boot: bytes,
        bus: LiveBus,
        journal: Journal,
        checkpoints: CheckpointBuilder,
        now_ns: Callable[[], int],
    ) -> None:
        self._rack = rack
        self._boot = boot
        self._bus = bus
        self._journal = journal
        self._checkpoints = checkpoints
        self._now_ns = now_ns
        self._sequences: Counter[str] = Counter()
        self._module_outputs: dict[str, set[str]] = {}
        self.published: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.not_journalled = 0
        self._late = Late(LIMITS.late_bytes)
        self._last_append: asyncio.Future[int] | None = None
        self.limited = False
        self.observe: Callable[[Kind, str, bytes], None] | None = None
        """Is given every record made, with its kind and subject; it must not wait."""

    async def journalled(self) -> None:
        """Return when everything appended so far is durable, or was refused."""
        if self._last_append is not None:
            await asyncio.wait([self._last_append])

    def take(self, item: AudioItem) -> None:
        """Publish one item of the audio engine."""
        match item:
            case MeterMeasurement():
                self._meter(item)
            case OpusPacket():
                self._audio(item)
            case SourceEvent():
                detail = {"source": item.source, "start": item.start, **item.detail}
                self.event(item.name, detail, time_ns=item.time_ns)

    def event(self, name: str, detail: dict[str, Any], *, time_ns: int | None = None) -> None:
        """Publish something that happened."""
        self._happened(subjects.event(self._rack), Kind.EVENT, name, detail, time_ns)

    def alert(self, name: str, detail: dict[str, Any], *, journalled: bool = True) -> None:
        """Publish something that needs attention; ``journalled`` False when the journal itself is the trouble."""
        self._happened(subjects.alert(self._rack), Kind.ALERT, name, detail, None, journalled=journalled)

    def module_record(
        self,
        *,
        module: str,
        version: str,
        out: str,
        insert: str,
        data: Mapping[str, Any],
        source: str = "",
        start: int = 0,
        time_ns: int | None = None,
    ) -> None:
        """Publish what a module said on its output ``out``; see :class:`ModuleRecord` for the rest.

        A third party chooses ``out`` and ``data``, a host process tells ``start`` and ``time_ns``: what no subscriber
        could read is refused, and takes no number.

        Raises:
            InputError: an illegal name, more outputs than ``LIMITS.module_outputs``, or what no record can hold.
        """
        subject = subjects.module(self._rack, module, out)
        outputs = self._module_outputs.setdefault(module, set())
        if out not in outputs and len(outputs) >= LIMITS.module_outputs:
            raise InputError(
                f"output {out!r} is one more than the {LIMITS.module_outputs} that module {module!r} may have",
                remedy="say in the data what the names of the outputs say",
            )
        moment = self._now_ns() if time_ns is None else time_ns
        if not (0 <= moment < 1 << 63 and 0 <= start < 1 << 64):
            raise InputError(f"a record of module {module!r} has a time or a start out of range")
        seq = self._sequences[subject] + 1
        record = ModuleRecord(
            seq, self._boot, moment, module, version, insert, source, start, dict(data)
        ).encode()
        cbor.decode(record, max_bytes=SHARED.max_record_bytes)
        outputs.add(out)
        self._send(Kind.MODULE, subject, self._next(subject), record, moment)

    def status(self, state: str, body: dict[str, Any]) -> None:
        """Publish a heartbeat."""
        subject, now = subjects.status(self._rack), self._now_ns()
        seq = self._next(subject)
        sent = self._send(Kind.STATUS, subject, seq, Status(seq, self._boot, now, state, body).encode(), now)
        if sent:
            self.catch_up()  # there is room for what there was none for

    def checkpoint(self) -> None:
        """Sign and publish what was listed since the last checkpoint, if anything."""
        now = self._now_ns()
        data = self._checkpoints.sign(now)
        if data is None:
            return
        subject = subjects.checkpoint(self._rack)
        self._live(Kind.CHECKPOINT, subject, data)
        self._append(Kind.CHECKPOINT, now, subject, data)

    def ack(self, data: bytes) -> None:
        """Publish the answer to a command, which carries its own signature."""
        subject = subjects.ack(self._rack)
        self._live(Kind.ACK, subject, data)
        self._append(Kind.ACK, self._now_ns(), subject, data, urgent=True)

    def catch_up(self) -> None:
        """The bus takes records (again): send the alerts and acks that it could not take."""
        self._late.put_back([record for record in self._late.take() if not self._sent(record)])

    def _meter(self, item: MeterMeasurement) -> None:
        subject = subjects.meter(self._rack, item.source)
        seq = self._next(subject)
        self._send(Kind.METER, subject, seq, encode_frame(item, seq=seq, boot=self._boot), item.time_ns)

    def _audio(self, item: OpusPacket) -> None:
        subject = subjects.audio(self._rack, item.bus)
        seq = self._next(subject)
        packet = AudioPacket(
            seq=seq,
            boot=self._boot,
            time_ns=item.time_ns,
            start=item.start,
            frames=item.frames,
            rate=item.rate,
            channels=item.channels,
            data=item.data,
        )
        self._send(Kind.AUDIO, subject, seq, packet.encode(), item.time_ns, journalled=False)

    def _happened(
        self,
        subject: str,
        kind: Kind,
        name: str,
        detail: dict[str, Any],
        time_ns: int | None,
        *,
        journalled: bool = True,
    ) -> None:
        moment = self._now_ns() if time_ns is None else time_ns
        seq = self._next(subject)
        level = log.warning if kind is Kind.ALERT else log.info
        level(name, **{key: value for key, value in detail.items() if key != "event"})
        data = Event(seq, self._boot, moment, name, detail).encode()
        self._send(kind, subject, seq, data, moment, journalled=journalled, urgent=kind is Kind.ALERT)

    def _next(self, subject: str) -> int:
        self._sequences[subject] += 1
        return self._sequences[subject]

    def _send(
        self,
        kind: Kind,
        subject: str,
        seq: int,
        data: bytes,
        time_ns: int,
        *,
        journalled: bool = True,
        urgent: bool = False,
    ) -> bool:
        self._checkpoints.add(subject, seq, data, time_ns)
        if self.observe is not None:
            self.observe(kind, subject, data)
        sent = self._live(kind, subject, data)
        if journalled:
            self._append(kind, time_ns, subject, data, urgent=urgent)
        if self._checkpoints.full:
            self.checkpoint()
        return sent

    def _live(self, kind: Kind, subject: str, data: bytes) -> bool:
        """Send a record now, or keep it if it is one that overtakes; return whether it went out."""
        record = LateRecord(kind, subject, data)
        if self._sent(record):
            return True
        for gone in self._late.hold(record):
            if self._allowed(gone.kind):
                self.dropped[gone.subject] += 1
        return False

    def _sent(self, record: LateRecord) -> bool:
        sent = self._allowed(record.kind) and self._bus.publish(record.subject, record.data)
        self.published[record.subject] += sent
        return sent

    def _allowed(self, kind: Kind) -> bool:
        return not self.limited or kind in _ALWAYS_LIVE

    def _append(self, kind: Kind, time_ns: int, subject: str, data: bytes, *, urgent: bool = False) -> None:
        try:
            future = self._journal.append(kind.value, time_ns, subject, data, urgent=urgent)
        except StageboxError:
            # Back-pressure or a closed journal: the journal reports it as its own event, here it is counted.
            self.not_journalled += 1
            return
        self._last_append = future
        future.add_done_callback(self._journalled)

    def _journalled(self, future: asyncio.Future[int]) -> None:
        if future.cancelled() or future.exception() is not None:
            self.not_journalled += 1
