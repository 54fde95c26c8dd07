"""Which tombstones the mixer does not have yet. No I/O.

Rules: a tombstone stays on the disk until the mixer holds the record of it. If that record is evicted before, with the
segment it lies in, the tombstone is journalled again: an explanation must not be lost with what it explains.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Graves:
    """Tombstones by path, with their bytes and the sequence under which they are journalled."""

    _journalled: dict[Path, tuple[int, bytes]] = field(default_factory=dict)

    def journalled(self, path: Path, data: bytes, sequence: int) -> None:
        """A tombstone is record ``sequence`` now."""
        self._journalled[path] = sequence, data

    def acknowledged(self, last: int) -> list[Path]:
        """The mixer holds everything up to ``last``; return the tombstones that nobody needs any more."""
        known = [path for path, (sequence, _) in self._journalled.items() if sequence <= last]
        for path in known:
            del self._journalled[path]
        return known

    def evicted(self, first: int, last: int) -> list[tuple[Path, bytes]]:
        """Records ``first`` … ``last`` are gone unshipped; return the (path, bytes) to journal again."""
        lost = [(path, held) for path, held in self._journalled.items() if first <= held[0] <= last]
        for path, _ in lost:
            del self._journalled[path]
        return [(path, data) for path, (_, data) in lost]
