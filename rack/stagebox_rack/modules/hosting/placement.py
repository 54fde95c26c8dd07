"""One insert as the rack keeps it: what is placed there, how far it has come, and what it did. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagebox import cbor
from stagebox.modules.capabilities import Capability
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.hosted import InsertState, InsertStatus, PlacedModule
from stagebox_rack.modules.hosting.rates import Rate
from stagebox_rack.modules.hosting.strikes import Strikes

_COUNTS = {
    "Blocks": "blocks",
    "Bypassed": "bypassed",
    "Fuel": "fuel",
    "Time": "time_ns",
}
_MOST = (1 << 63) - 1
"""The largest count that every reader of a heartbeat can hold: a host may say anything."""
_PEAKS = {"FuelMost": "fuel_most", "TimeMost": "time_most_ns"}


class Placement:
    """One insert. ``number`` is that of its instance, a new one in every host that it comes to."""

    def __init__(self, placed: PlacedModule, number: int) -> None:
        self.placed = placed
        self.number = number
        self.state = InsertState.STARTING
        self.code = ""
        self.reason = ""
        self.faults = 0
        self.over_budget = 0
        self.strikes = Strikes(LIMITS.module_strikes, LIMITS.module_strike_window)
        self.in_order = False
        """Whether its host has put it in order, so that the next block is its own."""
        self.before: Placement | None = None
        """What is heard in its place until it runs."""
        self.sent: Mapping[int, float] = {}
        """The parameters its instance has."""
        self._earlier = dict.fromkeys([*_COUNTS.values(), *_PEAKS.values()], 0)
        self._now = dict(self._earlier)
        # Twice what its host lets through: a host is not believed, but its clock and ours are not one.
        self._records = Rate(2 * placed.module.limits.records_per_s)
        self._lines = Rate(2 * LIMITS.module_logs_per_s)

    @property
    def insert(self) -> str:
        """The id of the insert."""
        return self.placed.insert

    @property
    def running(self) -> bool:
        """Whether an instance of it runs."""
        return self.state is InsertState.RUNNING

    @property
    def starting(self) -> bool:
        """Whether it will be heard, and is not yet."""
        return self.state is InsertState.STARTING or (self.running and not self.in_order)

    @property
    def status(self) -> InsertStatus:
        """How it fares."""
        counts = self._sum()
        return InsertStatus(
            insert=self.insert,
            module=self.placed.module.name,
            version=self.placed.module.version,
            state=InsertState.STARTING if self.starting else self.state,
            code=self.code,
            reason=self.reason,
            faults=self.faults,
            over_budget=self.over_budget,
            **counts,
        )

    def stop(self, code: str, reason: str) -> None:
        """It is bypassed from here on."""
        self.state, self.code, self.reason, self.before = InsertState.STOPPED, code, reason, None

    def again(self, number: int) -> None:
        """Its host is gone: it starts as another instance."""
        self._earlier = self._sum()
        self._now = dict.fromkeys(self._now, 0)
        self.number, self.sent, self.before, self.in_order = number, {}, None, False
        if self.state is InsertState.RUNNING:
            self.state = InsertState.STARTING

    def tally(self, fields: dict[str, Any]) -> None:
        """Take the counts of its instance.

        Raises:
            DecodeError: malformed.
        """
        for key, name in {**_COUNTS, **_PEAKS}.items():
            self._now[name] = cbor.take_uint(fields, key, "tally")

    def may_emit(self, now_ns: int) -> bool:
        """Whether a record of it is taken."""
        return Capability.EMIT in self.placed.module.granted and self._records.allow(now_ns)

    def may_log(self, now_ns: int) -> bool:
        """Whether a line of it is taken."""
        return Capability.LOG in self.placed.module.granted and self._lines.allow(now_ns)

    def _sum(self) -> dict[str, int]:
        counts = {name: min(_MOST, self._earlier[name] + self._now[name]) for name in _COUNTS.values()}
        peaks = {name: min(_MOST, max(self._earlier[name], self._now[name])) for name in _PEAKS.values()}
        return counts | peaks
