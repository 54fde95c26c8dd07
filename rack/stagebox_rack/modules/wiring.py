"""The modules of one running rack, wired: sheet and guard, supply, hosts, and the places they sit at.

Part of the composition root.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from stagebox.bus import BusClient
from stagebox.subjects import Kind
from stagebox_rack.audio.engine import Tap
from stagebox_rack.audio.insert import InsertPoints
from stagebox_rack.commands.service import Handler
from stagebox_rack.identity.denied import DenyListWitness
from stagebox_rack.identity.takeover import Takeover
from stagebox_rack.modules.arranging import Placed
from stagebox_rack.modules.hosting import feed
from stagebox_rack.modules.hosting.hosts import ModuleHosts
from stagebox_rack.modules.making import make_module_service
from stagebox_rack.modules.patching import Patching
from stagebox_rack.modules.telling import HostReports
from stagebox_rack.monitor.bus import BusPlan
from stagebox_rack.publisher import Publisher

_FEED_KINDS = {Kind.METER: feed.METER, Kind.EVENT: feed.EVENT, Kind.ALERT: feed.ALERT}


class Modules:
    """Everything about modules that one rack has."""

    def __init__(
        self,
        *,
        bus: BusClient,
        takeover: Takeover,
        witness: DenyListWitness,
        publisher: Publisher,
        meters: InsertPoints,
        monitors: InsertPoints,
        tap: Callable[[str], Tap],
        buses: Sequence[BusPlan],
        hosts: int | None,
        active: bool,
    ) -> None:
        self._publisher = publisher
        self._placed: dict[str, Placed] = {}
        self._hosts = ModuleHosts(hosts, HostReports(publisher, self._placed.get).take)
        self._patching = Patching(
            hosts=self._hosts,
            meters=meters,
            monitors=monitors,
            tap=tap,
            buses={plan.name: plan for plan in buses},
        )
        self._service = make_module_service(
            bus=bus,
            identity=lambda: takeover.credentials.active,
            denials=witness,
            arranger=self,
            event=publisher.event,
            alert=publisher.alert,
            active=active,
        )
        witness.on_newer(self._service.denied_changed)

    async def start(self) -> None:
        """Begin with what is held on disk; nothing runs before the work of :meth:`work` does."""
        await self._hosts.start()
        await self._service.start()
        self._publisher.observe = self._observe

    async def stop(self) -> None:
        """Run nothing any more; no process is left."""
        self._publisher.observe = None
        await self._service.stop()
        await self._patching.stop()
        await self._hosts.stop()

    def work(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Yield the tasks to run, by name."""
        yield from self._service.work()

    def handlers(self) -> Mapping[str, Handler]:
        """Return verb → handler."""
        return self._service.handlers()

    def connected(self) -> None:
        """The bus is up (again)."""
        self._service.connected()

    def captured_soon(self) -> None:
        """Sources are captured (again): seat what waits for them; returns at once."""
        self._service.captured()

    async def obey(self, *, active: bool) -> None:
        """Do what the passport says."""
        await self._service.obey(active=active)

    @property
    def hosts(self) -> tuple[int, ...]:
        """The process ids of the hosts."""
        return self._hosts.pids

    def status(self) -> list[dict[str, Any]]:
        """What a heartbeat says of modules."""
        return self._service.status()

    # The service's arranger: the same places, and what sits there for the records that come from it.

    async def arrange(self, wanted: tuple[Placed, ...]) -> None:
        """Run exactly ``wanted``; see :class:`Arranger`."""
        self._placed.clear()
        self._placed.update({placed.insert.id: placed for placed in wanted})
        await self._patching.arrange(wanted)

    async def withdraw(self, gone: Collection[Placed]) -> None:
        """Take these out of all audio now; see :class:`Arranger`."""
        await self._patching.withdraw(gone)

    def running(self) -> Mapping[str, Any]:
        """How each module fares, by insert id."""
        return self._patching.running()

    def _observe(self, kind: Kind, subject: str, record: bytes) -> None:
        """Give a record to the telemetry modules that hear it: a source's own hear no other source's meters."""
        code = _FEED_KINDS.get(kind)
        if code is None:
            return
        for source, line in self._patching.feeds().items():
            if not source or kind is not Kind.METER or subject.endswith(f".{source}"):
                line.offer(code, subject, record)
