"""So many a second, and as many at once. Pure: times come in."""

from __future__ import annotations


class Rate:
    """A bucket of ``per_s`` tokens that fills within a second. Times are ns of one monotonic clock."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._left = float(per_s)
        self._at_ns = 0

    def allow(self, now_ns: int) -> bool:
        """Take a token if there is one."""
        self._left = min(float(self._per_s), self._left + (now_ns - self._at_ns) * 1e-9 * self._per_s)
        self._at_ns = now_ns
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
