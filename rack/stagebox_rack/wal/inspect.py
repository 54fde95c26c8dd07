"""``stagebox rack wal ls`` and ``verify``: what a journal's directory holds and what of it is proved."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from stagebox.errors import VerificationError
from stagebox_rack.wal.layout import Layout
from stagebox_rack.wal.reader import FileContent, JournalReader

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FileEntry:
    """One line of ``ls``. ``first`` and ``last`` are 0 where the name does not say."""

    name: str
    kind: str
    first: int
    last: int
    size: int
    modified: float


@dataclass
class VerifyReport:
    """Exactly what was covered, and what was wrong."""

    rack: str | None = None
    first: int = 0
    last: int = 0
    records: int = 0
    batches: int = 0
    segments: int = 0
    hot_files: int = 0
    bytes_read: int = 0
    torn_bytes: int = 0
    mark: int | None = None
    quarantined: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def covered(self) -> str:
        """One sentence for people."""
        mark = f"high-water mark {self.mark}" if self.mark is not None else "no high-water mark"
        return (
            f"records {self.first}-{self.last} ({self.records} in {self.batches} batches): "
            f"{self.segments} segments (seal signature, file hash, decryption, chain), "
            f"{self.hot_files} hot files (every frame, chain), {mark}, {self.torn_bytes} torn bytes, "
            f"{len(self.quarantined)} files in quarantine"
        )


class JournalDamageError(VerificationError):
    """A journal does not prove itself whole; ``report`` says what does and what does not."""

    def __init__(self, report: VerifyReport, remedy: str | None = None) -> None:
        shown = "; ".join(report.problems[:5])
        more = f"; and {len(report.problems) - 5} more" if len(report.problems) > 5 else ""
        super().__init__(
            f"the journal does not verify: {shown}{more}",
            remedy=remedy
            or "keep the directory as it is; acknowledged records are at the mixer, and "
            "'wal export' still writes every record that verifies",
        )
        self.report = report


def list_files(directory: Path) -> list[FileEntry]:
    """Return every file of the journal in ``directory``, in sequence order, without reading its content."""
    layout = Layout(directory)
    entries: list[FileEntry] = []
    for folder, kind in (
        (layout.segments, "segment"),
        (layout.hot, "hot"),
        (layout.quarantine, "quarantine"),
    ):
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.name.startswith(".") or path.suffix in (".seal", ".key", ".tombstone", ".tmp"):
                continue
            stat = path.stat()
            first, _, last = path.name.split(".")[0].partition("-")
            entries.append(
                FileEntry(
                    path.name,
                    "spare" if path == layout.spare else kind,
                    int(first) if first.isdigit() else 0,
                    int(last) if last.isdigit() else 0,
                    stat.st_size,
                    stat.st_mtime,
                )
            )
    return entries


def verify(
    directory: Path,
    rack_public: bytes,
    *,
    earlier: Collection[bytes] = (),
    progress: Progress | None = None,
) -> VerifyReport:
    """Verify everything in ``directory``: seals, hashes, every frame, the chain and the high-water mark.

    ``earlier`` are keys the rack had before; ``progress`` gets (bytes done, bytes in all).

    Raises:
        JournalDamageError: something does not verify; the whole journal was looked at first.
        StorageError, KeyFileError: there is no journal, or its key cannot be used.
    """
    reader = JournalReader(directory, rack_public, earlier)
    report = VerifyReport()
    # Read first: a mark taken after the files could be ahead of what we saw of a running journal.
    mark = reader.mark()
    total = sum(entry.size for entry in list_files(directory) if entry.kind in ("segment", "hot"))
    expected, previous = 0, b""
    for content in reader.files():
        _count(report, content)
        for batch in content.batches:
            if expected and batch.first != expected:
                report.problems.append(f"records {expected}-{batch.first - 1} are missing")
            elif expected and batch.previous != previous:
                report.problems.append(f"the chain is broken before record {batch.first}")
            report.first = report.first or batch.first
            report.last = batch.last
            report.records += batch.last - batch.first + 1
            report.batches += 1
            expected, previous = batch.last + 1, batch.digest
        if progress is not None:
            progress(min(report.bytes_read, total), total)
    if mark is not None:
        report.mark = mark.sequence
        if mark.sequence > report.last:
            report.problems.append(
                f"records {report.last + 1}-{mark.sequence} were committed and are missing"
            )
    elif report.records:
        report.problems.append("the high-water mark is missing or does not verify")
    report.quarantined = sorted(path.name for path in reader.layout.quarantine.iterdir())
    if report.problems:
        raise JournalDamageError(report)
    return report


def _count(report: VerifyReport, content: FileContent) -> None:
    report.problems.extend(f"{content.name}: {problem}" for problem in content.problems)
    report.segments += content.kind == "segment"
    report.hot_files += content.kind == "hot"
    report.bytes_read += content.size
    report.torn_bytes += content.torn_bytes
    if content.rack is not None and report.rack is not None and content.rack != report.rack:
        report.problems.append(f"{content.name} belongs to rack {content.rack}")
    report.rack = report.rack or content.rack
