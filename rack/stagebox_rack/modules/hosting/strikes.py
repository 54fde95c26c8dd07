"""Strikes: so many faults within so long a time, and a module is stopped. Pure: times come in."""

from __future__ import annotations

from collections.abc import Iterable


class Strikes:
    """The strikes of one insert. Times are ns of one monotonic clock, which all processes of a machine share."""

    def __init__(self, most: int, window_s: float, earlier: Iterable[int] = ()) -> None:
        """Begin with the times of ``earlier`` ones; at ``most`` within ``window_s`` it is :attr:`out`."""
        self._most = most
        self._window_ns = int(window_s * 1e9)
        self._times = sorted(earlier)[-most:]

    @property
    def times(self) -> tuple[int, ...]:
        """When the strikes were that count, oldest first."""
        return tuple(self._times)

    @property
    def count(self) -> int:
        """How many count."""
        return len(self._times)

    @property
    def out(self) -> bool:
        """Whether it is one too many."""
        return len(self._times) >= self._most

    def add(self, now_ns: int) -> bool:
        """Count a strike now; return :attr:`out`. Those before the window do not count any more."""
        self._times = [when for when in self._times if now_ns - when < self._window_ns]
        self._times.append(now_ns)
        return self.out
