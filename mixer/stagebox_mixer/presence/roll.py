"""The roll of racks by their heartbeats: online, stale, offline. Pure; ages are monotonic seconds.

A rack that said it was stopping is offline at once. One that was never heard since this mixer started is unknown for
as long as a heartbeat may still be on its way, then offline.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stagebox_mixer.limits import LIMITS, MixerLimits

STOPPING = "stopping"


class PresenceState(enum.StrEnum):
    """Whether a rack is there."""

    ONLINE = "online"
    STALE = "stale"
    OFFLINE = "offline"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Heartbeat:
    """What a rack said last: ``at`` when it came (monotonic), ``received_ns`` the same by the wall clock."""

    state: str
    body: Mapping[str, Any]
    time_ns: int
    boot: bytes
    at: float
    received_ns: int


@dataclass(frozen=True)
class Presence:
    """Whether a rack is there, and its last heartbeat if it was heard."""

    state: PresenceState
    age_s: float | None
    heartbeat: Heartbeat | None


class Roll:
    """The latest heartbeat of each rack; the longest silent are forgotten beyond ``limits.presence_racks``."""

    def __init__(self, started: float, limits: MixerLimits = LIMITS) -> None:
        self._started = started
        self._limits = limits
        self._last: OrderedDict[str, Heartbeat] = OrderedDict()
        self._shown: dict[str, PresenceState] = {}

    def heard(self, rack: str, heartbeat: Heartbeat) -> None:
        """Take a heartbeat. One that was overtaken by a later one of the same boot changes nothing."""
        known = self._last.get(rack)
        if known is not None and known.boot == heartbeat.boot and known.time_ns > heartbeat.time_ns:
            return
        self._last[rack] = heartbeat
        self._last.move_to_end(rack)
        while len(self._last) > self._limits.presence_racks:
            forgotten, _ = self._last.popitem(last=False)
            self._shown.pop(forgotten, None)

    def of(self, rack: str, now: float) -> Presence:
        """Whether ``rack`` is there now."""
        heartbeat = self._last.get(rack)
        if heartbeat is None:
            unknown = now - self._started < self._limits.presence_offline_s
            return Presence(PresenceState.UNKNOWN if unknown else PresenceState.OFFLINE, None, None)
        age = max(0.0, now - heartbeat.at)
        return Presence(self._state(heartbeat, age), age, heartbeat)

    def changes(self, now: float) -> list[tuple[str, PresenceState, PresenceState | None]]:
        """The racks whose state is another than at the last look: name, state now, state before."""
        found = []
        for rack, heartbeat in self._last.items():
            state, before = self._state(heartbeat, now - heartbeat.at), self._shown.get(rack)
            if state is not before:
                self._shown[rack] = state
                found.append((rack, state, before))
        return found

    def _state(self, heartbeat: Heartbeat, age: float) -> PresenceState:
        if heartbeat.state == STOPPING or age >= self._limits.presence_offline_s:
            return PresenceState.OFFLINE
        return PresenceState.STALE if age >= self._limits.presence_stale_s else PresenceState.ONLINE
