"""A page that a host shares with the rack: who is on stage. What is there when a host dies gets the blame.

int64: 0 the number of the instance that is being called or started, 0 for none; 1 counts the ticks of its epoch.
"""

from __future__ import annotations

import fcntl
import mmap
import os

_PAGE = 4096


class Stage:
    """One side's view; written by the host only. ``words`` is the int64 view."""

    INSTANCE = 0
    TICKS = 1

    def __init__(self, descriptor: int) -> None:
        """Map the memory of ``descriptor``, which stays the caller's."""
        self._memory = mmap.mmap(descriptor, _PAGE)
        self.words = memoryview(self._memory).cast("q")

    @staticmethod
    def create() -> int:
        """Return a descriptor of new memory, sized for good.

        Raises:
            OSError: no memory or no descriptor is left.
        """
        descriptor = os.memfd_create("stagebox-stage", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, _PAGE)
            fcntl.fcntl(
                descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            )
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def close(self) -> None:
        """Unmap."""
        self.words.release()
        self._memory.close()
