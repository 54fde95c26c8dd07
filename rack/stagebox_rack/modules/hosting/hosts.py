"""The hosts of one rack: their public face.

::

    hosts = ModuleHosts(None, report)
    await hosts.start()
    chain = hosts.open_chain("hall", 48_000, 2)
    await hosts.arrange(chain, [PlacedModule("eq", module)])
    heard = chain.process(samples, start=0, time_ns=time.time_ns())     # in the audio thread
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from stagebox.errors import ConfigError
from stagebox.modules.compiling import compile_module
from stagebox.tasks import end_tasks
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.arrangement import Arrangement
from stagebox_rack.modules.hosting.chain import Chain
from stagebox_rack.modules.hosting.feed import Feed
from stagebox_rack.modules.hosting.host import Host
from stagebox_rack.modules.hosting.hosted import HostEvent, InsertStatus, PlacedModule
from stagebox_rack.modules.hosting.lodging import Lodging
from stagebox_rack.modules.hosting.native import Compile, NativeCode
from stagebox_rack.modules.hosting.places import ChainPlace, FeedPlace, Place

log = structlog.get_logger()

Report = Callable[[HostEvent], None]


class ModuleHosts:
    """Up to ``count`` host processes (None: one a core), each started when something is placed on it.

    A chain or feed is on one host, which has room for so many bytes as its modules may take together. What has none
    waits, and is brought there when there is some.

    ``report`` is called in the event loop's thread and must not block. All methods belong to that thread.
    """

    def __init__(self, count: int | None, report: Report, *, compile_: Compile = compile_module) -> None:
        """Prepare; nothing runs yet. ``compile_`` is for tests."""
        most = count if count is not None else os.cpu_count() or 1
        self._count = max(1, min(most, LIMITS.module_hosts))
        self._report = report
        self._codes = NativeCode(compile_)
        self._numbers = itertools.count(1)
        self._hosts: list[Host] = []
        self._places: dict[Chain | Feed, Lodging] = {}
        self._freed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to supervise; no process is started before one is needed."""
        for number in range(self._count):
            host = Host(number, self._tell)
            self._hosts.append(host)
            host.start()
        self._task = asyncio.create_task(self._admit(), name="module-room")

    async def stop(self) -> None:
        """End every host; chains and feeds that are still open are closed."""
        await end_tasks([self._task])
        await asyncio.gather(*(host.stop() for host in self._hosts))
        self._hosts.clear()
        self._places.clear()
        await self._codes.close()

    def open_chain(self, name: str, rate: int, channels: int) -> Chain:
        """A chain for audio at ``rate`` with ``channels``, with nothing in it. ``name`` is for events.

        Raises:
            ConfigError: too many chains or channels, or a rate whose 20 ms are no whole number of frames.
            OSError: no memory or no descriptor is left.
        """
        if not 0 < channels <= LIMITS.module_channels:
            raise ConfigError(f"a module chain has up to {LIMITS.module_channels} channels, not {channels}")
        if rate <= 0 or rate % LIMITS.module_blocks_per_s:
            raise ConfigError(f"modules cannot be given audio at {rate} Hz")
        host, number = self._room()
        place = ChainPlace(name, number, rate, channels, host.bell)
        self._add(host, place, place.chain)
        return place.chain

    def open_feed(self, name: str) -> Feed:
        """A feed of records for telemetry modules, with nothing in it.

        Raises:
            ConfigError: too many chains and feeds. OSError: no descriptor is left.
        """
        host, number = self._room()
        place = FeedPlace(name, number, host.bell)
        self._add(host, place, place.feed)
        return place.feed

    async def arrange(self, place: Chain | Feed, placed: Sequence[PlacedModule]) -> None:
        """Run exactly ``placed``, in this order. When it returns nothing else is heard any more.

        What is there already goes on, with its new parameters; what is new is compiled and started meanwhile. A module
        that takes another one's place at the same insert is waited for up to ``module_swap_wait``, so that the two
        cross-fade. What there is no room for waits: what is there already keeps its own, the rest has it in turn.
        Equal calls change nothing. It never raises for what a module does: that is an event.
        """
        await self._places[place].arrange(placed)
        self._keep_code()
        self._freed.set()

    async def withdraw(self, gone: Collection[PlacedModule]) -> None:
        """Let none of ``gone`` be heard any more, wherever it is or was just now, whatever else is being arranged.

        A host that does not let go within ``module_withdraw`` is ended. It never raises for what a host does.
        """
        for lodging in self._places.values():
            lodging.forget(gone)
        await asyncio.gather(*(one.arrangement.withdraw(gone) for one in self._places.values()))
        self._keep_code()
        self._freed.set()

    def could_move(self, place: Chain | Feed) -> bool:
        """Whether something there has no room, and everything there would have it if ``place`` were opened anew."""
        lodging = self._places[place]
        return bool(lodging.lacking) and any(
            lodging.fits(host) for host in self._hosts if host is not lodging.host
        )

    async def settled(self, place: Chain | Feed) -> Mapping[str, InsertStatus]:
        """Wait until every insert that there is room for runs or is stopped; return how each fares, by insert id."""
        lodging = self._places[place]
        await lodging.arrangement.settled()
        return {one.insert: one for one in lodging.status()}

    async def close(self, place: Chain | Feed) -> None:
        """Let go of a chain or feed; whoever still calls it gets its input back."""
        await self._places.pop(place).close()
        self._keep_code()
        self._freed.set()

    def status(self) -> Mapping[str, InsertStatus]:
        """How every insert fares, by insert id."""
        return {one.insert: one for lodging in self._places.values() for one in lodging.status()}

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the hosts that run."""
        return tuple(host.pid for host in self._hosts if host.pid is not None)

    def _room(self) -> tuple[Host, int]:
        for host in sorted(self._hosts, key=lambda host: (host.taken, host.lanes)):
            number = host.free()
            if number is not None:
                return host, number
        raise ConfigError(f"there are {len(self._places)} module chains and feeds, and no room for another")

    def _add(self, host: Host, place: Place, opened: Chain | Feed) -> None:
        arrangement = Arrangement(place, self._codes, self._numbers, self._tell, lambda: host.current)
        self._places[opened] = Lodging(host, arrangement)
        host.add(arrangement)

    def _keep_code(self) -> None:
        arrangements = (lodging.arrangement for lodging in self._places.values())
        self._codes.keep({one.placed.module.data for found in arrangements for one in found.placements})

    async def _admit(self) -> None:
        """Bring what has waited for room, whenever there may be some."""
        while True:
            await self._freed.wait()
            self._freed.clear()
            for lodging in tuple(self._places.values()):
                try:
                    if lodging.lacking:
                        await lodging.fit()
                except Exception:
                    log.exception("modules_not_admitted", host=lodging.host.number)

    def _tell(self, event: HostEvent) -> None:
        try:
            self._report(event)
        except Exception:
            log.exception("module_event_not_taken", event_type=type(event).__name__)
