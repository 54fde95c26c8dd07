"""When to renew and by which way: a state machine without I/O; the wall clock and the random source come in.

Due at two thirds of a certificate's life and up to a twelfth later, so that a fleet enrolled in one hour does not
renew in one. Over the snake while it is up; over HTTPS when the certificate has ended, or admission has refused us
for a while. Failures back off with jitter. Overdue, which is an alert, is less than seven days of life or a quarter of
it, whichever is less. Times are seconds since the Unix epoch. The clock may be wrong and jump both ways: a wait begun
in what is now the future is over, and a certificate that is due when it comes lasts its share of what is left.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from random import Random

from stagebox.bus.backoff import Backoff
from stagebox_rack.limits import LIMITS, RackLimits


class Via(enum.StrEnum):
    """The way a renewal takes."""

    SNAKE = "snake"
    HTTPS = "https"


@dataclass(frozen=True)
class Life:
    """A certificate's validity."""

    begins: float
    ends: float

    @property
    def length(self) -> float:
        """In seconds, never below zero."""
        return max(0.0, self.ends - self.begins)


@dataclass(frozen=True)
class Situation:
    """``refused_since`` is when the mixer began to refuse us, None if the last word was not a refusal."""

    connected: bool
    refused_since: float | None = None


@dataclass(frozen=True)
class Plan:
    """``via`` None: nothing to do now; look again in ``wait`` seconds, or when something happens."""

    via: Via | None
    wait: float
    overdue: bool


def due_at(life: Life, share: float, limits: RackLimits = LIMITS) -> float:
    """Return when ``life`` is to be renewed; ``share`` in [0, 1] is the jitter."""
    return life.begins + life.length * (limits.renew_due_share + share * limits.renew_jitter_share)


def overdue_at(life: Life, limits: RackLimits = LIMITS) -> float:
    """Return from when on an unrenewed ``life`` is an alert."""
    return life.ends - min(limits.renew_overdue, life.length * limits.renew_overdue_life_share)


class RenewalSchedule:
    """The schedule of one certificate after the other."""

    def __init__(self, life: Life, *, random: Random, limits: RackLimits = LIMITS) -> None:
        self._random = random
        self._limits = limits
        self.renewed(life)

    def renewed(self, life: Life, now: float | None = None) -> None:
        """A certificate came, at ``now`` if that is known: begin anew, with a new jitter."""
        limits, share = self._limits, self._random.random()
        self.life = life
        self.due_at = due_at(life, share, limits)
        if now is not None and now >= self.due_at:
            # Its begin is not when we got it, or our clock goes wrong: asking again at once would never end.
            self.due_at = due_at(Life(now, life.ends), share, limits)
        self.overdue_at = overdue_at(life, limits)
        first = max(
            limits.renew_retry_min,
            min(limits.renew_retry_first_max, life.length * limits.renew_retry_life_share),
        )
        cap = max(first, min(limits.renew_retry_cap, life.length * limits.renew_retry_cap_life_share))
        self._backoff = Backoff(first, cap, self._random)
        self._waiting = (0.0, 0.0)  # from, until
        self._was_cut_off = False
        if now is not None:
            self._waiting = (now, now + first)

    def failed(self, now: float, situation: Situation) -> float:
        """An attempt failed; return when the next one may be made."""
        # Between half and all of the ceiling: the n-th retry keeps a distance, and a fleet still spreads.
        delay = self._backoff.ceiling / 2 + self._backoff.next_delay() / 2
        if self._cut_off(now, situation):
            delay = min(delay, self._limits.renew_retry_cut_off_cap)
        self._waiting = (now, now + delay)
        return now + delay

    def plan(self, now: float, situation: Situation) -> Plan:
        """Return what to do at ``now``."""
        limits = self._limits
        overdue, was_cut_off = now >= self.overdue_at, self._was_cut_off
        self._was_cut_off = self._cut_off(now, situation)
        if self._was_cut_off:
            if not was_cut_off:  # a whole fleet may have been: not all of it asks at once
                self._waiting = (now, now + self._random.random() * limits.renew_cut_off_first)
            via, earliest = Via.HTTPS, self._not_before(now)
        elif situation.connected:
            via, earliest = Via.SNAKE, max(self.due_at, self._not_before(now))
        else:
            return Plan(None, self._wait(now, situation), overdue)
        if now >= earliest:
            return Plan(via, 0.0, overdue)
        return Plan(None, min(earliest - now, self._wait(now, situation)), overdue)

    def _not_before(self, now: float) -> float:
        begun, until = self._waiting
        return until if now >= begun else now  # the clock was set back

    def _cut_off(self, now: float, situation: Situation) -> bool:
        """Whether the snake cannot be had without a new identity."""
        if now >= self.life.ends:
            return True
        since = situation.refused_since
        if situation.connected or since is None:
            return False
        return not 0 <= now - since < self._limits.renew_refused_for

    def _wait(self, now: float, situation: Situation) -> float:
        """Return how long nothing can change by itself, in seconds; bounded, because wall clocks jump."""
        moments = [self.due_at, self.overdue_at, self.life.ends]
        if situation.refused_since is not None:
            moments.append(situation.refused_since + self._limits.renew_refused_for)
        return min([moment - now for moment in moments if moment > now] + [self._limits.renew_check])
