"""What a module did in one run: times, fuel, what it said, and what went wrong with it. Filled by the trials."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from stagebox_rack.desk.limits import LIMITS
from stagebox_rack.modules.hosting.hosted import (
    Emitted,
    Faulted,
    HostDied,
    HostEvent,
    InsertStatus,
    Logged,
    OverBudget,
    Stopped,
)

Trouble = Faulted | OverBudget | Stopped | HostDied


@dataclass
class Observed:
    """One run. Times are in ns; ``trip_ns`` and ``fuel`` have one entry a block that went through the module."""

    offered: int = 0
    trip_ns: list[int] = field(default_factory=list)
    fuel: list[int] = field(default_factory=list)
    passed: int = 0
    """Blocks that went past the module, or records it was not given."""
    late: int = 0
    """Blocks that came back later than a rack would have waited."""
    wall_s: float = 0.0
    status: InsertStatus | None = None
    emitted: int = 0
    outs: Counter[str] = field(default_factory=Counter)
    records: deque[Emitted] = field(default_factory=lambda: deque(maxlen=LIMITS.records_kept))
    busiest: int = 0
    """The most records that came within one second of the input."""
    lines: deque[Logged] = field(default_factory=lambda: deque(maxlen=LIMITS.lines_kept))
    line_count: int = 0
    troubles: list[Trouble] = field(default_factory=list)
    trouble_count: int = 0
    _seconds: Counter[int] = field(default_factory=Counter)

    def take(self, event: HostEvent) -> None:
        """Note what a host tells."""
        match event:
            case Emitted():
                self.emitted += 1
                self.outs[event.out] += 1
                self.records.append(event)
                second = event.time_ns // 1_000_000_000
                self._seconds[second] += 1
                self.busiest = max(self.busiest, self._seconds[second])
            case Logged():
                self.lines.append(event)
                self.line_count += 1
            case Faulted() | OverBudget() | Stopped() | HostDied():
                self.trouble_count += 1
                if len(self.troubles) < LIMITS.faults_kept:
                    self.troubles.append(event)

    @property
    def clean(self) -> bool:
        """Whether the module was given everything and nothing went wrong."""
        return not self.trouble_count and not self.passed and self.offered > 0
