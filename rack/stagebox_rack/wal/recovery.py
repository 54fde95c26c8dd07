"""What a journal's directory holds after any end: the spans that prove themselves, and where to go on.

Rules: nothing is deleted but files that hold no record and leftovers of an unfinished seal whose hot file is
still there; what does not verify goes to quarantine and is reported. Sequence numbers that were ever promised
(journal or high-water mark, whichever is further) are not given out again. A key that opens nothing stops the
journal instead of emptying it. A process that was killed may have left names and frames that only the kernel knows:
nothing found here counts before it is durable, or a power cut could still take back what was shipped since.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from stagebox.errors import DecodeError, StageboxError, StorageError, VerificationError
from stagebox.records.seal import seal_hash
from stagebox.records.tombstone import Tombstone, open_tombstone
from stagebox.records.walbatch import FIRST_PREVIOUS, FIRST_SEQUENCE
from stagebox_rack.wal import journal_format as fmt
from stagebox_rack.wal.catalogue import SegmentSpan, Span
from stagebox_rack.wal.disk import TEMPORARY_SUFFIX, Disk
from stagebox_rack.wal.events import JournalEvent
from stagebox_rack.wal.hotfile import NEW_SUFFIX, HotSpan
from stagebox_rack.wal.journal import JournalHead
from stagebox_rack.wal.keyring import Keyring
from stagebox_rack.wal.layout import Layout
from stagebox_rack.wal.lifecycle import Found, Step, recovery
from stagebox_rack.wal.mark import Mark
from stagebox_rack.wal.segment import SegmentFiles, load_seal, segment_key


@dataclass
class Recovered:
    """The outcome: what can be read, where to go on, and what the operator must hear.

    ``tombstones`` (path, bytes) name what the mixer never had; ``seals`` are (last record, bytes) of every segment.
    """

    segments: list[SegmentSpan] = field(default_factory=list)
    frozen: list[HotSpan] = field(default_factory=list)
    head: JournalHead = field(default_factory=lambda: JournalHead(FIRST_SEQUENCE, FIRST_PREVIOUS))
    events: list[JournalEvent] = field(default_factory=list)
    tombstones: list[tuple[Path, bytes]] = field(default_factory=list)
    seals: list[tuple[int, bytes]] = field(default_factory=list)

    def report(self, name: str, severity: str, **detail: object) -> None:
        """Add an event."""
        self.events.append(JournalEvent(name, "alert" if severity == "alert" else "warning", detail))


def recover(
    layout: Layout,
    keyring: Keyring,
    mark: Mark | None,
    disk: Disk,
    *,
    rack: str,
    public: bytes,
    earlier: Collection[bytes] = (),
) -> Recovered:
    """Read a journal's directory and finish what a crash interrupted. Call with the journal's lock held.

    Raises:
        VerificationError: the journal key is not the one this journal was written with, or it is another
            rack's journal.
        StorageError: the disk cannot be read or refuses a change.
    """
    try:
        return _Recovery(layout, keyring, mark, disk, rack, (public, earlier)).run()
    except OSError as error:
        raise StorageError(
            f"cannot recover the journal in {layout.root}: {error.strerror or error}",
            remedy="look at the disk; nothing was given up, and the next start tries again",
        ) from error


class _Recovery:
    """One run over one directory."""

    def __init__(
        self,
        layout: Layout,
        keyring: Keyring,
        mark: Mark | None,
        disk: Disk,
        rack: str,
        keys: tuple[bytes, Collection[bytes]],
    ) -> None:
        self._layout = layout
        self._keyring = keyring
        self._mark = mark
        self._disk = disk
        self._rack = rack
        self._keys = keys
        # A mark or a data key that opened proves the KEK; after that, what does not open is damaged.
        self._kek_proven = mark is not None
        self._found = Recovered()

    def run(self) -> Recovered:
        for directory in (
            self._layout.root,
            self._layout.hot,
            self._layout.segments,
            self._layout.quarantine,
        ):
            self._disk.sync_dir(directory)
        self._remove_temporaries()
        for stem in self._layout.segment_stems():
            if self._finish_steps(stem):
                self._segment(stem)
        self._hot_files()
        _continuity(self._found)
        _place_head(self._found, self._mark)
        return self._found

    def _remove_temporaries(self) -> None:
        for directory in (self._layout.hot, self._layout.root):
            for path in directory.iterdir():
                if path.is_file() and path.suffix in (TEMPORARY_SUFFIX, NEW_SUFFIX):
                    self._disk.unlink(path)

    def _segment(self, stem: Path) -> None:
        paths, segments = SegmentFiles.of(stem), self._found.segments
        try:
            data = paths.seal.read_bytes()
            seal = load_seal(stem, *self._keys)
        except StageboxError as error:
            self._quarantine_segment(stem, error)
            return
        if not self._kek_proven:
            segment_key(
                stem, seal, self._keyring
            )  # a key that opens nothing stops us before anything is moved
            self._kek_proven = True
        if (seal.rack, seal.journal) != (self._rack, self._keyring.journal):
            owner = f"journal {seal.journal.hex()} of rack {seal.rack!r}"
            self._quarantine_segment(stem, VerificationError(f"it belongs to {owner}"))
            return
        if segments and seal.first <= segments[-1].last:
            self._quarantine_segment(stem, StorageError("it overlaps the segment before it"))
            return
        stat = paths.parquet.stat()
        segments.append(
            SegmentSpan(
                stem,
                seal.first,
                seal.last,
                seal.previous,
                seal.head,
                stat.st_size,
                stat.st_mtime,
                seal_hash(data),
            )
        )
        self._found.seals.append((seal.last, data))

    def _finish_steps(self, stem: Path) -> bool:
        """Do what the machine asks for after a crash; return whether a segment is there."""
        paths = SegmentFiles.of(stem)
        unfinished = list(self._layout.segments.glob(f"{stem.name}.*{TEMPORARY_SUFFIX}"))
        tombstone = self._tombstone(paths.tombstone)
        seal, parquet, key = paths.seal.exists(), paths.parquet.exists(), paths.key.exists()
        state = Found(
            hot=not seal and (parquet or key) and self._in_hot_file(int(stem.name[:20])),
            unfinished=bool(unfinished),
            parquet=parquet,
            key=key,
            seal=seal,
            tombstone=tombstone is not None,
        )
        for step in recovery(state):
            match step:
                case Step.DROP_UNFINISHED:
                    keep_named = state.seal or state.tombstone
                    self._disk.remove(*(unfinished if keep_named else (*unfinished, *paths)))
                case Step.REMOVE_SEAL:
                    self._disk.remove(paths.seal)
                case Step.REMOVE_DATA:
                    self._disk.remove(paths.key, paths.parquet)
                case Step.QUARANTINE:
                    self._quarantine_segment(stem, StorageError("one of its files is missing"))
                case _:
                    pass  # the hot file goes once it is known that its segments hold all of it
        if tombstone is not None and tombstone.acknowledged:
            self._disk.remove(paths.tombstone)
        elif tombstone is not None:
            self._found.tombstones.append((paths.tombstone, paths.tombstone.read_bytes()))
        return state.seal and state.parquet and state.key and not state.tombstone

    def _in_hot_file(self, first: int) -> bool:
        """Whether a batch that starts at ``first`` can be read from a hot file, so that no segment of it is needed."""
        for path in self._layout.hot_files():
            if int(path.stem) > first:
                continue
            try:
                _, scan = self._scan_file(path)
            except (DecodeError, VerificationError) as error:
                if isinstance(error, VerificationError) and not self._kek_proven:
                    raise
                continue
            if any(frame.batch.first == first for frame in scan.frames):
                return True
        return False

    def _tombstone(self, path: Path) -> Tombstone | None:
        """Return a segment's tombstone; one that does not verify is set aside and takes nothing with it."""
        if not path.exists():
            return None
        try:
            tombstone = open_tombstone(path.read_bytes(), *self._keys)
            named = f"{tombstone.first:020d}-{tombstone.last:020d}"
            if (tombstone.rack, tombstone.journal, named) != (self._rack, self._keyring.journal, path.stem):
                raise VerificationError(f"it speaks of records {named} of rack {tombstone.rack!r}")
        except StageboxError as error:
            self._damaged(path, int(path.name[:20]), error.message)
            return None
        return tombstone

    def _quarantine_segment(self, stem: Path, error: StageboxError) -> None:
        for path in SegmentFiles.of(stem):
            with contextlib.suppress(FileNotFoundError):
                self._layout.to_quarantine(path, self._disk)
        first, last = (int(part) for part in stem.name.split("-"))
        self._found.report(
            "wal_damaged", "alert", file=stem.name, first=first, last=last, reason=error.message
        )

    def _hot_files(self) -> None:
        scanned: list[tuple[Path, fmt.HotHeader, fmt.Scan]] = []
        kek_proven = self._kek_proven or bool(self._found.segments)
        for path in self._layout.hot_files():
            try:
                header, scan = self._scan_file(path)
            except (DecodeError, VerificationError) as error:
                if isinstance(error, VerificationError) and not kek_proven:
                    raise
                self._damaged(path, int(path.stem), error.message)
                continue
            if header.rack != self._rack:
                raise VerificationError(
                    f"the journal in {self._layout.root} belongs to rack {header.rack!r}, this rack is {self._rack!r}",
                    remedy="give this rack its own state directory",
                )
            kek_proven = True
            scanned.append((path, header, scan))
        sealed_last = self._found.segments[-1].last if self._found.segments else 0
        for index, (path, header, scan) in enumerate(scanned):
            # A batch that was written twice (its first file failed) counts in the later file.
            limit = scanned[index + 1][1].first if index + 1 < len(scanned) else None
            frames = [
                f
                for f in scan.frames
                if f.batch.last > sealed_last and (limit is None or f.batch.last < limit)
            ]
            self._hot_span(path, header, scan, frames, sealed_last)

    def _hot_span(
        self, path: Path, header: fmt.HotHeader, scan: fmt.Scan, frames: list[fmt.Frame], sealed_last: int
    ) -> None:
        found, mark = self._found, self._mark
        if not frames and scan.frames:  # sealed, or written again to a later file, before the crash
            if scan.damage:
                self._damaged(path, header.first, "; ".join(damage.reason for damage in scan.damage))
            elif self._hole(scan.frames, sealed_last):
                self._damaged(path, header.first, "the segment of its records is gone")
            else:
                self._disk.remove(path)
            return
        if scan.torn_bytes:
            found.report("wal_torn_tail", "warning", file=path.name, bytes=scan.torn_bytes)
        if not frames:
            promised = mark is not None and mark.sequence >= header.first > sealed_last
            if promised and scan.torn_bytes:
                self._damaged(path, int(path.stem), "no frame in it authenticates")
            else:
                self._disk.remove(path)
            return
        self._disk.sync_file(path)
        last = frames[-1]
        first = frames[0].batch
        found.frozen.append(
            HotSpan(path, first.first, last.batch.last, first.previous, last.batch.digest, last.end)
        )

    def _hole(self, frames: Sequence[fmt.Frame], sealed_last: int) -> bool:
        """Whether a batch lies between segments and in none; what is before the first segment was evicted."""
        segments = self._found.segments
        return bool(segments) and any(
            segments[0].first <= batch.first <= sealed_last
            and not any(s.first <= batch.first and batch.last <= s.last for s in segments)
            for batch in (frame.batch for frame in frames)
        )

    def _scan_file(self, path: Path) -> tuple[fmt.HotHeader, fmt.Scan]:
        data = path.read_bytes()
        header = fmt.decode_header(data)
        return header, fmt.scan(data, header, header.unwrap(self._keyring, path.name), whole=False)

    def _damaged(self, path: Path, first: int, reason: str) -> None:
        target = self._layout.to_quarantine(path, self._disk)
        self._found.report("wal_damaged", "alert", file=target.name, first=first, reason=reason)


def _continuity(found: Recovered) -> None:
    spans: list[Span] = [*found.segments, *found.frozen]
    for before, after in pairwise(spans):
        if before.last + 1 != after.first:
            found.report("wal_hole", "alert", first=before.last + 1, last=after.first - 1)
        elif before.head != after.previous:
            found.report("wal_chain_broken", "alert", at=after.first)


def _place_head(found: Recovered, mark: Mark | None) -> None:
    spans: list[Span] = [*found.segments, *found.frozen]
    if spans:
        found.head = JournalHead(spans[-1].last + 1, spans[-1].head)
    if mark is None:
        if spans:
            found.report("wal_mark_missing", "warning", last=found.head.next - 1)
        return
    if mark.sequence >= found.head.next:
        found.report("wal_tail_missing", "alert", first=found.head.next, last=mark.sequence)
        found.head = JournalHead(mark.sequence + 1, mark.digest)
    elif mark.sequence == found.head.next - 1 and mark.digest != found.head.digest:
        found.report("wal_chain_broken", "alert", at=mark.sequence)
