"""Files that survive a power cut: atomic replacement, write-once creation, private directories."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from stagebox.errors import KeyFileError, StorageError


def fsync_dir(path: Path) -> None:
    """Make the directory entries of ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` with ``data``: write a temporary, fsync, rename, fsync the directory.

    After a crash the file holds either the old bytes or the new ones.

    Raises:
        StorageError: the directory is not writable or the disk is full; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_exclusive(temporary, data, mode)
        temporary.replace(path)
        fsync_dir(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error.strerror}",
            remedy=f"check that {path.parent} is writable by this user and has free space",
        ) from error


def write_new(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Create ``path`` with ``data`` durably; an existing file is never overwritten.

    The name appears only once the content is durable, so a power cut cannot leave half a key behind.

    Raises:
        KeyFileError: the file exists.
        StorageError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_exclusive(temporary, data, mode)
        try:
            os.link(temporary, path)
        finally:
            temporary.unlink()
        fsync_dir(path.parent)
    except FileExistsError:
        raise KeyFileError(
            f"{path} exists and is never overwritten",
            remedy="choose another place, or move the old file away yourself",
        ) from None
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}",
            remedy=f"check that {path.parent} is writable by this user and has free space",
        ) from error


def make_private_dir(path: Path) -> None:
    """Create ``path`` with mode 0700; an existing directory keeps its mode, missing parents get the default.

    Raises:
        StorageError: it cannot be created or is not a directory.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot create the directory {path}: {error.strerror}",
            remedy="choose another directory or create it for this user",
        ) from error


def check_writable_dir(path: Path, flag: str) -> None:
    """Check early that ``path`` takes files.

    Raises:
        StorageError: it does not; the message names ``flag``.
    """
    probe = path / f".probe.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.close(descriptor)
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"the directory {path} is not writable: {error.strerror}",
            remedy=f"give this user write access, or choose another with {flag}",
        ) from error


def _write_exclusive(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    os.close(descriptor)
