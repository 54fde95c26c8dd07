"""From frozen hot files to sealed segments, and the removal of old segments. Blocking, for a worker thread.

Order for one hot file: segment files durable, then its seal (the commit point), then the hot file goes. A
crash anywhere leaves the hot file, or the segment, or both; recovery takes the segment if its seal is whole.
A hot file with damage is kept in quarantine, and what authenticated in it is still sealed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nacl.signing import SigningKey

from stagebox import files
from stagebox.errors import DecodeError, StorageError, VerificationError
from stagebox_rack.wal import journal_format as fmt
from stagebox_rack.wal.catalogue import Catalogue, SegmentSpan
from stagebox_rack.wal.events import JournalEvent, OnEvent
from stagebox_rack.wal.hotfile import HotSpan
from stagebox_rack.wal.keyring import Keyring, Random
from stagebox_rack.wal.layout import Layout
from stagebox_rack.wal.segment import SegmentFiles, write_segment


@dataclass(frozen=True)
class HotContent:
    """A hot file read back: its header and what its scan proves, up to the span asked for."""

    header: fmt.HotHeader
    scan: fmt.Scan
    batches: tuple[fmt.CommittedBatch, ...]


def read_hot(span: HotSpan, keyring: Keyring, *, tail: bool = True) -> HotContent:
    """Read the batches of a hot span; ``tail`` also looks at what lies after its committed end.

    Raises:
        StorageError: it cannot be read.
        DecodeError, VerificationError: its header is damaged or belongs to another key.
    """
    try:
        with span.path.open("rb") as stream:
            data = stream.read() if tail else stream.read(span.end)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"cannot read {span.path.name}: {error.strerror}") from error
    header = fmt.decode_header(data)
    scan = fmt.scan(data, header, header.unwrap(keyring, span.path.name))
    batches = tuple(frame.batch for frame in scan.frames if span.first <= frame.batch.last <= span.last)
    return HotContent(header, scan, batches)


def runs(batches: Sequence[fmt.CommittedBatch]) -> list[list[fmt.CommittedBatch]]:
    """Split batches where the chain is broken: each run is one segment."""
    result: list[list[fmt.CommittedBatch]] = []
    for batch in batches:
        last = result[-1][-1] if result else None
        if last is not None and (last.last + 1, last.digest) == (batch.first, batch.previous):
            result[-1].append(batch)
        else:
            result.append([batch])
    return result


class Sealer:
    """Seals and evicts for one journal; a second worker waits, then finds nothing left to do."""

    def __init__(
        self,
        layout: Layout,
        keyring: Keyring,
        catalogue: Catalogue,
        signing_key: SigningKey,
        *,
        rack: str,
        on_event: OnEvent,
        random: Random = os.urandom,
    ) -> None:
        self._layout = layout
        self._keyring = keyring
        self._catalogue = catalogue
        self._signing_key = signing_key
        self._rack = rack
        self._on_event = on_event
        self._random = random
        self._lock = threading.Lock()

    def rekey(self, signing_key: SigningKey) -> None:
        """Seal with another key from the next segment on."""
        with self._lock:
            self._signing_key = signing_key

    def seal(self, span: HotSpan) -> list[SegmentSpan]:
        """Seal one frozen hot file and remove it.

        Raises:
            StorageError: the disk refused; the hot file stays and is still readable.
        """
        with self._lock:
            return self._seal(span) if span in self._catalogue.frozen() else []

    def _seal(self, span: HotSpan) -> list[SegmentSpan]:
        try:
            content = read_hot(span, self._keyring)
        except (DecodeError, VerificationError) as error:
            self._quarantine(span.path, span.first, span.last, error.message)
            self._catalogue.sealed(span, [])
            return []
        segments = [
            write_segment(
                self._layout,
                run,
                self._keyring,
                self._signing_key,
                rack=self._rack,
                boot=content.header.boot,
                torn_bytes=content.scan.torn_bytes,
                random=self._random,
            )
            for run in runs(content.batches)
        ]
        self._catalogue.sealed(span, segments)
        lost = span.last - span.first + 1 - sum(b.last - b.first + 1 for b in content.batches)
        if content.scan.damage or lost:
            reason = "; ".join(d.reason for d in content.scan.damage) or f"{lost} records are missing"
            self._quarantine(span.path, span.first, span.last, reason)
        else:
            span.path.unlink(missing_ok=True)
            files.fsync_dir(self._layout.hot)
        for segment in segments:
            detail = {"first": segment.first, "last": segment.last, "bytes": segment.size}
            self._on_event(JournalEvent("wal_sealed", "info", detail))
        return segments

    def evict(self, *, acknowledged: int, before: float, excess: int) -> int:
        """Remove acknowledged segments sealed before ``before`` (Unix s), oldest first; return bytes."""
        with self._lock:
            return self._evict(acknowledged, before, excess)

    def _evict(self, acknowledged: int, before: float, excess: int) -> int:
        freed = 0
        for segment in self._catalogue.segments():
            if freed >= excess or segment.last > acknowledged or segment.sealed_at > before:
                break
            self._catalogue.evicted(segment)
            for path in SegmentFiles.of(segment.stem):
                path.unlink(missing_ok=True)
            freed += segment.size
            detail = {"first": segment.first, "last": segment.last, "bytes": segment.size}
            self._on_event(JournalEvent("wal_evicted", "info", detail))
        if freed:
            files.fsync_dir(self._layout.segments)
        return freed

    def _quarantine(self, path: Path, first: int, last: int, reason: str) -> None:
        target = self._layout.to_quarantine(path)
        detail = {"file": target.name, "first": first, "last": last, "reason": reason}
        self._on_event(JournalEvent("wal_damaged", "alert", detail))
