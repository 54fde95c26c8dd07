"""How much of a backlog goes at once, and when the next may. Pure.

A backlog shares one connection with live data, and what is under way stands before what comes. So the window is what
the line takes in a moment: it grows while acknowledgements come soon, and is halved when one is late. Between two
windows of a backlog the line is left free for a part of the time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaceLimits:
    """Bytes and seconds. ``patience`` is how much longer than the shortest seen an acknowledgement may take."""

    least_bytes: int
    most_bytes: int
    step_bytes: int
    patience: float
    share: float


class Pace:
    """The pace on one connection."""

    def __init__(self, limits: PaceLimits) -> None:
        self._limits = limits
        self._shortest = float("inf")
        self.window_bytes = limits.step_bytes

    def acknowledged(self, seconds: float, *, backlog: bool) -> float:
        """Take how long a window took; return the seconds to wait before the next, 0 if what follows is live."""
        limits = self._limits
        self._shortest = min(self._shortest, seconds)
        if seconds <= self._shortest + limits.patience:
            self.window_bytes = min(limits.most_bytes, self.window_bytes + limits.step_bytes)
        else:
            self.window_bytes = max(limits.least_bytes, self.window_bytes // 2)
        return seconds * (1 - limits.share) / limits.share if backlog else 0.0

    def refused(self) -> None:
        """Take that a window was not acknowledged in time."""
        self.window_bytes = self._limits.least_bytes
