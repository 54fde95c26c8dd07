"""Reads a stopped rack's journal for its repair, to the last byte, quarantine too. Changes nothing on disk.

Rules: a key file that opens nothing here, or is older than a key that a file names, is not this journal's: that is an
error, never damage of the files. What is put aside counts as read if any files of one name make a segment together.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stagebox.errors import DecodeError, StageboxError, VerificationError
from stagebox_rack.wal import mark as marks
from stagebox_rack.wal.disk import TEMPORARY_SUFFIX, Disk
from stagebox_rack.wal.hotfile import NEW_SUFFIX, HotSpan
from stagebox_rack.wal.inspect import Progress
from stagebox_rack.wal.keyring import Keyring
from stagebox_rack.wal.layout import HOT_SUFFIX, Layout
from stagebox_rack.wal.rotation import KEY_SUFFIX, key_version
from stagebox_rack.wal.sealing import read_hot
from stagebox_rack.wal.segment import SegmentFiles, load_seal, read_segment, segment_key

_QUARANTINED: Final = re.compile(r"(\d{20}-\d{20})\.(seal|key|parquet)(\.\d+)?")
_HOT: Final = re.compile(rf"\d{{20}}{re.escape(HOT_SUFFIX)}(\.\d+)?")

Range = tuple[int, int]


@dataclass(frozen=True)
class Piece:
    """Records ``first`` … ``last`` that verify: a segment (its seal, key and data), or one batch of a hot file.

    ``previous`` and ``head`` are the digests around it; ``chain`` and ``file_id`` are what a mark says of its file.
    """

    first: int
    last: int
    previous: bytes
    head: bytes
    files: tuple[Path, ...]
    chain: bytes
    file_id: bytes


@dataclass(frozen=True)
class HotRead:
    """A hot file and its batches; ``damage`` says what in it does not verify, ``torn`` that bytes follow the last."""

    path: Path
    first: int
    batches: tuple[Piece, ...] = ()
    damage: str = ""
    torn: bool = False
    aside: bool = False


@dataclass(frozen=True)
class SegmentRead:
    """What goes by one segment's name. ``here`` are the files in their place, the seal last.

    ``whole`` is what verifies, made of those or of others; ``reason`` says why those alone do not.
    """

    first: int
    last: int
    here: tuple[Path, ...]
    whole: Piece | None = None
    reason: str = ""

    @property
    def in_place(self) -> bool:
        """Whether it verifies as it lies."""
        return self.whole is not None and set(self.whole.files) == set(self.here)


@dataclass(frozen=True)
class JournalRead:
    """All that was read. ``leftovers`` go at the next start, whatever else; ``quarantined`` are ranges of segments."""

    mark: marks.Mark | None = None
    segments: tuple[SegmentRead, ...] = ()
    hot: tuple[HotRead, ...] = ()
    leftovers: tuple[Path, ...] = ()
    quarantined: tuple[Range, ...] = ()


@dataclass
class JournalReading:
    """One rack's journal and what reads it."""

    layout: Layout
    keyring: Keyring
    rack: str
    public: bytes
    earlier: tuple[bytes, ...]
    _proven: bool = False

    def read(self, progress: Progress | None = None) -> JournalRead:
        """Read all there is.

        Raises:
            StorageError, OSError: it cannot be read.
            VerificationError: the key file opens nothing here or is an older one, or it is another rack's journal.
        """
        self._refuse_other_keys()
        mark = marks.MarkFile(self.layout.mark, self.keyring, Disk()).load()
        self._proven = mark is not None
        going = {path.stem for path in self.layout.segments.glob("*.tombstone")}
        put_aside = {name: files for name, files in self._put_aside().items() if name not in going}
        names = sorted({stem.name for stem in self.layout.segment_stems()} - going | set(put_aside))
        quarantine = sorted(self.layout.quarantine.glob(f"[0-9]*{HOT_SUFFIX}*"))
        hot_files = [*self.layout.hot_files(), *(path for path in quarantine if _HOT.fullmatch(path.name))]
        segments: list[SegmentRead] = []
        hot: list[HotRead] = []
        for name in names:
            segments.append(self._segment(name, put_aside.get(name, [])))
            _tell(progress, len(segments), len(names) + len(hot_files))
        for path in hot_files:
            hot.append(self._hot(path))
            _tell(progress, len(names) + len(hot), len(names) + len(hot_files))
        if not self._proven and self.layout.has_data():
            raise VerificationError(
                f"the key file {self.layout.kek} opens nothing of the journal beside it",
                remedy="put back the wal/kek.key that this journal was written with",
            )
        lost = tuple(map(range_of, put_aside))
        return JournalRead(mark, tuple(segments), tuple(hot), tuple(self._leftovers(going)), lost)

    def _refuse_other_keys(self) -> None:
        """A key file from before a rotation opens some of a journal; the rest would look damaged."""
        keys = sorted(self.layout.segments.glob(f"[0-9]*{KEY_SUFFIX}"))
        named = [(path, key_version(path)) for path in (*self.layout.hot_files(), *keys)]
        if self.layout.mark.exists():
            named += [(self.layout.mark, v) for v in marks.key_versions(self.layout.mark.read_bytes())]
        for path, version in named:
            if version is not None and version > self.keyring.version:
                raise VerificationError(
                    f"{path.name} names journal key version {version}, the newest in {self.layout.kek} is "
                    f"{self.keyring.version}",
                    remedy="put back the wal/kek.key that this journal was written with; if it is right, that one "
                    f"file is damaged: move it to {self.layout.quarantine}",
                )

    def _put_aside(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in sorted(self.layout.quarantine.glob("[0-9]*-*")):
            if match := _QUARANTINED.fullmatch(path.name):
                found.setdefault(match[1], []).append(path)
        return found

    def _segment(self, name: str, put_aside: Sequence[Path]) -> SegmentRead:
        """Read a segment where it lies; if it is none there, from any files of its name that make one together."""
        own = SegmentFiles.of(self.layout.segments / name)
        here = tuple(path for path in reversed(tuple(own)) if path.exists())
        reason = "one of its files is missing"
        kinds = ([path for path in (*here, *put_aside) if kind.suffix in path.suffixes] for kind in own)
        for seal, key, parquet in itertools.product(*kinds):
            files = SegmentFiles(parquet, key, seal, own.tombstone)
            try:
                whole = self._read_segment(files)
            except StageboxError as error:
                reason = error.message if tuple(files) == tuple(own) else reason
                continue
            return SegmentRead(*range_of(name), here, whole, "" if files == own else reason)
        return SegmentRead(*range_of(name), here, reason=reason)

    def _read_segment(self, files: SegmentFiles) -> Piece:
        stem = self.layout.segments / files.tombstone.stem
        seal = load_seal(stem, self.public, self.earlier, files)
        segment_key(stem, seal, self.keyring, files)
        # What is in quarantine proves nothing: it may be another journal's, and the key file too.
        self._proven |= self.layout.segments in (files.seal.parent, files.key.parent)
        if (seal.rack, seal.journal) != (self.rack, self.keyring.journal):
            raise VerificationError(f"it belongs to journal {seal.journal.hex()} of rack {seal.rack!r}")
        read_segment(stem, self.keyring, self.public, self.earlier, files)
        return Piece(seal.first, seal.last, seal.previous, seal.head, tuple(files), seal.chain, seal.file_id)

    def _hot(self, path: Path) -> HotRead:
        first, aside = int(path.name.split(".")[0]), path.parent == self.layout.quarantine
        try:
            content = read_hot(all_of(path), self.keyring)
        except (DecodeError, VerificationError) as error:
            return HotRead(path, first, damage=error.message, aside=aside)
        self._proven |= not aside
        header, scan = content.header, content.scan
        if (header.rack, header.journal) != (self.rack, self.keyring.journal):
            if aside:
                return HotRead(path, first, damage="it is another journal's", aside=aside)
            raise VerificationError(
                f"{path.name} belongs to rack {header.rack!r}, this rack is {self.rack!r}",
                remedy="give this rack its own state directory",
            )
        batches = tuple(
            Piece(b.first, b.last, b.previous, b.digest, (path,), frame.chain_after, header.file_id)
            for frame in content.frames
            for b in (frame.batch,)
        )
        damage = "; ".join(found.reason for found in scan.damage)
        return HotRead(path, header.first, batches, damage, bool(scan.torn_bytes), aside)

    def _leftovers(self, tombstones: Collection[str]) -> Iterator[Path]:
        for folder in (self.layout.root, self.layout.hot):
            yield from (p for p in sorted(folder.iterdir()) if p.suffix in (TEMPORARY_SUFFIX, NEW_SUFFIX))
        yield from sorted(self.layout.segments.glob(f"[0-9]*-*{TEMPORARY_SUFFIX}"))
        for name in sorted(tombstones):
            yield from (path for path in SegmentFiles.of(self.layout.segments / name) if path.exists())


def all_of(path: Path) -> HotSpan:
    """Return the span of whatever a hot file holds."""
    return HotSpan(path, 0, (1 << 64) - 1, b"", b"", 0)


def range_of(name: str) -> Range:
    """Return the records that a segment's name tells of."""
    first, last = name.split("-")
    return int(first), int(last)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
