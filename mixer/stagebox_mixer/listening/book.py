"""The leases of everybody who listens, and what the racks must be told for them. Pure; times are monotonic seconds.

All listeners of one bus share one lease at the rack. Rules: as long as the rack does what it is told, its lease never
ends before a listener's; it is told again only when a listener's lease would outlive it, and told to stop when the
last one left or ended. A lease belongs to who took it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Key = tuple[str, str]
"""Rack and bus."""


@dataclass
class _Listener:
    caller: str
    end: float


@dataclass
class _Bus:
    lease: bytes  # ours, at the rack
    rack_end: float = 0.0
    listeners: dict[str, _Listener] = field(default_factory=dict)


class LeaseBook:
    """The leases one mixer process has given."""

    def __init__(self) -> None:
        self._buses: dict[Key, _Bus] = {}

    def known(self, key: Key, lease: str, caller: str) -> bool:
        """Whether ``caller`` holds ``lease`` on this bus."""
        bus = self._buses.get(key)
        listener = bus.listeners.get(lease) if bus is not None else None
        return listener is not None and listener.caller == caller

    def taken(self, key: Key, lease: str) -> bool:
        """Whether anybody holds ``lease`` on this bus."""
        bus = self._buses.get(key)
        return bus is not None and lease in bus.listeners

    def listeners(self, rack: str) -> int:
        """How many leases there are on the buses of ``rack``."""
        return sum(len(bus.listeners) for (name, _), bus in self._buses.items() if name == rack)

    def must_tell(self, key: Key, end: float) -> bool:
        """Whether the rack must be told, for a listener's lease to live until ``end``."""
        bus = self._buses.get(key)
        return bus is None or bus.rack_end < end

    def rack_lease(self, key: Key, fresh: bytes) -> bytes:
        """Our lease at the rack for this bus: the one we have, else ``fresh``."""
        return self._buses[key].lease if key in self._buses else fresh

    def told(self, key: Key, lease: bytes, end: float) -> None:
        """The rack has acknowledged our ``lease`` until ``end``."""
        bus = self._buses.setdefault(key, _Bus(lease))
        bus.rack_end = max(bus.rack_end, end)

    def take(self, key: Key, lease: str, caller: str, end: float) -> None:
        """Give or renew a listener's lease; the rack has been told already."""
        self._buses[key].listeners[lease] = _Listener(caller, end)

    def release(self, key: Key, lease: str) -> None:
        """Take a listener's lease back."""
        if key in self._buses:
            self._buses[key].listeners.pop(lease, None)

    def idle(self, now: float) -> dict[Key, bytes]:
        """Forget what has ended; return the buses nobody listens to any more, with our lease at the rack."""
        found = {}
        for key, bus in list(self._buses.items()):
            for lease in [lease for lease, listener in bus.listeners.items() if listener.end <= now]:
                del bus.listeners[lease]
            if not bus.listeners:
                found[key] = bus.lease
        return found

    def forget(self, key: Key) -> None:
        """The rack was told to stop, or its lease has ended."""
        self._buses.pop(key, None)

    def keys(self) -> tuple[Key, ...]:
        """Every bus that has been told something."""
        return tuple(self._buses)
