"""The removal of segments: a signed tombstone first, then the files. Blocking, for a worker thread.

Rules: a segment counts until its tombstone is durable, whatever fails before; from then on it is gone, and what is
left of its files goes with the next call or the next start. A tombstone of what the mixer never had stays until the
mixer knows of it and nothing is left for it to condemn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nacl.signing import SigningKey

from stagebox.errors import StorageError
from stagebox.records.tombstone import Tombstone
from stagebox_rack.wal.catalogue import Catalogue, SegmentSpan
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.events import JournalEvent, OnEvent
from stagebox_rack.wal.lifecycle import CLEARING, Stage, Step, after
from stagebox_rack.wal.retention import Eviction
from stagebox_rack.wal.segment import SegmentFiles

OnTombstone = Callable[[SegmentSpan, Path, bytes], None]


class Evictor:
    """Evicts for one journal.

    ``on_tombstone`` gets (segment, path, bytes) of what the mixer never had: to be journalled, and :meth:`forget`-ed
    once the mixer knows.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        signing_key: SigningKey,
        *,
        rack: str,
        journal: bytes,
        on_event: OnEvent,
        on_tombstone: OnTombstone,
        disk: Disk,
    ) -> None:
        self._catalogue = catalogue
        self._signing_key = signing_key
        self._rack = rack
        self._journal = journal
        self._on_event = on_event
        self._on_tombstone = on_tombstone
        self._disk = disk
        # What has a tombstone and still has files: stem → whether the tombstone itself may go with them.
        self._condemned: dict[Path, bool] = {}
        self._lock = threading.Lock()

    def rekey(self, signing_key: SigningKey) -> None:
        """Sign with another key from the next tombstone on."""
        with self._lock:
            self._signing_key = signing_key

    def evict(self, chosen: Sequence[Eviction]) -> None:
        """Remove segments, and what earlier calls left.

        Raises:
            StorageError: the disk refused; what has no tombstone yet stays a segment.
        """
        with self._lock:
            try:
                for stem in list(self._condemned):
                    self._clear(stem)
                for eviction in chosen:
                    if eviction.segment in self._catalogue.segments():
                        self._evict(eviction)
            except OSError as error:
                raise StorageError(f"cannot remove a segment: {error.strerror or error}") from error

    def forget(self, tombstone: Path) -> None:
        """Remove a tombstone that nobody needs any more; one that stays is looked at again at the next start."""
        stem = tombstone.with_suffix("")
        with self._lock:
            if stem in self._condemned:
                self._condemned[stem] = True
                return
            try:
                self._disk.remove(tombstone)
            except OSError:
                return

    def _evict(self, eviction: Eviction) -> None:
        segment = eviction.segment
        data = Tombstone(
            rack=self._rack,
            journal=self._journal,
            first=segment.first,
            last=segment.last,
            previous=segment.previous,
            head=segment.head,
            seal=segment.seal_hash,
            acknowledged=eviction.acknowledged,
            reason=eviction.reason,
            time_ns=time.time_ns(),
        ).sign(self._signing_key)
        path = SegmentFiles.of(segment.stem).tombstone
        self._disk.put(path, data)
        after(Stage.ACKNOWLEDGED if eviction.acknowledged else Stage.SEALED, Step.WRITE_TOMBSTONE)
        self._condemned[segment.stem] = eviction.acknowledged
        self._catalogue.evicted(segment)
        self._report(eviction)
        if not eviction.acknowledged:
            self._on_tombstone(segment, path, data)
        self._clear(segment.stem)

    def _report(self, eviction: Eviction) -> None:
        segment = eviction.segment
        detail = {
            "first": segment.first,
            "last": segment.last,
            "bytes": segment.size,
            "reason": eviction.reason.value,
        }
        if eviction.acknowledged:
            self._on_event(JournalEvent("wal_evicted", "info", detail))
        else:
            self._on_event(JournalEvent("wal_evicted_unshipped", "alert", detail))

    def _clear(self, stem: Path) -> None:
        paths = SegmentFiles.of(stem)
        actions: Mapping[Step, Callable[[], None]] = {
            Step.REMOVE_SEAL: lambda: self._disk.remove(paths.seal),
            Step.REMOVE_DATA: lambda: self._disk.remove(paths.key, paths.parquet),
        }
        stage = Stage.CONDEMNED
        for step in CLEARING:
            stage = after(stage, step)
            actions[step]()
        if self._condemned[stem]:
            self._disk.remove(paths.tombstone)
        del self._condemned[stem]
