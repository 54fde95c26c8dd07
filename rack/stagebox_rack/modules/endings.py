"""What may not run any more: it is out of all audio first, whatever else is being arranged, and is told then.

A denial does not wait for the pass that is under way: that may start something slow, or take other modules away from
a host that is busy. So :meth:`Endings.carry_out` may be called while one is, and whoever comes first does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from stagebox.control.denylist import DenyList
from stagebox.errors import ModuleError
from stagebox_rack.modules.arranging import Arranger, Placed
from stagebox_rack.modules.guard import recheck
from stagebox_rack.modules.serials import SerialFloors
from stagebox_rack.modules.slots import Slot, Slots, SlotState
from stagebox_rack.modules.trusted_time import TrustedTime


class Denials(Protocol):
    """What is needed of the deny list's witness."""

    @property
    def list(self) -> DenyList | None:
        """The newest list that verified; None if the one held was damaged and no other came yet."""
        ...


class Endings:
    """Ends what may not run any more; ``told`` hears of each once nobody else does."""

    def __init__(
        self,
        slots: Slots,
        arranger: Arranger,
        *,
        denials: Denials,
        floors: SerialFloors,
        clock: TrustedTime,
        told: Callable[[Placed, ModuleError], None],
    ) -> None:
        self._slots = slots
        self._arranger = arranger
        self._denials = denials
        self._floors = floors
        self._clock = clock
        self._told = told
        self._heard: tuple[Placed, ...] = ()
        self._ending = asyncio.Lock()

    async def arrange(self, wanted: tuple[Placed, ...]) -> None:
        """Have ``wanted`` run; what ran before may be heard until this returns, and is watched as long."""
        self._heard = (*(one for one in self._heard if one not in wanted), *wanted)
        await self._arranger.arrange(wanted)
        self._heard = tuple(one for one in wanted if one in self._heard)  # some may have ended meanwhile

    async def carry_out(self) -> None:
        """Take out of all audio what may not run any more, and tell it."""
        now_ns = self._clock.now_ns()
        ended = [
            (slot, error)
            for slot in self._slots
            if slot.placed is not None
            and (error := self._judge(slot.placed, self._floors.of(slot.placed.module.name), now_ns))
        ]
        await self._end(ended)

    async def deny(self) -> None:
        """Do the same for what is denied only: so it does not matter how far a pass has come."""
        ended = [
            (slot, error)
            for slot in self._slots
            if slot.placed is not None and (error := self._judge(slot.placed))
        ]
        await self._end(ended)

    async def _end(self, slots: list[tuple[Slot, ModuleError]]) -> None:
        ended = [(slot.placed, error) for slot, error in slots if slot.placed is not None]
        for slot, error in slots:
            if slot.state is SlotState.ADMITTED:
                slot.refuse(SlotState.STOPPED, error.code)
            else:
                # The version that is awaited may be another matter.
                slot.placed, slot.bridge_until = None, None
        # What is just leaving has a lower serial than what comes, and may; but not if it is denied.
        known = [placed for placed, _ in ended]
        leaving = [one for one in self._heard if one not in known]
        ended += [(one, why) for one in leaving if (why := self._judge(one))]
        gone = [placed for placed, _ in ended]
        self._heard = tuple(one for one in self._heard if one not in gone)
        # Also for nothing: what somebody else is ending just now is told before it is judged anew.
        async with self._ending:
            if gone:
                await self._arranger.withdraw(gone)
            for placed, error in ended:
                self._told(placed, error)

    def _judge(self, placed: Placed, floor: int = 0, now_ns: int = 0) -> ModuleError | None:
        denied = self._denials.list
        try:
            if denied is None:
                raise ModuleError("deny_list_lost", "it is not known what is denied")
            recheck(placed.module, denied=denied, floor=floor, now_ns=now_ns)
        except ModuleError as error:
            return error
        return None
