"""Names inside the journal's directory, and the lock that keeps a second process out.

::

    wal/lock  kek.key  mark  cursor
    wal/hot/<first>.hot  spare            wal/segments/<first>-<last>.{parquet,key,seal}
    wal/quarantine/                       what did not verify; never deleted by the rack
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path

from stagebox.errors import StorageError
from stagebox_rack.wal.disk import Disk

HOT_SUFFIX = ".hot"
_SEGMENT_NAME = re.compile(r"(\d{20})-(\d{20})")


@dataclass(frozen=True)
class Layout:
    """Paths of one journal."""

    root: Path

    @property
    def hot(self) -> Path:
        """Directory of hot files."""
        return self.root / "hot"

    @property
    def segments(self) -> Path:
        """Directory of sealed segments."""
        return self.root / "segments"

    @property
    def quarantine(self) -> Path:
        """Directory of files that did not verify."""
        return self.root / "quarantine"

    @property
    def kek(self) -> Path:
        """The key file."""
        return self.root / "kek.key"

    @property
    def mark(self) -> Path:
        """The high-water mark."""
        return self.root / "mark"

    @property
    def cursor(self) -> Path:
        """The acknowledged sequence, as last heard from the server."""
        return self.root / "cursor"

    @property
    def spare(self) -> Path:
        """A zero-filled file ready to become the next hot file."""
        return self.hot / "spare"

    def hot_file(self, first: int) -> Path:
        """Return the hot file whose first sequence is ``first``."""
        return self.hot / f"{first:020d}{HOT_SUFFIX}"

    def segment_stem(self, first: int, last: int) -> Path:
        """Return the common path of a segment's three files, without suffix."""
        return self.segments / f"{first:020d}-{last:020d}"

    def hot_files(self) -> list[Path]:
        """Return the hot files in sequence order."""
        return sorted(path for path in self.hot.glob(f"*{HOT_SUFFIX}") if path.stem.isdigit())

    def segment_stems(self) -> list[Path]:
        """Return the stems of all segments that have at least one of their files, in sequence order."""
        names = {path.name.split(".")[0] for path in self.segments.iterdir()}
        return [self.segments / name for name in sorted(names) if _SEGMENT_NAME.fullmatch(name)]

    def make(self, disk: Disk) -> None:
        """Create the directories (0700).

        Raises:
            StorageError: they cannot be created.
        """
        for path in (self.root, self.hot, self.segments, self.quarantine):
            try:
                disk.make_dir(path)
            except OSError as error:
                raise StorageError(
                    f"cannot create the directory {path}: {error.strerror}",
                    remedy="choose another --state-dir, or create it for this user",
                ) from error

    def has_data(self) -> bool:
        """Whether anything was ever journalled here."""
        return self.mark.exists() or any(self.segments.iterdir()) or bool(self.hot_files())

    def require_owner(self) -> None:
        """Demand that we are the user whose files these are: what another one makes here would lock the rack out.

        Raises:
            StorageError: a file is another user's.
        """
        folders = [path for path in (self.hot, self.segments, self.quarantine) if path.is_dir()]
        for path in (self.kek, self.mark, *(file for folder in folders for file in folder.iterdir())):
            with contextlib.suppress(FileNotFoundError):
                if (owner := path.stat().st_uid) != os.geteuid():
                    raise StorageError(
                        f"{path} belongs to user {owner}", remedy="run this as the user the rack runs as"
                    )

    def to_quarantine(self, path: Path, disk: Disk) -> Path:
        """Move a file aside, durably, under a name that is free; return it.

        Raises:
            OSError: the disk refuses, or the file is not there.
        """
        for number in range(1, 1 << 20):
            target = self.quarantine / f"{path.name}.{number}"
            if not target.exists():
                disk.rename(path, target)
                disk.sync_dir(self.quarantine)
                disk.sync_dir(path.parent)
                return target
        raise StorageError(f"{self.quarantine} is full", remedy="look at its files and move them away")


class Lock:
    """An exclusive advisory lock on a journal; released by the kernel if the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StorageError: another process has it, or the file cannot be made.
        """
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise StorageError(
                f"the journal {self._path.parent} is in use by another process",
                remedy="stop the other rack process, or give this one its own --state-dir",
            ) from None
        except OSError as error:
            self.release()
            raise StorageError(f"cannot lock {self._path}: {error.strerror}") from error

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with contextlib.suppress(OSError):
                os.close(descriptor)
