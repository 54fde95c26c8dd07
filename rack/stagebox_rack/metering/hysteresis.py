"""Conditions that begin after they held for a while and end after they were gone for a while. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


class Hysteresis:
    """One kind of condition on ``channels`` channels; times are in samples.

    Raised once it has been seen for ``hold`` samples without a break, ended once it has been absent for ``recover``.
    What is neither seen nor absent (between two thresholds) starts the time anew and changes nothing.
    """

    def __init__(self, channels: int, hold: int, recover: int) -> None:
        """Start with nothing raised."""
        self._hold = hold
        self._recover = recover
        self.active: Mask = np.zeros(channels, dtype=bool)
        self._for = np.zeros(channels, dtype=np.int64)
        self._since = np.zeros(channels, dtype=np.int64)

    def reset(self) -> None:
        """What was under way does not go on; what is raised stays raised."""
        self._for[...] = 0

    def observe(self, seen: Mask, absent: Mask, start: int, samples: int) -> tuple[Mask, Mask]:
        """Take what was observed over ``samples`` from sample index ``start``; return (raised now, ended now).

        `since` then says at which sample index each began to be so.
        """
        towards = np.where(self.active, absent, seen)
        begins = towards & (self._for == 0)
        self._since[begins] = start
        self._for = np.where(towards, self._for + samples, 0)
        due = towards & (self._for >= np.where(self.active, self._recover, self._hold))
        raised, ended = due & ~self.active, due & self.active
        self.active = self.active ^ due
        self._for[due] = 0
        return raised, ended

    def since(self, changed: Mask) -> int:
        """The sample index at which the first of the ``changed`` channels began to be as it is now."""
        return int(self._since[changed].min())
