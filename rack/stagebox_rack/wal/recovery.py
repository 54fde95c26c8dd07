"""What a journal's directory holds after any end: the spans that prove themselves, and where to go on.

Rules: nothing is deleted but files that hold no record and leftovers of an unfinished seal whose hot file is
still there; what does not verify goes to quarantine and is reported. Sequence numbers that were ever promised
(journal or high-water mark, whichever is further) are not given out again. A key that opens nothing stops the
journal instead of emptying it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from stagebox import files
from stagebox.errors import DecodeError, StageboxError, StorageError, VerificationError
from stagebox.records.seal import seal_hash
from stagebox.records.tombstone import open_tombstone
from stagebox.records.walbatch import FIRST_PREVIOUS, FIRST_SEQUENCE
from stagebox_rack.wal import journal_format as fmt
from stagebox_rack.wal.catalogue import SegmentSpan, Span
from stagebox_rack.wal.events import JournalEvent
from stagebox_rack.wal.hotfile import HotSpan
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
    *,
    rack: str,
    public: bytes,
    earlier: Collection[bytes] = (),
) -> Recovered:
    """Read a journal's directory. Call with the journal's lock held.

    Raises:
        VerificationError: the journal key is not the one this journal was written with, or it is another
            rack's journal.
        StorageError: the disk cannot be read.
    """
    found = Recovered()
    _remove_temporaries(layout)
    # A mark or a data key that opened proves the KEK; after that, what does not open is damaged.
    proven = mark is not None
    _segments(layout, keyring, found, rack=rack, keys=(public, earlier), kek_proven=proven)
    _hot_files(layout, keyring, found, rack=rack, mark=mark, kek_proven=proven or bool(found.segments))
    _continuity(found)
    _place_head(layout, found, mark)
    return found


def _remove_temporaries(layout: Layout) -> None:
    for directory in (layout.hot, layout.root):
        for path in directory.iterdir():
            if path.is_file() and (path.name.endswith(".tmp") or path.name.endswith(".new")):
                path.unlink(missing_ok=True)


def _segments(
    layout: Layout,
    keyring: Keyring,
    found: Recovered,
    *,
    rack: str,
    keys: tuple[bytes, Collection[bytes]],
    kek_proven: bool,
) -> None:
    hot_firsts = [int(path.stem) for path in layout.hot_files()]
    for stem in layout.segment_stems():
        paths = SegmentFiles.of(stem)
        if not _finish_steps(layout, stem, hot_firsts, found, keys):
            continue
        try:
            data = paths.seal.read_bytes()
            seal = load_seal(stem, *keys)
        except OSError as error:
            raise StorageError(f"cannot read {paths.seal}: {error.strerror}") from error
        except StageboxError as error:
            _quarantine_segment(layout, stem, error, found)
            continue
        if not kek_proven:
            segment_key(stem, seal, keyring)  # a key that opens nothing stops us before anything is moved
            kek_proven = True
        if (seal.rack, seal.journal) != (rack, keyring.journal):
            owner = f"journal {seal.journal.hex()} of rack {seal.rack!r}"
            _quarantine_segment(layout, stem, VerificationError(f"it belongs to {owner}"), found)
            continue
        if found.segments and seal.first <= found.segments[-1].last:
            _quarantine_segment(layout, stem, StorageError("it overlaps the segment before it"), found)
            continue
        stat = paths.parquet.stat()
        found.segments.append(
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
        found.seals.append((seal.last, data))


def _finish_steps(
    layout: Layout,
    stem: Path,
    hot_firsts: Sequence[int],
    found: Recovered,
    keys: tuple[bytes, Collection[bytes]],
) -> bool:
    """Do what the machine asks for after a crash; return whether a segment is there."""
    paths = SegmentFiles.of(stem)
    unfinished = list(layout.segments.glob(f"{stem.name}.*.tmp"))
    state = Found(
        hot=any(first <= int(stem.name[:20]) for first in hot_firsts),
        unfinished=bool(unfinished),
        parquet=paths.parquet.exists(),
        key=paths.key.exists(),
        seal=paths.seal.exists(),
        tombstone=paths.tombstone.exists(),
    )
    for step in recovery(state):
        match step:
            case Step.DROP_UNFINISHED:
                for path in unfinished if state.seal or state.tombstone else (*unfinished, *paths):
                    path.unlink(missing_ok=True)
            case Step.REMOVE_SEAL:
                paths.seal.unlink()
            case Step.REMOVE_DATA:
                paths.key.unlink(missing_ok=True)
                paths.parquet.unlink(missing_ok=True)
            case Step.QUARANTINE:
                _quarantine_segment(layout, stem, StorageError("one of its files is missing"), found)
            case _:
                continue  # the hot file goes once it is known that its segments hold all of it
        files.fsync_dir(layout.segments)
    if state.tombstone:
        _tombstone(layout, paths.tombstone, found, keys)
    return state.seal and state.parquet and state.key and not state.tombstone


def _tombstone(layout: Layout, path: Path, found: Recovered, keys: tuple[bytes, Collection[bytes]]) -> None:
    data = path.read_bytes()
    try:
        if open_tombstone(data, *keys).acknowledged:
            path.unlink()
        else:
            found.tombstones.append((path, data))
    except StageboxError as error:
        target = layout.to_quarantine(path)
        found.report(
            "wal_damaged", "alert", file=target.name, first=int(path.name[:20]), reason=error.message
        )


def _quarantine_segment(layout: Layout, stem: Path, error: StageboxError, found: Recovered) -> None:
    for path in SegmentFiles.of(stem):
        with contextlib.suppress(FileNotFoundError):
            layout.to_quarantine(path)
    first, last = (int(part) for part in stem.name.split("-"))
    found.report("wal_damaged", "alert", file=stem.name, first=first, last=last, reason=error.message)


def _hot_files(
    layout: Layout, keyring: Keyring, found: Recovered, *, rack: str, mark: Mark | None, kek_proven: bool
) -> None:
    scanned: list[tuple[Path, fmt.HotHeader, fmt.Scan]] = []
    for path in layout.hot_files():
        try:
            header, scan = _scan_file(path, keyring)
        except DecodeError as error:
            _quarantine_hot(layout, path, error.message, found)
            continue
        except VerificationError as error:
            if not kek_proven:
                raise
            _quarantine_hot(layout, path, error.message, found)
            continue
        if header.rack != rack:
            raise VerificationError(
                f"the journal in {layout.root} belongs to rack {header.rack!r}, this rack is {rack!r}",
                remedy="give this rack its own state directory",
            )
        kek_proven = True
        scanned.append((path, header, scan))
    sealed_last = found.segments[-1].last if found.segments else 0
    for index, (path, header, scan) in enumerate(scanned):
        # A batch that was written twice (its first file failed) counts in the later file.
        limit = scanned[index + 1][1].first if index + 1 < len(scanned) else None
        frames = [
            f for f in scan.frames if f.batch.last > sealed_last and (limit is None or f.batch.last < limit)
        ]
        _hot_span(layout, path, header, scan, frames, found, mark, sealed_last)


def _hot_span(
    layout: Layout,
    path: Path,
    header: fmt.HotHeader,
    scan: fmt.Scan,
    frames: list[fmt.Frame],
    found: Recovered,
    mark: Mark | None,
    sealed_last: int,
) -> None:
    if not frames and scan.frames:
        path.unlink(missing_ok=True)  # sealed, or written again to a later file, before the crash
        return
    if scan.torn_bytes:
        found.report("wal_torn_tail", "warning", file=path.name, bytes=scan.torn_bytes)
    if not frames:
        promised = mark is not None and mark.sequence >= header.first > sealed_last
        if promised and scan.torn_bytes:
            _quarantine_hot(layout, path, "no frame in it authenticates", found)
        else:
            path.unlink(missing_ok=True)
        return
    last = frames[-1]
    first = frames[0].batch
    found.frozen.append(
        HotSpan(path, first.first, last.batch.last, first.previous, last.batch.digest, last.end)
    )


def _scan_file(path: Path, keyring: Keyring) -> tuple[fmt.HotHeader, fmt.Scan]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    header = fmt.decode_header(data)
    return header, fmt.scan(data, header, header.unwrap(keyring, path.name), whole=False)


def _quarantine_hot(layout: Layout, path: Path, reason: str, found: Recovered) -> None:
    target = layout.to_quarantine(path)
    found.report("wal_damaged", "alert", file=target.name, first=int(path.stem), reason=reason)


def _continuity(found: Recovered) -> None:
    spans: list[Span] = [*found.segments, *found.frozen]
    for before, after in pairwise(spans):
        if before.last + 1 != after.first:
            found.report("wal_hole", "alert", first=before.last + 1, last=after.first - 1)
        elif before.head != after.previous:
            found.report("wal_chain_broken", "alert", at=after.first)


def _place_head(layout: Layout, found: Recovered, mark: Mark | None) -> None:
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
