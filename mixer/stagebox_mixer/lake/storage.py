"""Where the lake's files lie: a directory, or a bucket of S3-compatible storage. Blocking.

Paths are relative, with ``/``. Rules: a file is there whole or not at all, and durable when :meth:`Storage.write`
returns. Names are never used twice, so nothing is ever overwritten.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from stagebox.errors import StorageError
from stagebox.files import fsync_dir, make_private_dir

_UNFINISHED = ".tmp"


class Storage(Protocol):
    """What the lake needs of a place. Every method raises ``OSError`` as the place does."""

    def write(self, path: str, data: bytes) -> None:
        """Store a new file durably; FileExistsError if there is one of this name."""
        ...

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        ...

    def names(self, directory: str) -> list[str]:
        """Return the paths of all files under a directory, sorted; none if it does not exist."""
        ...

    def delete(self, path: str) -> None:
        """Remove a file; a missing one is fine."""
        ...

    def settle(self) -> None:
        """Make sure of what a writer left that was cut off: what is named counts for good, the rest is gone."""
        ...

    def arrow(self) -> tuple[Any, str]:
        """Return (the pyarrow filesystem, what to put before a path in it)."""
        ...


class LocalStorage:
    """A directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: set[Path] = set()

    def __str__(self) -> str:
        """Return the place for people."""
        return str(self.root)

    def write(self, path: str, data: bytes) -> None:
        """Store a new file durably: temporary, fsync, link, fsync of the directory."""
        target = self.root / path
        self._make(target.parent)
        temporary = target.with_name(f".{target.name}{_UNFINISHED}")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(temporary, target)  # unlike a rename this does not replace
        finally:
            temporary.unlink()
        fsync_dir(target.parent)

    def _make(self, directory: Path) -> None:
        """Make a directory and its parents, durably."""
        if directory in self._known:
            return
        if not directory.is_dir():
            self._make(directory.parent)
            make_private_dir(directory)
            fsync_dir(directory.parent)
        self._known.add(directory)

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        return (self.root / path).read_bytes()

    def names(self, directory: str) -> list[str]:
        """Return the paths of all files under a directory but unfinished ones."""
        start = self.root / directory
        found = [path for path in start.rglob("*") if path.is_file() and not path.name.startswith(".")]
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def delete(self, path: str) -> None:
        """Remove a file, and the directories it leaves empty."""
        target = self.root / path
        target.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            for parent in target.relative_to(self.root).parents[:-2]:
                (self.root / parent).rmdir()
                self._known.discard(self.root / parent)

    def settle(self) -> None:
        """Remove unfinished files, and sync every directory."""
        for path in self.root.rglob("*"):
            if path.is_dir():
                fsync_dir(path)
            elif path.name.startswith(".") and path.suffix == _UNFINISHED:
                path.unlink()
        fsync_dir(self.root)

    def arrow(self) -> tuple[Any, str]:
        """Return pyarrow's local filesystem."""
        from pyarrow import fs

        return fs.LocalFileSystem(), f"{self.root}/"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second writer out while this is held.

        Raises:
            StorageError: another process writes to this lake.
        """
        make_private_dir(self.root)
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    f"the lake {self.root} is in use by another mixer",
                    remedy="stop it, or name another --data-dir",
                ) from None
            yield
        finally:
            os.close(descriptor)


class ArrowStorage:
    """A place that pyarrow knows: S3-compatible storage. One object is written in one go, so it is whole or not there.

    Two mixers that write to one bucket are told apart by the manifest's numbers only, not by a lock: run one.
    """

    def __init__(self, filesystem: Any, base: str) -> None:
        self._filesystem = filesystem
        self._base = base.strip("/")

    def __str__(self) -> str:
        """Return the place for people."""
        return f"{self._filesystem.type_name}://{self._base}"

    def write(self, path: str, data: bytes) -> None:
        """Store a new object."""
        from pyarrow import fs

        if self._filesystem.get_file_info(self._full(path)).type != fs.FileType.NotFound:
            raise FileExistsError(path)
        with self._filesystem.open_output_stream(self._full(path)) as stream:
            stream.write(data)

    def read(self, path: str) -> bytes:
        """Return an object's bytes."""
        with self._filesystem.open_input_stream(self._full(path)) as stream:
            data: bytes = stream.read()
        return data

    def names(self, directory: str) -> list[str]:
        """Return the paths of all objects under a prefix."""
        from pyarrow import fs

        selector = fs.FileSelector(self._full(directory), allow_not_found=True, recursive=True)
        start = len(self._base) + 1
        infos = self._filesystem.get_file_info(selector)
        return sorted(info.path[start:] for info in infos if info.type == fs.FileType.File)

    def delete(self, path: str) -> None:
        """Remove an object."""
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.delete_file(self._full(path))

    def settle(self) -> None:
        """Nothing to do: an object that can be seen is durable, and one that was not closed is none."""

    def arrow(self) -> tuple[Any, str]:
        """Return the filesystem itself."""
        return self._filesystem, f"{self._base}/"

    def _full(self, path: str) -> str:
        return f"{self._base}/{path}"


def open_storage(place: str) -> LocalStorage | ArrowStorage:
    """Return the storage of a directory's path or of an ``s3://bucket/prefix?endpoint_override=…`` URI.

    Credentials come from the environment, as for every S3 tool, never from the URI.

    Raises:
        StorageError: the URI is not understood.
    """
    if "://" not in place:
        return LocalStorage(Path(place))
    from pyarrow import ArrowInvalid, fs

    try:
        filesystem, base = fs.FileSystem.from_uri(place)
    except (ArrowInvalid, OSError, NotImplementedError) as error:
        raise StorageError(
            f"the lake's place {place.split('?')[0]!r} is not understood: {error}",
            remedy="give a directory, or s3://bucket/prefix with the credentials in the environment",
        ) from None
    return ArrowStorage(filesystem, base)
