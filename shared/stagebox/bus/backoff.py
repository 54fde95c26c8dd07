"""Full-jitter exponential back-off, as a pure state machine.

The n-th delay is uniform in [0, min(cap, base · 2ⁿ)], so a fleet that lost its mixer at one instant does not
come back at one instant. The random source is an argument; there is no clock and no sleeping here.
"""

from __future__ import annotations

from random import Random

from stagebox.errors import ConfigError

_MAX_EXPONENT = 64  # past this every sane cap is reached; keeps the power finite


class Backoff:
    """Delays in seconds between attempts; :meth:`reset` after a success."""

    def __init__(self, base: float, cap: float, random: Random) -> None:
        if not 0 < base <= cap:
            raise ConfigError(
                f"back-off base {base} s and cap {cap} s do not fit",
                remedy="give a base above 0 and a cap that is not below it",
            )
        self._base = base
        self._cap = cap
        self._random = random
        self._attempt = 0

    @property
    def attempt(self) -> int:
        """How many delays were handed out since the last reset."""
        return self._attempt

    @property
    def ceiling(self) -> float:
        """The longest the next delay can be, in seconds."""
        return float(min(self._cap, self._base * 2.0 ** min(self._attempt, _MAX_EXPONENT)))

    def next_delay(self) -> float:
        """Return the next delay in seconds."""
        delay = self._random.uniform(0.0, self.ceiling)
        self._attempt += 1
        return delay

    def reset(self) -> None:
        """Start over from the shortest delay."""
        self._attempt = 0
