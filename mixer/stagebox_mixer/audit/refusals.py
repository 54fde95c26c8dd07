"""Keeps refusals from filling the disk. Pure: the caller brings the time (seconds, monotonic).

Three bounds, and nothing is dropped: the first refusal of an (actor, action, reason) is written at once and those that
follow within the window are counted into one row; at most ``max_keys`` windows are open; and all rows together take
from one token bucket, so that many sources cannot do what one may not. A refusal without a window or a token is
counted in the overflow of its action, which is written once in each overflow window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stagebox_mixer.audit.row import Row
from stagebox_mixer.limits import LIMITS

MANY = "many"
OVERFLOW = "overflow"


class TokenBucket:
    """Lets ``burst`` rows through at once and ``per_s`` a second in the long run."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._level = burst
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Take one token, if there is one."""
        if self._at is not None:
            self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._per_s)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True


@dataclass
class _Window:
    since: float
    row: Row
    count: int = 0


class RefusalWindow:
    """Folds refusals into counted rows within the bounds."""

    def __init__(
        self,
        bucket: TokenBucket,
        *,
        window_s: float = LIMITS.refusal_window_s,
        max_keys: int = LIMITS.refusal_keys,
        overflow_window_s: float = LIMITS.refusal_overflow_window_s,
        overflow_actions: int = LIMITS.refusal_overflow_actions,
    ) -> None:
        self._bucket = bucket
        self._window_s = window_s
        self._max_keys = max_keys
        self._overflow_window_s = overflow_window_s
        self._overflow_actions = overflow_actions
        self._open: dict[tuple[str, str, str], _Window] = {}
        self._overflow: dict[str, _Window] = {}

    @property
    def size(self) -> int:
        """How many windows are open."""
        return len(self._open) + len(self._overflow)

    def admit(self, row: Row, now: float) -> Row | None:
        """Return the row to write now, or None if it was only counted."""
        key = (row.actor, row.action, row.reason)
        window = self._open.get(key)
        if window is not None:
            window.count += row.count
        elif len(self._open) < self._max_keys and self._bucket.take(now):
            self._open[key] = _Window(now, row)
            return row
        else:
            self.overflow(row, now)
        return None

    def overflow(self, row: Row, now: float) -> None:
        """Count a row that must wait for the next overflow row of its action."""
        action = row.action
        if action not in self._overflow and len(self._overflow) >= self._overflow_actions - 1:
            action = MANY
        window = self._overflow.setdefault(
            action, _Window(now, Row(MANY, action, MANY, row.result, OVERFLOW))
        )
        window.count += row.count

    def expire(self, now: float, *, everything: bool = False) -> list[Row]:
        """Close the windows that ended, or ``everything``, and return the counted rows to write."""
        rows = []
        for key, window in list(self._open.items()):
            if everything or now - window.since >= self._window_s:
                del self._open[key]
                if window.count:
                    counted = replace(window.row, count=window.count)
                    if self._bucket.take(now):
                        rows.append(counted)
                    else:
                        self.overflow(counted, now)
        for action, window in list(self._overflow.items()):
            if everything or now - window.since >= self._overflow_window_s:
                del self._overflow[action]
                rows.append(replace(window.row, count=window.count))
        return rows
