"""The file operations the journal is built on, in one object, so that tests can make a disk fail.

Rules: a short write is continued until the kernel says why it stopped; nothing here retries a sync.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"

_ZEROS = bytes(1 << 20)


class Disk:
    """Operations on descriptors and names. Every method raises ``OSError`` as the kernel does."""

    def create(self, path: Path) -> int:
        """Create ``path``, which must not exist, for reading and writing (0600)."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open(self, path: Path) -> int:
        """Open an existing file for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Write once; may write less than asked."""
        return os.pwrite(descriptor, data, offset)

    def datasync(self, descriptor: int) -> None:
        """Make written data durable (fdatasync)."""
        os.fdatasync(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut a file to ``size`` bytes."""
        os.ftruncate(descriptor, size)

    def size(self, descriptor: int) -> int:
        """Return a file's size in bytes."""
        return os.fstat(descriptor).st_size

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing ``target``."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove a name; a missing one is fine."""
        path.unlink(missing_ok=True)

    def make_dir(self, path: Path) -> None:
        """Create a directory (0700) and missing parents, durably; one that is there stays as it is."""
        if path.is_dir():
            return
        self.make_dir(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        self.sync_dir(path.parent)

    def sync_dir(self, path: Path) -> None:
        """Make a directory's entries durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def write_all(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``, continuing after short writes."""
        view = memoryview(data)
        while view:
            written = self.pwrite(descriptor, view, offset)
            if written <= 0:
                raise OSError(errno.EIO, "the disk accepted no bytes")
            view, offset = view[written:], offset + written

    def write_file(self, path: Path, data: bytes) -> None:
        """Create ``path`` anew with ``data``, durably; its name is durable after :meth:`sync_dir`."""
        self.unlink(path)
        descriptor = self.create(path)
        try:
            self.write_all(descriptor, data, 0)
            self.datasync(descriptor)
        finally:
            self.close(descriptor)

    def sync_file(self, path: Path) -> None:
        """Make what another process wrote to ``path`` durable."""
        descriptor = self.open(path)
        try:
            self.datasync(descriptor)
        finally:
            self.close(descriptor)

    def put(self, path: Path, data: bytes) -> None:
        """Replace ``path`` with ``data``, durably: after a crash it holds either the old bytes or the new ones."""
        temporary = unfinished(path)
        self.write_file(temporary, data)
        self.rename(temporary, path)
        self.sync_dir(path.parent)

    def remove(self, *paths: Path) -> None:
        """Remove files of one directory, durably; missing ones are fine."""
        for path in paths:
            self.unlink(path)
        self.sync_dir(paths[0].parent)

    def zero_fill(self, descriptor: int, size: int) -> None:
        """Allocate ``size`` bytes by writing zeros, durably: a later overwrite needs no free space."""
        for offset in range(0, size, len(_ZEROS)):
            self.write_all(descriptor, _ZEROS[: min(len(_ZEROS), size - offset)], offset)
        self.datasync(descriptor)


def unfinished(path: Path) -> Path:
    """Return the name under which ``path`` is written; what has it counts for nothing after a crash."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)
