"""A rack's journal, the stream and the mixer's lake, step by step on one thread: what a state machine can drive.

The parts are the real ones (writer, sealer, retention, recovery, shipping's cursor, the ingest's desk, the lake); what
is left out is what runs them in a process: threads, timers, the bus. Disk and storage fail as the test says.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nacl.signing import SigningKey

from stagebox import envelope
from stagebox.errors import StorageError
from stagebox.passport import PassportStatus
from stagebox.records import seal, tombstone
from stagebox.records.walbatch import WalRecord
from stagebox_mixer.audit import Row
from stagebox_mixer.ingest.batches import BatchDesk, Work
from stagebox_mixer.lake.lake import Lake
from stagebox_mixer.lake.state import Position
from stagebox_mixer.lake.storage import LocalStorage
from stagebox_mixer.registry.model import RackEntry
from stagebox_rack.limits import RackLimits
from stagebox_rack.wal import hotfile
from stagebox_rack.wal.acknowledged import save_cursor
from stagebox_rack.wal.catalogue import Catalogue, SegmentSpan, Span
from stagebox_rack.wal.cursor import Cursor, Fork, Link, Local, Stored
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.events import JournalEvent
from stagebox_rack.wal.eviction import Evictor
from stagebox_rack.wal.graves import Graves
from stagebox_rack.wal.hotfile import HotSpan
from stagebox_rack.wal.journal import Edges, Journal
from stagebox_rack.wal.journal_format import CommittedBatch
from stagebox_rack.wal.keyring import Keyring
from stagebox_rack.wal.opening import open_directory
from stagebox_rack.wal.retention import Quota, evictions
from stagebox_rack.wal.sealing import Sealer, read_hot
from stagebox_rack.wal.segment import read_segment
from support.journal import BOOT, RACK

CLUSTER = "test"


@dataclass
class Stream:
    """What the server holds: signed batches; a message's sequence is its place, from 1."""

    id: int = 1
    messages: list[bytes] = field(default_factory=list)

    def store(self, batches: list[bytes], follows: int) -> int:
        """Take all of them or none; return the last one's sequence."""
        if follows != len(self.messages):
            raise AssertionError(f"the rack's cursor is at {follows}, the stream at {len(self.messages)}")
        self.messages += batches
        return len(self.messages)


class RackSteps:
    """One life of a rack's journal, between two starts."""

    def __init__(
        self, directory: Path, key: SigningKey, disk: Disk, limits: RackLimits, events: list[JournalEvent]
    ) -> None:
        self._disk, self._key, self._limits = disk, key, limits
        self._public = bytes(key.verify_key)
        self._opened = open_directory(directory, RACK, self._public, disk)
        try:
            events.extend(self._opened.events)
            found = self._opened.recovered
            self.catalogue = Catalogue(found.segments, found.frozen)
            self.journal = Journal(
                self._opened.layout,
                self._opened.keyring,
                self.catalogue,
                self._opened.mark,
                found.head,
                rack=RACK,
                boot=BOOT,
                edges=Edges(disk, clock=itertools.count().__next__),
                on_event=events.append,
                limits=limits,
            )
            self._seals: list[bytes] = []
            self.sealer = Sealer(
                self._opened.layout,
                self._opened.keyring,
                self.catalogue,
                key,
                rack=RACK,
                on_event=events.append,
                on_seal=self._seals.append,
                clock_quality=lambda: "unknown",
                disk=disk,
                hot_file_bytes=limits.wal_hot_file_bytes,
            )
            self._graves = Graves()
            self._leftovers = list(found.tombstones)
            self.evictor = Evictor(
                self.catalogue,
                key,
                rack=RACK,
                journal=self._opened.keyring.journal,
                on_event=events.append,
                on_tombstone=self._take_tombstone,
                disk=disk,
            )
            self.cursor = Cursor()
            self.acknowledged = min(self._opened.acknowledged, self.committed)
            self._seals += [data for last, data in found.seals if last > self.acknowledged]
        except BaseException:
            self.abandon()
            raise

    @property
    def committed(self) -> int:
        return self.journal.next_sequence - 1

    @property
    def keyring(self) -> Keyring:
        return self._opened.keyring

    def abandon(self) -> None:
        """The process is gone: the kernel gives the lock back."""
        self._opened.lock.release()

    def spare(self) -> None:
        hotfile.make_spare(self._opened.layout, self._limits.wal_hot_file_bytes, self._disk)

    def seal(self) -> None:
        for span in self.catalogue.frozen():
            self.sealer.seal(span)

    def journal_signed(self) -> None:
        """Journal the seals and tombstones that are not yet."""
        while self._seals:
            self._record(seal.KIND, self._seals[0])
            del self._seals[0]
        while self._leftovers:
            path, data = self._leftovers[0]
            self._graves.journalled(path, data, self._record(tombstone.KIND, data))
            del self._leftovers[0]

    def retain(self, quota_bytes: int) -> None:
        chosen = evictions(
            self.catalogue.segments(),
            acknowledged=self.acknowledged,
            now=time.time(),
            quota=Quota(quota_bytes, grace=0.0, age=1e9),
        )
        self.evictor.evict(chosen)

    def save_cursor(self) -> None:
        layout, keyring = self._opened.layout, self._opened.keyring
        save_cursor(self._disk, layout.cursor, RACK, keyring.journal, self.acknowledged)

    def connect(self, stream: Stream) -> None:
        """Take the cursor from the server, as the shipper does after every connect."""
        self.cursor.connected()
        stored = self._stored(stream)
        last = stored.last if stored is not None else 0
        ending = next(self.batches_after(last - 1), None) if stored is not None else None
        following = next(self.batches_after(last), None)
        spans = self.catalogue.spans()
        local = Local(
            journal=self._opened.keyring.journal,
            acknowledged=self.acknowledged,
            committed=self.committed,
            ending=ending.digest if ending is not None and ending.last == last else None,
            missing=stored is None or not any(s.first <= last and s.last >= stored.first for s in spans),
            following=Link(following.first, following.previous) if following is not None else None,
        )
        found = self.cursor.place(stored, local)
        if isinstance(found, Fork):
            raise AssertionError(f"shipping stopped: {found.reason}")
        self._acknowledge(self.cursor.acknowledged)

    def ship(self, stream: Stream, batches: int, *, answered: bool) -> None:
        """Publish the next batches in one; unless ``answered`` the server stores them and the rack never hears."""
        window = list(itertools.islice(self.batches_after(self.cursor.acknowledged), batches))
        if not window:
            return
        follows = self.cursor.sent(window[0].first, window[-1].last)
        signed = [envelope.seal(envelope.DOMAIN_WAL, batch.payload, self._key) for batch in window]
        sequence = stream.store(signed, follows)
        if answered:
            self._acknowledge(self.cursor.stored(sequence))
        else:
            self.cursor.disconnected()

    def batches_after(self, sequence: int) -> Iterator[CommittedBatch]:
        while (span := self.catalogue.after(sequence)) is not None:
            for batch in self.read(span):
                if batch.last > sequence:
                    yield batch
            sequence = max(sequence, span.last)

    def read(self, span: Span) -> list[CommittedBatch]:
        keyring = self._opened.keyring
        if isinstance(span, HotSpan):
            return [frame.batch for frame in read_hot(span, keyring, tail=False).frames]
        return read_segment(span.stem, keyring, self._public)

    def _record(self, kind: str, data: bytes) -> int:
        return self.journal.commit([WalRecord(kind, time.time_ns(), f"rack.{RACK}.{kind}", data)]).last

    def _take_tombstone(self, segment: SegmentSpan, path: Path, data: bytes) -> None:
        self._leftovers += [*self._graves.evicted(segment.first, segment.last), (path, data)]

    def _acknowledge(self, sequence: int) -> None:
        self.acknowledged = sequence
        for path in self._graves.acknowledged(sequence):
            self.evictor.forget(path)

    def _stored(self, stream: Stream) -> Stored | None:
        if not stream.messages:
            return None
        payload = envelope.open_by_any(envelope.DOMAIN_WAL, stream.messages[-1], (self._public,))
        batch, decoded = CommittedBatch.of(payload)
        return Stored(len(stream.messages), decoded.journal, batch.first, batch.last, batch.digest)


