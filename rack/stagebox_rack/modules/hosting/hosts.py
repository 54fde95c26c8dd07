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
from collections.abc import Callable, Mapping, Sequence

import structlog

from stagebox.errors import ConfigError
from stagebox.modules.compiling import compile_module
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.arrangement import Arrangement
from stagebox_rack.modules.hosting.chain import Chain
from stagebox_rack.modules.hosting.feed import Feed
from stagebox_rack.modules.hosting.host import Host
from stagebox_rack.modules.hosting.hosted import HostEvent, InsertStatus, PlacedModule
from stagebox_rack.modules.hosting.native import Compile, NativeCode
from stagebox_rack.modules.hosting.places import ChainPlace, FeedPlace, Place

log = structlog.get_logger()

Report = Callable[[HostEvent], None]


class ModuleHosts:
    """Up to ``count`` host processes (None: one a core), each started when something is placed on it.

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
        self._places: dict[Chain | Feed, tuple[Host, Arrangement]] = {}

    async def start(self) -> None:
        """Begin to supervise; no process is started before one is needed."""
        for number in range(self._count):
            host = Host(number, self._tell)
            self._hosts.append(host)
            host.start()

    async def stop(self) -> None:
        """End every host; chains and feeds that are still open are closed."""
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
        cross-fade. Equal calls change nothing. It never raises for what a module does: that is an event.
        """
        host, arrangement = self._places[place]
        if placed:
            host.need()
        await arrangement.arrange(placed)
        self._keep_code()

    async def settled(self, place: Chain | Feed) -> Mapping[str, InsertStatus]:
        """Wait until every insert runs or is stopped; return how each fares, by insert id."""
        _, arrangement = self._places[place]
        await arrangement.settled()
        return {one.insert: one.status for one in arrangement.placements}

    async def close(self, place: Chain | Feed) -> None:
        """Let go of a chain or feed; whoever still calls it gets its input back."""
        host, arrangement = self._places.pop(place)
        await host.remove(arrangement)
        self._keep_code()

    def status(self) -> Mapping[str, InsertStatus]:
        """How every insert fares, by insert id."""
        return {
            one.insert: one.status
            for _, arrangement in self._places.values()
            for one in arrangement.placements
        }

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the hosts that run."""
        return tuple(host.pid for host in self._hosts if host.pid is not None)

    def _room(self) -> tuple[Host, int]:
        for host in sorted(self._hosts, key=lambda host: host.load):
            number = host.free()
            if number is not None:
                return host, number
        raise ConfigError(f"there are {len(self._places)} module chains and feeds, and no room for another")

    def _add(self, host: Host, place: Place, opened: Chain | Feed) -> None:
        arrangement = Arrangement(place, self._codes, self._numbers, self._tell, lambda: host.current)
        self._places[opened] = (host, arrangement)
        host.add(arrangement)

    def _keep_code(self) -> None:
        arrangements = (arrangement for _, arrangement in self._places.values())
        self._codes.keep({one.placed.module.data for found in arrangements for one in found.placements})

    def _tell(self, event: HostEvent) -> None:
        try:
            self._report(event)
        except Exception:
            log.exception("module_event_not_taken", event_type=type(event).__name__)
