"""What hosts are given to run, how it fares, and what they tell.

Everything in an event that came out of a guest, its log lines and the text of its traps, is fit to be printed.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stagebox.modules.capabilities import Capability
from stagebox.modules.statement import ModuleLimits


@dataclass(frozen=True)
class HostedModule:
    """A module that was let run. ``data`` is its file; ``params`` are values by parameter id, defaults included.

    Two of them are the same module if all but ``params`` is equal.
    """

    name: str
    version: str
    data: bytes = field(repr=False)
    granted: frozenset[Capability]
    limits: ModuleLimits
    params: Mapping[int, float] = field(default_factory=dict)

    def same(self, other: HostedModule) -> bool:
        """Whether an instance of ``other`` can go on as this one, with other parameters."""
        return (self.name, self.version, self.granted, self.limits, self.data) == (
            other.name,
            other.version,
            other.granted,
            other.limits,
            other.data,
        )


@dataclass(frozen=True)
class PlacedModule:
    """A module as one insert of the patch sheet; ``insert`` is its id, unique on the rack."""

    insert: str
    module: HostedModule


class InsertState(enum.StrEnum):
    """How far an insert has come."""

    WAITING = "waiting"
    """Its host has no room for it; it is brought there when there is some."""
    STARTING = "starting"
    """It is compiled, or waits for its host."""
    RUNNING = "running"
    """It is called. A block with a fault is bypassed, a fresh instance goes on."""
    STOPPED = "stopped"
    """It does not start, or struck out; it is bypassed until another module is placed there."""


@dataclass(frozen=True)
class InsertStatus:
    """How one insert fares; counts are since it was placed. Fuel and time are of blocks that went well."""

    insert: str
    module: str
    version: str
    state: InsertState
    code: str = ""
    reason: str = ""
    blocks: int = 0
    bypassed: int = 0
    faults: int = 0
    over_budget: int = 0
    fuel: int = 0
    fuel_most: int = 0
    time_ns: int = 0
    time_most_ns: int = 0


@dataclass(frozen=True)
class HostDied:
    """A host ended or was ended; ``insert`` was on stage then, if any. It is replaced."""

    host: int
    reason: str
    insert: str = ""


@dataclass(frozen=True)
class InsertEvent:
    """Something about one insert; ``place`` is the name of its chain or feed."""

    place: str
    insert: str
    module: str
    version: str


@dataclass(frozen=True)
class Started(InsertEvent):
    """A first instance runs."""


@dataclass(frozen=True)
class Faulted(InsertEvent):
    """A fault: this block was bypassed. ``strikes`` counts those of the window."""

    code: str
    reason: str
    strikes: int


@dataclass(frozen=True)
class OverBudget(InsertEvent):
    """A block took more than it may: it was bypassed. ``strikes`` counts those of the window."""

    code: str
    reason: str
    strikes: int


@dataclass(frozen=True)
class Stopped(InsertEvent):
    """It is bypassed from here on."""

    code: str
    reason: str


@dataclass(frozen=True)
class Logged(InsertEvent):
    """A line for the log. ``level`` is as the ABI has it: 0 debug, 1 info, 2 warning, 3 error."""

    level: int
    text: str


@dataclass(frozen=True)
class Emitted(InsertEvent):
    """A record on the output ``out``. ``start`` and ``time_ns`` are of the block the module was given.

    A telemetry module's ``start`` is 0, and its ``time_ns`` when it was given the record.
    """

    out: str
    data: dict[str, Any]
    start: int
    time_ns: int


HostEvent = HostDied | InsertEvent
