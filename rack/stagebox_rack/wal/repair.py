"""``stagebox rack wal repair``: a stopped rack's journal made whole, as far as what is on the disk allows. Blocking.

Read everything, decide (``repair_plan.py``), do it, verify. Rules: nothing is moved before the key file has proved to
be the journal's. Each action is durable before the next, and after a kill between any two steps the next call comes to
the same end. Files are moved, never removed, but for those that a start removes too: unfinished ones, and hot files
whose records are in segments. A segment moves its seal last when it goes and first when it comes: at no time are its
data and key there without one, which a start would take for an unfinished seal.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from nacl.signing import SigningKey

from stagebox.errors import StorageError
from stagebox.records.seal import NO_SEAL, seal_hash
from stagebox_rack.wal import mark as marks
from stagebox_rack.wal.catalogue import Catalogue
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.inspect import JournalDamageError, Progress, VerifyReport, verify
from stagebox_rack.wal.layout import Layout, Lock
from stagebox_rack.wal.opening import own_keyring
from stagebox_rack.wal.recovery import recover
from stagebox_rack.wal.repair_plan import (
    Action,
    Finish,
    Plan,
    PutBack,
    SealHot,
    SetAside,
    WriteMark,
    plan,
)
from stagebox_rack.wal.repair_reading import JournalReading, Piece, Range, all_of, range_of
from stagebox_rack.wal.sealing import Sealer, read_hot
from stagebox_rack.wal.segment import SegmentFiles

_REMEDY: Final = (
    "what was acknowledged is at the mixer ('stagebox lake query' reads it); what is in quarantine stays: if a "
    "missing or right file of it turns up, put it back and call this again"
)


@dataclass(frozen=True)
class RepairReport:
    """What was done (or would be), what stays missing, and what the journal proves now (nothing after a dry run)."""

    actions: tuple[Action, ...]
    missing: tuple[Range, ...]
    verified: VerifyReport | None

    def require_whole(self) -> None:
        """Demand a journal that verifies and lacks nothing.

        Raises:
            JournalDamageError: it does not, or it does.
        """
        if self.verified is None or not (self.verified.problems or self.missing):
            return
        told = self.verified.problems
        lacks = [f"records {first}-{last} " for first, last in self.missing]
        more = [f"{text}are missing" for text in lacks if not any(it.startswith(text) for it in told)]
        raise JournalDamageError(replace(self.verified, problems=[*more, *told]), _REMEDY)

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` shows."""
        shown: dict[str, Any] = {
            "dry_run": self.verified is None,
            "actions": [_shown(action) for action in self.actions],
            "missing": [list(pair) for pair in self.missing],
        }
        if self.verified is not None:
            whole = not (self.missing or self.verified.problems)
            shown |= {"verified": whole, "journal": asdict(self.verified)}
        return shown


def repair(
    directory: Path,
    signing_key: SigningKey,
    earlier: Collection[bytes] = (),
    *,
    rack: str,
    dry_run: bool = False,
    disk: Disk | None = None,
    progress: Progress | None = None,
) -> RepairReport:
    """Repair the journal in ``directory``; ``dry_run`` changes nothing there and only says what would be done.

    ``earlier`` are keys the rack had before; ``progress`` gets (done, all), of the reading and then of the verifying.

    Raises:
        StorageError: the rack runs, the disk refuses, there is no journal, or it is another user's.
        KeyFileError: the key file cannot be used.
        VerificationError: the key file is not this journal's, or the journal is another rack's; nothing was changed.
    """
    layout, lock = Layout(directory), Lock(directory / "lock")
    if not layout.hot.is_dir() or not layout.segments.is_dir():
        raise StorageError(
            f"{directory} holds no journal", remedy="name the state directory of a rack that has run"
        )
    layout.require_owner()
    if not dry_run or (directory / "lock").exists():  # a lock that was never taken is held by nobody
        lock.acquire()
    try:
        public = bytes(signing_key.verify_key)
        keyring = own_keyring(layout, public, earlier)
        journal = JournalReading(layout, keyring, rack, public, tuple(earlier))
        decided = plan(journal.read(progress))
        if dry_run:
            return RepairReport(decided.actions, decided.missing, None)
        done = _Work(journal, signing_key, disk or Disk()).run(decided)
        return RepairReport(done, decided.missing, _verified(journal, progress))
    except OSError as error:
        raise StorageError(
            f"cannot repair the journal in {directory}: {error.strerror or error}",
            remedy="nothing was given up; free space or repair the disk, then call this again",
        ) from error
    finally:
        lock.release()


