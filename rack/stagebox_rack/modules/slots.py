"""The inserts of the sheet that counts, and how far each has come. Pure: no clock, no I/O.

A slot waits for its file, runs, or does not and says why. While the file of another version of the same module at the
same place is on its way, the version before goes on, for a bounded time: so it can be swapped without a gap. What a
new sheet does not list, or puts elsewhere, has no slot and does not run.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from stagebox.modules.patch import Insert, PatchSheet
from stagebox_rack.modules.arranging import Placed
from stagebox_rack.modules.guard import Admitted


class SlotState(enum.StrEnum):
    """How far an insert has come."""

    WAITING = "waiting"
    """Its file is not here, or could not be judged yet; ``code`` says why."""
    ADMITTED = "admitted"
    """It is given to the hosts."""
    REJECTED = "rejected"
    """The guard refused it."""
    STOPPED = "stopped"
    """It ran and may not any more."""


@dataclass
class Slot:
    """One insert. ``placed`` is what the hosts are given for it; while a new version is awaited, the old one."""

    insert: Insert
    state: SlotState = SlotState.WAITING
    code: str = ""
    placed: Placed | None = None
    bridge_until: float | None = None

    def admit(self, module: Admitted) -> None:
        """It may run."""
        self.state, self.code, self.bridge_until = SlotState.ADMITTED, "", None
        self.placed = Placed(self.insert, module)

    def refuse(self, state: SlotState, code: str) -> None:
        """It may not run; neither does what ran in its place."""
        self.state, self.code, self.bridge_until, self.placed = state, code, None, None

    def wait(self, code: str) -> None:
        """Its file is awaited; what runs in its place goes on."""
        self.state, self.code = SlotState.WAITING, code


class Slots:
    """The slots of one sheet, in its order. Times are monotonic seconds."""

    def __init__(self, bridge_s: float) -> None:
        self._bridge_s = bridge_s
        self._sheet: PatchSheet | None = None
        self._slots: dict[str, Slot] = {}

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    def get(self, insert_id: str) -> Slot | None:
        """Return the slot of an insert."""
        return self._slots.get(insert_id)

    def clear(self) -> None:
        """Run nothing; the next sheet is a new one, also if it is the same."""
        self._sheet, self._slots = None, {}

    def follow(self, sheet: PatchSheet | None, now: float) -> bool:
        """Take a sheet; return whether it is another than the one followed before."""
        if sheet is self._sheet:
            return False
        before, self._sheet = self._slots, sheet
        inserts = sheet.inserts if sheet is not None else ()
        self._slots = {insert.id: self._slot(insert, before.get(insert.id), now) for insert in inserts}
        return True

    def again(self) -> None:
        """Something changed that verdicts depend on: judge anew what does not run."""
        for slot in self:
            if slot.state in (SlotState.REJECTED, SlotState.STOPPED):
                slot.wait(slot.code)

    def waiting(self) -> tuple[Insert, ...]:
        """Return the inserts to judge."""
        return tuple(slot.insert for slot in self if slot.state is SlotState.WAITING)

    def end_bridges(self, now: float) -> list[Placed]:
        """End the old versions whose time is over; return them."""
        ended = []
        for slot in self:
            if slot.placed is not None and slot.bridge_until is not None and now >= slot.bridge_until:
                ended.append(slot.placed)
                slot.placed, slot.bridge_until = None, None
        return ended

    def wanted(self) -> tuple[Placed, ...]:
        """Return what shall run, in the sheet's order."""
        return tuple(slot.placed for slot in self if slot.placed is not None)

    def files(self) -> dict[bytes, bytes]:
        """Return the verified files in memory, by digest."""
        return {placed.module.digest: placed.module.data for placed in self.wanted()}

    def digests(self) -> frozenset[bytes]:
        """Return the digests the sheet names."""
        return frozenset(slot.insert.digest for slot in self)

    def next_end(self, now_ns: int, now: float) -> float | None:
        """Return in how many seconds the first of what runs ends by itself; None if nothing does."""
        ends = [(placed.module.expires - now_ns) / 1e9 for placed in self.wanted()]
        ends += [slot.bridge_until - now for slot in self if slot.bridge_until is not None]
        return max(0.0, min(ends)) if ends else None

    def _slot(self, insert: Insert, before: Slot | None, now: float) -> Slot:
        if before is None or before.placed is None:
            return Slot(insert)
        old = before.placed.insert
        if old == insert and before.state is SlotState.ADMITTED:
            return before
        if (old.module, old.point, old.source, old.bus) != (
            insert.module, insert.point, insert.source, insert.bus,
        ):  # fmt: skip
            return Slot(insert)
        until = before.bridge_until if before.bridge_until is not None else now + self._bridge_s
        return Slot(insert, placed=before.placed, bridge_until=until)
