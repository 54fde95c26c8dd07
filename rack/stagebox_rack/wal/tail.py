"""The newest committed batches in memory, bounded in bytes, so that following the head reads nothing back."""

from __future__ import annotations

from collections import deque

from stagebox_rack.wal.journal_format import CommittedBatch


class Tail:
    """A contiguous run of batches that ends at the newest one."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._batches: deque[CommittedBatch] = deque()

    def add(self, batch: CommittedBatch) -> None:
        """Append the newest batch; the oldest ones make room."""
        self._batches.append(batch)
        self._bytes += len(batch.payload)
        while self._bytes > self._max_bytes and len(self._batches) > 1:
            self._bytes -= len(self._batches.popleft().payload)

    def after(self, sequence: int) -> CommittedBatch | None:
        """Return the batch that holds ``sequence + 1``, or None if it is not held here."""
        if not self._batches or sequence + 1 < self._batches[0].first or sequence >= self._batches[-1].last:
            return None
        low, high = 0, len(self._batches) - 1
        while low < high:
            middle = (low + high) // 2
            if self._batches[middle].last > sequence:
                high = middle
            else:
                low = middle + 1
        return self._batches[low]