def _verified(journal: JournalReading, progress: Progress | None) -> VerifyReport:
    try:
        return verify(journal.layout.root, journal.public, earlier=journal.earlier, progress=progress)
    except JournalDamageError as error:
        return error.report


@dataclass
class _Work:
    """Does a plan, with the lock held."""

    journal: JournalReading
    signing_key: SigningKey
    disk: Disk
    moved: dict[Path, Path] = field(default_factory=dict)
    done: list[Action] = field(default_factory=list)

    def run(self, decided: Plan) -> tuple[Action, ...]:
        layout = self.journal.layout
        layout.make(self.disk)
        if decided.actions:
            # A process that was killed may have left names that only the kernel knows.
            for folder in (layout.root, layout.hot, layout.segments, layout.quarantine):
                self.disk.sync_dir(folder)
        for action in decided.actions:
            self.done.append(action)
            match action:
                case SetAside():
                    self.moved |= {path: layout.to_quarantine(path, self.disk) for path in action.files}
                case PutBack():
                    self._put_back(action)
                case SealHot():
                    self._seal(action)
                case Finish():
                    self._finish()
                case WriteMark():
                    self._write_mark(action.end)
        return tuple(self.done)

    def _put_back(self, action: PutBack) -> None:
        own = SegmentFiles.of(self.journal.layout.segment_stem(action.first, action.last))
        for path, target in zip(action.files, own, strict=True):
            source = self.moved.get(path, path)
            if source == target:
                continue
            self.disk.sync_file(source)  # somebody may have copied it here a moment ago
            self.disk.rename(source, target)
            self.disk.sync_dir(target.parent)
            self.disk.sync_dir(source.parent)

    def _seal(self, action: SealHot) -> None:
        journal, (path,) = self.journal, action.files
        content = read_hot(all_of(path), journal.keyring)
        sealer = Sealer(
            journal.layout,
            journal.keyring,
            Catalogue([], []),
            self.signing_key,
            rack=journal.rack,
            on_event=lambda _: None,
            on_seal=lambda _: None,  # the next start journals it
            clock_quality=lambda: "unknown",
            disk=self.disk,
        )
        for first, last in action.ranges:
            frames = tuple(f for f in content.frames if first <= f.batch.first and f.batch.last <= last)
            sealer.save(replace(content, frames=frames), self._seal_before(first))

    def _seal_before(self, first: int) -> bytes:
        seals = [SegmentFiles.of(stem).seal for stem in self.journal.layout.segment_stems()]
        before = [path for path in seals if path.exists() and range_of(path.stem)[1] < first]
        return seal_hash(before[-1].read_bytes()) if before else NO_SEAL

    def _finish(self) -> None:
        own = self.journal
        mark = marks.MarkFile(own.layout.mark, own.keyring, self.disk).load()
        found = recover(
            own.layout, own.keyring, mark, self.disk, rack=own.rack, public=own.public, earlier=own.earlier
        )
        for event in found.events:
            if event.name == "wal_damaged":
                first = event.detail["first"]
                path = own.layout.quarantine / event.detail["file"]
                self.done.append(
                    SetAside((path,), first, event.detail.get("last", first), event.detail["reason"])
                )

    def _write_mark(self, end: Piece) -> None:
        file = marks.MarkFile(self.journal.layout.mark, self.journal.keyring, self.disk)
        try:
            file.write(marks.Mark(end.last, end.head, end.chain, end.file_id))
            file.sync()
        finally:
            file.close()


def _shown(action: Action) -> dict[str, Any]:
    match action:
        case WriteMark(end=end):
            return {"action": action.name, "last": end.last}
        case _:
            fields = {key: value for key, value in vars(action).items() if key != "files"}
            return {"action": action.name, "files": [path.name for path in action.files], **fields}
