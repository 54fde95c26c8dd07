"""Reads a file of the module state: whole, bounded, and only if it is a plain file under that very name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from stagebox.errors import StorageError

_CHUNK = 1 << 20


def read_plain(path: Path, *, max_bytes: int) -> bytes | None:
    """Return the content of ``path``, of which at most ``max_bytes + 1`` are read; None if there is none.

    A link is not followed, and a FIFO or device put there holds up nothing.

    Raises:
        StorageError: it is not a plain file, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _unreadable(path, "not a plain file")
        return _read(descriptor, max_bytes + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__) from None
    finally:
        os.close(descriptor)


def _read(descriptor: int, most: int) -> bytes:
    parts: list[bytes] = []
    while most > 0 and (part := os.read(descriptor, min(most, _CHUNK))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _unreadable(path: Path, reason: str) -> StorageError:
    return StorageError(
        f"cannot read {path}: {reason}", remedy="move it away; what is needed is fetched again"
    )
