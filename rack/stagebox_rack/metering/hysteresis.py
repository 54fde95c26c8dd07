"""Conditions that begin after they held for a while and end after they were gone for a while. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


class Hysteresis:
    """Several kinds of condition on ``channels`` channels; times are in samples, one of each for each kind.

    Raised once it has been seen for ``hold`` samples without a break, ended once it has been absent for ``recover``.
    What is neither seen nor absent (between two thresholds) starts the time anew and changes nothing. Every mask is
    [kinds, channels].
    """

    def __init__(self, channels: int, hold: Sequence[int], recover: Sequence[int]) -> None:
        """Start with nothing raised."""
        self._hold = np.array(hold, dtype=np.int64).reshape(-1, 1)
        self._recover = np.array(recover, dtype=np.int64).reshape(-1, 1)
        self.active: Mask = np.zeros((len(self._hold), channels), dtype=bool)
        self._for = np.zeros(self.active.shape, dtype=np.int64)
        self._since = np.zeros(self.active.shape, dtype=np.int64)

    def reset(self) -> None:
        """What was under way does not go on; what is raised stays raised."""
        self._for[...] = 0

    def observe(self, seen: Mask, absent: Mask, start: int, samples: int) -> tuple[Mask, Mask]:
        """Take what was observed over ``samples`` from sample index ``start``; return (raised now, ended now).

        `since` then says at which sample index each began to be so.
        """
        towards = np.where(self.active, absent, seen)
        begins = towards & (self._for == 0)
        if begins.any():
            self._since[begins] = start
        self._for += samples
        self._for *= towards
        due = towards & (self._for >= np.where(self.active, self._recover, self._hold))
        if not due.any():
            return due, due
        raised, ended = due & ~self.active, due & self.active
        self.active = self.active ^ due
        self._for[due] = 0
        return raised, ended

    def since(self, changed: Mask) -> int:
        """The sample index at which the first of those ``changed`` began to be as it is now."""
        return int(self._since[changed].min())
