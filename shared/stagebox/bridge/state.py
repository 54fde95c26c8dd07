"""What the bridge knows: the newest frame of every source, and the names its rack gave. Pure; times in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stagebox.records.meter import MeterFrame
from stagebox.records.status import Status
from stagebox.subscriber.record import Record, Verification

STALE_S = 1.0
"""A source whose last frame is older than this is shown as gone, never as if it went on."""


@dataclass
class SourceMeters:
    """One source of one rack."""

    name: str
    frame: MeterFrame | None = None
    arrived: float = 0.0
    lost: int = 0
    unproved: int = 0
    channel_names: tuple[str, ...] = ()
    programme_names: tuple[str, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()

    def age(self, now: float) -> float:
        """Seconds since the last frame."""
        return now - self.arrived

    def stale(self, now: float) -> bool:
        """Whether its meters must not look alive."""
        return self.frame is None or self.age(now) > STALE_S + 2 * self.frame.frames / max(1, self.frame.rate)

    def channel(self, number: int) -> str:
        """The name of a channel; its number from 1 where the rack did not say."""
        return self.channel_names[number] if number < len(self.channel_names) else str(number + 1)

    def programme(self, number: int) -> str:
        """The name of a programme."""
        return self.programme_names[number] if number < len(self.programme_names) else f"p{number + 1}"


@dataclass
class RackMeters:
    """One rack."""

    name: str
    sources: dict[str, SourceMeters] = field(default_factory=dict)
    state: str = ""

    def source(self, name: str) -> SourceMeters:
        """The source of that name, made when it is first heard of."""
        return self.sources.setdefault(name, SourceMeters(name))


class BridgeState:
    """Every rack that was heard, by name. With ``verify`` it counts the frames that are not proved."""

    def __init__(self, wanted: tuple[str, ...] = (), *, verify: bool = False) -> None:
        self._verify = verify
        self.racks: dict[str, RackMeters] = {name: RackMeters(name) for name in wanted}
        self._waiting: list[tuple[SourceMeters, Record]] = []

    def take(self, record: Record, now: float) -> None:
        """Take a meter frame or a heartbeat."""
        rack = self.racks.setdefault(record.rack, RackMeters(record.rack))
        if isinstance(record.value, MeterFrame) and record.leaf is not None:
            source = rack.source(record.leaf)
            _take_frame(source, record.value, now)
            if self._verify:
                self._waiting.append((source, record))
        elif isinstance(record.value, Status):
            rack.state = record.value.state
            _take_names(rack, record.value.body)

    def sweep(self) -> None:
        """Count the frames that turned out not to be proved."""
        still = []
        for source, record in self._waiting:
            if record.verification is Verification.PENDING:
                still.append((source, record))
            elif record.verification is not Verification.VERIFIED:
                source.unproved += 1
        self._waiting = still


def _take_frame(source: SourceMeters, frame: MeterFrame, now: float) -> None:
    known = source.frame
    if known is not None and known.boot == frame.boot:
        if frame.seq <= known.seq:
            return
        source.lost += frame.seq - known.seq - 1
    source.frame, source.arrived = frame, now


def _take_names(rack: RackMeters, body: Mapping[str, Any]) -> None:
    for told in body.get("sources") or ():
        if not isinstance(told, Mapping) or not isinstance(told.get("source"), str):
            continue
        source = rack.source(told["source"])
        source.channel_names = _texts(told.get("channel_names"))
        source.programme_names = _texts(told.get("programmes"))
        pairs = told.get("pairs")
        if isinstance(pairs, list):
            source.pairs = tuple(
                (pair[0], pair[1])
                for pair in pairs
                if isinstance(pair, list) and len(pair) == 2 and all(isinstance(n, int) for n in pair)
            )


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
