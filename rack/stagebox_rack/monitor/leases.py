"""Who listens: leases on monitor buses with an end. Pure; times are seconds of the rack's monotonic clock.

A bus is sent while any lease on it lives. A lease is renewed by asking again under the same id, and released by a
time of 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from stagebox_rack.limits import LIMITS


class LeaseRefused(Exception):
    """There are too many leases already."""


@dataclass
class _Bus:
    ends: dict[bytes, float]


class Leases:
    """The leases of one rack."""

    def __init__(self, *, most: int = LIMITS.leases_per_bus) -> None:
        """Hold at most ``most`` leases a bus."""
        self._most = most
        self._buses: dict[str, _Bus] = {}

    def take(self, bus: str, lease: bytes, ttl_s: float, now: float) -> None:
        """Take, renew or (``ttl_s`` 0) release a lease.

        Raises:
            LeaseRefused: too many live on this bus.
        """
        self.expire(now)
        entry = self._buses.setdefault(bus, _Bus({}))
        if ttl_s <= 0:
            entry.ends.pop(lease, None)
        elif lease in entry.ends or len(entry.ends) < self._most:
            entry.ends[lease] = now + ttl_s
        else:
            raise LeaseRefused
        if not entry.ends:
            del self._buses[bus]

    def expire(self, now: float) -> None:
        """Drop what has ended."""
        for bus, entry in list(self._buses.items()):
            for lease in [lease for lease, end in entry.ends.items() if end <= now]:
                del entry.ends[lease]
            if not entry.ends:
                del self._buses[bus]

    def live(self, now: float) -> frozenset[str]:
        """The buses somebody listens to."""
        self.expire(now)
        return frozenset(self._buses)

    def count(self, bus: str) -> int:
        """How many leases ``bus`` has; those that ended since the last look count too."""
        return len(self._buses[bus].ends) if bus in self._buses else 0

    def next_end(self) -> float | None:
        """When the first lease ends; None if there is none."""
        return min((end for entry in self._buses.values() for end in entry.ends.values()), default=None)

    def clear(self) -> None:
        """Drop every lease."""
        self._buses.clear()
