"""Reads a journal's directory from outside, beside a running rack or without one. Changes nothing on disk.

Rules: every file is verified as it is read. A hot file that is sealed, or a segment that is evicted, while we
read is looked up again, never reported as missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from stagebox.errors import DecodeError, StageboxError, StorageError, VerificationError
from stagebox_rack.wal import journal_format as fmt
from stagebox_rack.wal.keyring import Keyring, load_keyring
from stagebox_rack.wal.layout import Layout
from stagebox_rack.wal.mark import Mark, decode_marks
from stagebox_rack.wal.segment import SegmentFiles, load_seal, read_segment


@dataclass(frozen=True)
class FileContent:
    """What one file proves. ``problems`` says what in it does not."""

    name: str
    kind: str
    size: int
    rack: str | None
    batches: tuple[fmt.CommittedBatch, ...]
    torn_bytes: int
    problems: tuple[str, ...]


class JournalReader:
    """A read-only view of the journal in ``directory``.

    Raises:
        StorageError: there is no journal there.
        KeyFileError: its key file cannot be used.
    """

    def __init__(self, directory: Path, rack_public: bytes, earlier: Collection[bytes] = ()) -> None:
        self.layout = Layout(directory)
        if not self.layout.hot.is_dir() or not self.layout.segments.is_dir():
            raise StorageError(
                f"{directory} holds no journal", remedy="name the state directory of a rack that has run"
            )
        self.keyring: Keyring = load_keyring(self.layout.kek)
        self._public = rack_public
        self._earlier = tuple(earlier)

    def mark(self) -> Mark | None:
        """Return the high-water mark, or None when none verifies."""
        try:
            newest = decode_marks(self.layout.mark.read_bytes(), self.keyring)
        except OSError:
            return None
        return newest[1] if newest is not None else None

    def files(self) -> Iterator[FileContent]:
        """Yield every file in sequence order, segments first, each batch once."""
        done: set[Path] = set()
        last = 0
        while True:
            path = self._next(done)
            if path is None:
                return
            done.add(path)
            try:
                content = self._hot(path) if path.parent == self.layout.hot else self._segment(path)
            except FileNotFoundError:
                continue
            fresh = tuple(batch for batch in content.batches if batch.last > last)
            if content.batches and not fresh and not content.problems:
                continue  # sealed just now, and read as a segment already
            yield FileContent(
                content.name,
                content.kind,
                content.size,
                content.rack,
                fresh,
                content.torn_bytes,
                content.problems,
            )
            last = fresh[-1].last if fresh else last

    def _next(self, done: set[Path]) -> Path | None:
        # Listed anew for every file: a hot file may have become a segment since.
        for stem in self.layout.segment_stems():
            if stem not in done and SegmentFiles.of(stem).seal.exists():
                return stem
        for path in self.layout.hot_files():
            if path not in done:
                return path
        return None

    def _segment(self, stem: Path) -> FileContent:
        parquet = SegmentFiles.of(stem).parquet
        size = parquet.stat().st_size if parquet.exists() else 0
        try:
            seal = load_seal(stem, self._public, self._earlier)
            batches = tuple(read_segment(stem, self.keyring, self._public, self._earlier))
        except StageboxError as error:
            if not SegmentFiles.of(stem).seal.exists():
                raise FileNotFoundError(stem) from None
            return FileContent(stem.name, "segment", size, None, (), 0, (error.message,))
        return FileContent(stem.name, "segment", size, seal.rack, batches, seal.torn_bytes, ())

    def _hot(self, path: Path) -> FileContent:
        data = path.read_bytes()
        try:
            header = fmt.decode_header(data)
            scan = fmt.scan(data, header, header.unwrap(self.keyring, path.name))
        except (DecodeError, VerificationError) as error:
            return FileContent(path.name, "hot", len(data), None, (), 0, (error.message,))
        batches = tuple(frame.batch for frame in scan.frames)
        problems = tuple(f"bytes {d.start}-{d.end}: {d.reason}" for d in scan.damage)
        return FileContent(path.name, "hot", scan.end, header.rack, batches, scan.torn_bytes, problems)
