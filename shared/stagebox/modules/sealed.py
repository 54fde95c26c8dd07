"""Bytes in anonymous memory that nobody can change any more: how a file is handed to another process. Linux only."""

from __future__ import annotations

import fcntl
import os

_WHOLE = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def sealed(name: str, data: bytes) -> int:
    """Return a new descriptor of memory that holds ``data`` for good; ``name`` is for people who look for it.

    Raises:
        OSError: no memory or no descriptor is left.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        seal(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def seal(descriptor: int) -> None:
    """Let nobody change the memory of ``descriptor``, made with ``MFD_ALLOW_SEALING``, any more.

    Raises:
        OSError: somebody maps it for writing.
    """
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _WHOLE)


def read_whole(descriptor: int, max_bytes: int) -> bytes:
    """Return what is in the memory of ``descriptor``, wherever its file offset is.

    Raises:
        OSError: it is larger than ``max_bytes``, or cannot be read.
    """
    size = os.fstat(descriptor).st_size
    if size > max_bytes:
        raise OSError(f"{size} bytes are more than the {max_bytes} expected")
    data = bytearray()
    while len(data) < size:
        part = os.pread(descriptor, size - len(data), len(data))
        if not part:
            break
        data += part
    return bytes(data)
