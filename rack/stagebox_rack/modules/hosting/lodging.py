"""A chain or feed at its host: what was asked for there, and how much of it there is room for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import structlog

from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.arrangement import Arrangement
from stagebox_rack.modules.hosting.host import Host
from stagebox_rack.modules.hosting.hosted import InsertState, InsertStatus, PlacedModule
from stagebox_rack.modules.hosting.room import NO_ROOM, bytes_for

log = structlog.get_logger()


class Lodging:
    """What is on ``arrangement`` of ``host``. ``wanted`` is what was asked for, ``lacking`` what of it has no room."""

    def __init__(self, host: Host, arrangement: Arrangement) -> None:
        self.host = host
        self.arrangement = arrangement
        self.wanted: tuple[PlacedModule, ...] = ()
        self.lacking: tuple[PlacedModule, ...] = ()

    async def arrange(self, wanted: Sequence[PlacedModule]) -> None:
        """Run what of ``wanted`` there is room for; see :meth:`Arrangement.arrange`."""
        self.wanted = tuple(wanted)
        await self.fit()

    async def fit(self) -> None:
        """Look again what there is room for, and run that."""
        fitting = self._fitting()
        lacking = tuple(one for one in self.wanted if one not in fitting)
        if lacking and lacking != self.lacking:
            inserts = [one.insert for one in lacking]
            log.warning("modules_have_no_room", host=self.host.number, inserts=inserts)
        self.lacking = lacking
        if fitting:
            self.host.need()
        await self.arrangement.arrange(fitting)

    def forget(self, gone: Collection[PlacedModule]) -> None:
        """Bring nothing of ``gone`` when there is room; that nothing of it is heard is the arrangement's matter."""
        self.wanted = tuple(
            one
            for one in self.wanted
            if not any(one.insert == other.insert and one.module.same(other.module) for other in gone)
        )

    async def close(self) -> None:
        """Leave the host."""
        self.wanted = self.lacking = ()
        await self.host.remove(self.arrangement)

    def status(self) -> Collection[InsertStatus]:
        """How each insert fares."""
        waiting = (
            InsertStatus(one.insert, one.module.name, one.module.version, InsertState.WAITING, NO_ROOM)
            for one in self.lacking
        )
        return [*(one.status for one in self.arrangement.placements), *waiting]

    def fits(self, other: Host) -> bool:
        """Whether all that is wanted here would have room at ``other``."""
        wanted = sum(bytes_for(one.module.limits) for one in self.wanted)
        return other.free() is not None and other.taken + wanted <= LIMITS.module_host_room_bytes

    def _fitting(self) -> list[PlacedModule]:
        """What is there already keeps its room, of the rest each has it in turn."""
        left = LIMITS.module_host_room_bytes - self.host.taken + self.arrangement.room
        there = {one.insert for one in self.arrangement.placements}
        fitting: set[str] = set()
        for one in sorted(self.wanted, key=lambda one: one.insert not in there):
            need = bytes_for(one.module.limits)
            if need <= left:
                left -= need
                fitting.add(one.insert)
        return [one for one in self.wanted if one.insert in fitting]
