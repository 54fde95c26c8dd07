"""The journal writer: batches into hot files, and what to do when the disk refuses.

Runs on one thread and does blocking I/O. Rules:

* ``commit`` returns only after the batch is durable; what it raised for is not promised and its sequence
  numbers are used again.
* A hot file that failed once is given up at its last good frame; the batch goes to another file. If that
  fails too, the group fails and the next group tries again (on a full disk at most once a second).
* The high-water mark follows the commit. A mark that cannot be written is reported, never fatal.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stagebox.errors import StorageError
from stagebox.records.walbatch import WalBatch, WalRecord, payload_digest
from stagebox_rack.limits import LIMITS, RackLimits
from stagebox_rack.wal import hotfile
from stagebox_rack.wal.catalogue import Catalogue
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.events import JournalEvent, OnEvent
from stagebox_rack.wal.hotfile import HotFile
from stagebox_rack.wal.journal_format import CommittedBatch, frame_bytes
from stagebox_rack.wal.keyring import NONCE_BYTES, Keyring, Random
from stagebox_rack.wal.layout import Layout
from stagebox_rack.wal.mark import Mark, MarkFile

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class JournalHead:
    """Where the next batch goes: its first sequence and the digest it names as previous."""

    next: int
    digest: bytes


@dataclass(frozen=True)
class Edges:
    """What a journal takes from outside, so that tests can put their own in.

    ``clock_quality`` says what seals say of the clock.
    """

    disk: Disk
    clock: Callable[[], float]
    random: Random = os.urandom
    clock_quality: Callable[[], str] = lambda: "unknown"


class Journal:
    """Writes batches durably, in order, with one thread."""

    def __init__(
        self,
        layout: Layout,
        keyring: Keyring,
        catalogue: Catalogue,
        mark: MarkFile,
        head: JournalHead,
        *,
        rack: str,
        boot: bytes,
        edges: Edges,
        on_event: OnEvent,
        limits: RackLimits = LIMITS,
    ) -> None:
        self._layout = layout
        self._keyring = keyring
        self._catalogue = catalogue
        self._mark = mark
        self._head = head
        self._rack = rack
        self._boot = boot
        self._edges = edges
        self._on_event = on_event
        self._limits = limits
        self._active: HotFile | None = None
        self._failing: str | None = None
        self._retry_at = 0.0
        self._mark_synced_at = edges.clock()
        self._mark_failing = False
        self.activations = 0

    @property
    def room_share(self) -> float:
        """The part of the active hot file that is still free; 0 if there is none and none can be made."""
        active = self._active
        if active is not None:
            return active.room_share
        return 0.0 if self._failing is not None else 1.0

    @property
    def next_sequence(self) -> int:
        """The sequence the next record gets."""
        return self._head.next

    def commit(self, records: Sequence[WalRecord]) -> CommittedBatch:
        """Write ``records`` as one batch and make it durable.

        Raises:
            StorageError: the disk refused; none of the records is promised.
        """
        batch = WalBatch(
            self._rack, self._head.next, self._head.digest, tuple(records), journal=self._keyring.journal
        )
        payload = batch.encode()
        committed = CommittedBatch(batch.first, batch.last, batch.previous, payload, payload_digest(payload))
        active = self._write(committed)
        self._head.next, self._head.digest = committed.last + 1, committed.digest
        self._catalogue.set_active(active.span())
        if self._failing is not None:
            self._on_event(JournalEvent("wal_recovered", "info", {"after": self._failing}))
            self._failing = None
        self._write_mark(Mark(committed.last, committed.digest, active.chain, active.header.file_id))
        return committed

    def tick(self) -> None:
        """Do what time asks for: a durable mark, and a new file when the active one is old."""
        if self._edges.clock() - self._mark_synced_at >= self._limits.wal_mark_sync:
            self._sync_mark()
        active = self._active
        if active is not None and self._edges.clock() - active.created >= self._limits.wal_hot_file_age:
            self.rotate()

    def rotate(self) -> None:
        """Close the active hot file, so that it can be sealed."""
        active, self._active = self._active, None
        if active is None:
            return
        active.close()
        self._retire(active)
        self._sync_mark()

    def close(self) -> None:
        """Close the active file and make the mark durable."""
        self.rotate()
        self._sync_mark()
        self._mark.close()

    def _write(self, batch: CommittedBatch) -> HotFile:
        if self._active is not None and self._active.room < frame_bytes(len(batch.payload)):
            self.rotate()
        if self._active is not None:
            try:
                return self._append(self._active, batch)
            except OSError as error:
                self._give_up(self._active, error)
        elif self._edges.clock() < self._retry_at:
            raise self._refusal(self._failing or "the disk is full")
        try:
            self._active = self._activate(batch)
            self.activations += 1
            return self._append(self._active, batch)
        except OSError as error:
            if self._active is not None:
                self._give_up(self._active, error)
            raise self._failed(error) from error

    def _append(self, active: HotFile, batch: CommittedBatch) -> HotFile:
        active.append(batch, self._edges.random(NONCE_BYTES))
        return active

    def _activate(self, batch: CommittedBatch) -> HotFile:
        edges = self._edges
        return hotfile.activate(
            self._layout,
            self._keyring,
            rack=self._rack,
            boot=self._boot,
            first=batch.first,
            previous=batch.previous,
            previous_seal=self._catalogue.last_seal(),
            size=self._limits.wal_hot_file_bytes,
            disk=edges.disk,
            random=edges.random,
            now=edges.clock(),
        )

    def _give_up(self, active: HotFile, error: OSError) -> None:
        self._active = None
        active.give_up()
        self._retire(active)
        detail = {"file": active.path.name, "reason": error.strerror or str(error), "errno": error.errno or 0}
        self._on_event(JournalEvent("wal_file_given_up", "warning", detail))

    def _retire(self, active: HotFile) -> None:
        if active.empty:
            try:
                self._edges.disk.unlink(active.path)
            except OSError:
                return  # the next file takes its name, or recovery removes it: it holds nothing
        else:
            self._catalogue.freeze(active.span())

    def _failed(self, error: OSError) -> StorageError:
        reason = error.strerror or str(error)
        full = error.errno in FULL
        self._retry_at = self._edges.clock() + (self._limits.wal_space_retry if full else 0.0)
        if self._failing is None:
            name = "wal_disk_full" if full else "wal_disk_failed"
            self._on_event(
                JournalEvent(name, "alert", {"reason": reason, "directory": self._layout.root.name})
            )
        self._failing = reason
        return self._refusal(reason)

    def _refusal(self, reason: str) -> StorageError:
        return StorageError(
            f"the journal in {self._layout.root} cannot commit: {reason}",
            remedy="free space on its disk or replace the disk; the rack goes on by itself when it can write",
        )

    def _write_mark(self, mark: Mark) -> None:
        try:
            self._mark.write(mark)
            if self._edges.clock() - self._mark_synced_at >= self._limits.wal_mark_sync:
                self._mark.sync()
                self._mark_synced_at = self._edges.clock()
        except OSError as error:
            self._mark_failed(error)
        else:
            self._mark_failing = False

    def _sync_mark(self) -> None:
        self._mark_synced_at = self._edges.clock()
        try:
            self._mark.sync()
        except OSError as error:
            self._mark_failed(error)

    def _mark_failed(self, error: OSError) -> None:
        if not self._mark_failing:
            self._on_event(
                JournalEvent("wal_mark_failed", "warning", {"reason": error.strerror or str(error)})
            )
        self._mark_failing = True
        self._mark.close()
