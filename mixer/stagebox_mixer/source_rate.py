"""How often one source may ask for something: a token bucket for each. Pure.

The caller brings the time. Memory is bounded: beyond ``max_sources`` the source unseen for longest is forgotten
and begins anew with a full bucket. That bounds what one source can take, not what a thousand can.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict


class SourceRate:
    """``burst`` requests at once, then ``per_s`` a second, for each source."""

    def __init__(self, *, per_s: float, burst: int, max_sources: int) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._max_sources = max_sources
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, source: str, now: float) -> float:
        """Take one request of ``source`` at ``now`` (s, monotonic); returns 0, or after how long to come again.

        A refused request takes nothing, so waiting that long is always enough.
        """
        level, at = self._buckets.pop(source, (self._burst, now))
        level = min(self._burst, level + max(0.0, now - at) * self._per_s)
        admitted = level >= 1.0
        self._buckets[source] = (level - 1.0 if admitted else level, now)
        if len(self._buckets) > self._max_sources:
            self._buckets.popitem(last=False)
        return 0.0 if admitted else (1.0 - level) / self._per_s


def source_of(host: str) -> str:
    """Return whom an address counts for: an IPv4 address itself, an IPv6 one its /64, which one party holds whole."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
