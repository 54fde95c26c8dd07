"""An advisory lock on a file of the state directory, between the running rack and ``stagebox rack renew``."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from stagebox.errors import StorageError
from stagebox_rack.limits import LIMITS


class InUseError(StorageError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock; the kernel gives it back if the process dies. Blocks for ``wait`` seconds at most.

    Raises:
        InUseError: another process keeps it. StorageError: the file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"cannot lock {path}: {error.strerror}") from error
    try:
        _take(descriptor, path, time.monotonic() + wait)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise InUseError(
                    f"{path} is held by another process",
                    remedy="a renewal is under way; try again in a minute",
                ) from None
            time.sleep(LIMITS.lock_poll)
        else:
            return
