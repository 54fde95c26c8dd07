"""How long audio waits for its modules: half of its own duration on average, a little more at once. Pure.

A share alone would give a short block no time at all when the machine is busy for a moment; a fixed time would let
short blocks wait longer than they take, and the source would fall behind.
"""

from __future__ import annotations


class Patience:
    """The waiting time left to one chain, in seconds: at most ``most``, earned at ``share`` of the audio's duration."""

    def __init__(self, share: float, most: float) -> None:
        self._share = share
        self._most = most
        self._left = most

    @property
    def left(self) -> float:
        """How long may be waited now; never below 0."""
        return max(0.0, self._left)

    def spend(self, waited: float, duration: float) -> None:
        """Note that ``waited`` seconds went by for audio of ``duration`` seconds."""
        self._left = min(self._most, self._left - waited + self._share * duration)