class FaultyStorage(LocalStorage):
    """A directory whose next writes may be refused, before or after they took place."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.refuse_after: int | None = None
        self.took_place = False

    def write(self, path: str, data: bytes) -> None:
        if self.refuse_after is not None:
            self.refuse_after -= 1
            if self.refuse_after < 0:
                self.refuse_after = None
                if self.took_place:
                    super().write(path, data)
                raise OSError(5, "Input/output error")
        super().write(path, data)


class MixerSteps:
    """The mixer's side: a desk and a lake; after any failure both begin anew from what is stored."""

    def __init__(self, root: Path, key: SigningKey, runner: asyncio.Runner) -> None:
        self._root, self._runner = root, runner
        self._entry = RackEntry(
            name=RACK, tenant="default", machine_id=1, rack_public=bytes(key.verify_key),
            status=PassportStatus.ACTIVE, serial=1, secret_hash=bytes(32), certificate="", certificate_not_after=0,
            enrolled_at=0, earlier_keys=(), pending=None,
        )  # fmt: skip
        self.alarms: list[Row] = []
        self.refusals: list[Row] = []
        self.start()

    def start(self) -> None:
        self.storage = FaultyStorage(self._root)
        self.lake = Lake(self.storage, bytes(range(32)), cluster=CLUSTER)
        self._runner.run(self.lake.open())
        self._desk = BatchDesk(self.lake)

    def stop(self) -> None:
        self._runner.run(self.lake.close())

    def has_all_of(self, stream: Stream) -> bool:
        return self._runner.run(self.lake.position(stream.id, len(stream.messages))) == len(stream.messages)

    def take(self, stream: Stream, count: int) -> None:
        """Verify and commit the next messages.

        Raises:
            StorageError: nothing of it is committed, as far as the mixer knows.
        """
        position = self._runner.run(self.lake.position(stream.id, len(stream.messages)))
        work = Work()
        for number, data in enumerate(stream.messages[position : position + count], position + 1):
            self._desk.take(f"rack.{RACK}.wal", data, number, self._entry, work)
        if not work.messages:
            return
        try:
            end = Position(stream.id, position + work.messages)
            self._runner.run(self.lake.commit(work.commits, position=end, rejected=work.rejected))
        except StorageError:
            self._desk.forget()
            raise
        self.alarms += work.alarms
        self.refusals += work.refusals

    def tidy(self) -> None:
        self._runner.run(self.lake.tidy())
