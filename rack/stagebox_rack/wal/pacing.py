"""How much of a backlog goes at once, and when the next may. Pure.

A backlog shares one connection with live data, and what is under way stands before what comes. So the window is what
the line takes in a moment: it grows while acknowledgements come soon, and is halved when one is late. Between two
windows of a backlog the line is left free for a part of the time, and the interpreter for a greater one: metering and
publishing share it with whoever reads a segment.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaceLimits:
    """Bytes and seconds. ``patience`` is how much longer than the shortest seen an acknowledgement may take.

    ``line_share`` and ``work_share`` are what a backlog may have of the line's time and of the interpreter's.
    """

    least_bytes: int
    most_bytes: int
    step_bytes: int
    patience: float
    line_share: float
    work_share: float


class Pace:
    """The pace on one connection."""

    def __init__(self, limits: PaceLimits) -> None:
        self._limits = limits
        self._shortest = float("inf")
        self.window_bytes = limits.step_bytes

    def acknowledged(self, seconds: float, *, work: float, backlog: bool) -> float:
        """Return the seconds to wait before the next window, 0 if what follows is live.

        ``seconds`` is how long the acknowledgement took, ``work`` how long reading and signing the window did.
        """
        limits = self._limits
        self._shortest = min(self._shortest, seconds)
        if seconds <= self._shortest + limits.patience:
            self.window_bytes = min(limits.most_bytes, self.window_bytes + limits.step_bytes)
        else:
            self.window_bytes = max(limits.least_bytes, self.window_bytes // 2)
        return _rest(seconds, limits.line_share) + _rest(work, limits.work_share) if backlog else 0.0

    def refused(self) -> None:
        """Take that a window was not acknowledged in time."""
        self.window_bytes = self._limits.least_bytes


def _rest(seconds: float, share: float) -> float:
    return seconds * (1 - share) / share
