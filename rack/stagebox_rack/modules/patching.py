"""Puts admitted modules where the sheet wants them: chains before meters and on buses, taps, feeds of records.

A seat is one point of one source or bus with its chain. It is opened when something is to sit there and its source is
captured, and taken down, after what sat there has faded out, when nothing is. A source that comes back with another
rate or other channels gets a new chain. What cannot be seated waits and says why; the rest goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from stagebox.errors import CaptureError, ConfigError, StageboxError
from stagebox.logs import printable
from stagebox.modules.patch import Insert, Point
from stagebox_rack.audio.engine import Tap
from stagebox_rack.audio.insert import InsertPoint, InsertPoints
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.arranging import Placed, Running
from stagebox_rack.modules.hosting.chain import Chain
from stagebox_rack.modules.hosting.feed import Feed
from stagebox_rack.modules.hosting.hosted import InsertState, InsertStatus, PlacedModule
from stagebox_rack.modules.hosting.hosts import ModuleHosts
from stagebox_rack.modules.tap import TapRunner
from stagebox_rack.monitor.bus import BusPlan


@dataclass(frozen=True, order=True)
class Place:
    """Where modules sit: ``name`` is a source's, at a monitor a bus's; empty for a feed of all sources."""

    point: Point
    name: str

    @classmethod
    def of(cls, insert: Insert) -> Place:
        """The place an insert names."""
        return cls(insert.point, insert.bus if insert.point is Point.MONITOR else insert.source)

    def __str__(self) -> str:
        return f"{self.point.value}:{self.name}"


@dataclass
class Seat:
    """A place in use. ``tap`` is what its audio comes from now; a feed of records has none."""

    line: Chain | Feed
    tap: Tap | None = None
    rate: int = 0
    channels: int = 0
    point: InsertPoint | None = None
    runner: TapRunner | None = None


class Patching:
    """The seats of one rack. ``tap`` gives a source's audio while it is captured; ``buses`` are the monitor buses."""

    def __init__(
        self,
        *,
        hosts: ModuleHosts,
        meters: InsertPoints,
        monitors: InsertPoints,
        tap: Callable[[str], Tap],
        buses: Mapping[str, BusPlan],
    ) -> None:
        self._hosts = hosts
        self._meters = meters
        self._monitors = monitors
        self._tap = tap
        self._buses = buses
        self._seats: dict[Place, Seat] = {}
        self._wanted: tuple[Placed, ...] = ()
        self._withdrawn: list[Placed] = []  # since they were last wanted
        self._waiting: dict[str, str] = {}
        self._lacking: OSError | None = None  # what kept something from being seated in this pass
        self._changing = asyncio.Lock()

    async def arrange(self, wanted: tuple[Placed, ...]) -> None:
        """Run exactly ``wanted``; see :class:`Arranger`. Said again it seats what waited for its source."""
        async with self._changing:
            self._wanted, self._withdrawn = wanted, []
            await self._follow()

    async def withdraw(self, gone: Collection[Placed]) -> None:
        """Take these out of all audio now, whatever is being arranged; see :class:`Arranger`."""
        self._withdrawn += gone
        await self._hosts.withdraw([_hosted(one) for one in gone])

    async def stop(self) -> None:
        """Take every seat down."""
        await self.arrange(())

    def running(self) -> Mapping[str, Running]:
        """How each module placed last fares, by insert id."""
        found = {insert: _running(status) for insert, status in self._hosts.status().items()}
        found |= {insert: Running("waiting", code) for insert, code in self._waiting.items()}
        return found

    def feeds(self) -> Mapping[str, Feed]:
        """The feeds of records in use, by source; the one of all sources has an empty name."""
        return {place.name: seat.line for place, seat in self._seats.items() if isinstance(seat.line, Feed)}

    async def _follow(self) -> None:
        groups: dict[Place, list[Placed]] = {}
        for placed in self._wanted:
            groups.setdefault(Place.of(placed.insert), []).append(placed)
        await self._take_down([place for place in self._seats if place not in groups])
        self._waiting = {}
        self._lacking = None
        seats = {place: await self._seat_if_can(place, group) for place, group in groups.items()}
        # At once: each may wait for a successor, and what is taken away at another is not to wait for that.
        await asyncio.gather(
            *(self._fill(place, seat, groups[place]) for place, seat in seats.items() if seat is not None)
        )
        await self._move(groups)
        if self._lacking is not None:
            raise self._lacking  # so it is tried again

    async def _move(self, groups: Mapping[Place, list[Placed]]) -> None:
        """Take what its host has no room for to one that has, with all that sits beside it: better dry for a moment."""
        for place, group in groups.items():
            held = self._seats.get(place)
            if held is None or not self._hosts.could_move(held.line):
                continue
            await self._take_down([place])
            seat = await self._seat_if_can(place, group)
            if seat is not None:
                await self._fill(place, seat, group)

    async def _seat_if_can(self, place: Place, group: list[Placed]) -> Seat | None:
        """Return the seat at ``place``; None if there is none, and ``group`` waits."""
        try:
            return await self._seat(place)
        except (StageboxError, OSError) as error:
            code = "not_captured" if isinstance(error, CaptureError) else "no_such_place"
            if isinstance(error, OSError):
                code, self._lacking = "no_room", error
            self._waiting |= {placed.insert.id: code for placed in group}
            await self._take_down([place])
            return None

    async def _fill(self, place: Place, seat: Seat, group: list[Placed]) -> None:
        await self._hosts.arrange(seat.line, [_hosted(one) for one in group if one not in self._withdrawn])
        await self._connect(place, seat)

    async def _seat(self, place: Place) -> Seat:
        """Return the seat at ``place``, opened if it is not there yet or its source is another now.

        Raises:
            CaptureError: its source is not captured. ConfigError: there is no such source or bus, its audio is none for
            modules, or there is no room. OSError: no memory or no descriptor is left.
        """
        held = self._seats.get(place)
        if place.point is Point.TELEMETRY:
            if held is None:
                if place.name:
                    self._known_source(place.name)
                held = self._seats[place] = Seat(self._hosts.open_feed(str(place)))
            return held
        tap, channels = self._audio(place)
        rate = tap.format.rate
        if held is not None and (held.rate, held.channels) != (rate, channels):
            await self._take_down([place])
            held = None
        if held is None:
            held = Seat(self._hosts.open_chain(str(place), rate, channels), tap, rate, channels)
            self._seats[place] = held
        elif held.tap is not tap:
            held.tap = tap
            await self._disconnect(held)
        return held

    def _audio(self, place: Place) -> tuple[Tap, int]:
        if place.point is not Point.MONITOR:
            tap = self._tap(place.name)
            return tap, len(tap.map.channels)
        plan = self._buses.get(place.name)
        if plan is None:
            raise ConfigError(
                f"there is no bus {place.name!r}", remedy=f"there are: {', '.join(self._buses) or 'none'}"
            )
        tap = self._tap(plan.source)
        return tap, int(plan.mix(tap.map).shape[1])

    def _known_source(self, name: str) -> None:
        try:
            self._tap(name)
        except CaptureError:
            return  # it may well exist; its records come when it is captured

    async def _connect(self, place: Place, seat: Seat) -> None:
        """Let the audio of ``place`` go through its chain, if it does not yet."""
        if not isinstance(seat.line, Chain) or seat.tap is None:
            return
        if place.point is Point.TAP:
            if seat.runner is None:
                seat.runner = await asyncio.to_thread(TapRunner, place.name, seat.tap, seat.line)
        elif seat.point is None:
            points = self._meters if place.point is Point.METERS else self._monitors
            seat.point = points.at(place.name)
            await asyncio.to_thread(seat.point.use, seat.line)

    async def _disconnect(self, seat: Seat) -> None:
        """Let no audio through the seat's chain any more."""
        point, seat.point = seat.point, None
        runner, seat.runner = seat.runner, None
        if point is not None:
            await asyncio.to_thread(point.use, None)
        if runner is not None:
            await asyncio.to_thread(runner.stop)

    async def _take_down(self, places: Iterable[Place]) -> None:
        seats = [seat for place in places if (seat := self._seats.pop(place, None)) is not None]
        await asyncio.gather(*(self._hosts.arrange(seat.line, ()) for seat in seats))
        await _faded([seat.line for seat in seats if seat.point is not None and isinstance(seat.line, Chain)])
        for seat in seats:
            await self._disconnect(seat)
            await self._hosts.close(seat.line)


def _hosted(placed: Placed) -> PlacedModule:
    return PlacedModule(placed.insert.id, placed.module.hosted)


async def _faded(chains: Collection[Chain]) -> None:
    """Return when all have faded out what was there, or soon: where no audio comes any more, none fades."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LIMITS.module_fade_wait):
            while not all(chain.rest() for chain in chains):  # noqa: ASYNC110 - an audio thread wakes nobody
                await asyncio.sleep(LIMITS.module_fade_wait / 20)


def _running(status: InsertStatus) -> Running:
    state = "running" if status.state is InsertState.RUNNING else status.state.value
    return Running(
        state=state,
        code=printable(status.code),
        faults=status.faults,
        over_budget=status.over_budget,
        bypassed=status.bypassed,
    )
