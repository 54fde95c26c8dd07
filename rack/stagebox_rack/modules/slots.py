"""The inserts of the sheet that counts, and how far each has come. Pure: no clock, no I/O.

A slot waits for its file, runs, or does not and says why. While the file of another version of the same module at the
same place is on its way, the version before goes on, for a bounded time: so it can be swapped without a gap. What a
new sheet does not list, or puts elsewhere, has no slot and does not run.

Files have so much room together, whatever a sheet says: in its order each has its place if it fits beside those before
it, and counts once. So it does not depend on what ran here before. The versions that go on have as much room again.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
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
    ran: bool = False
    """Whether it was admitted once."""
    due: bool = False
    """Whether it is to be judged anew, though it does not run and is not awaited."""

    def admit(self, module: Admitted) -> None:
        """It may run."""
        self.state, self.code, self.bridge_until = SlotState.ADMITTED, "", None
        self.ran, self.due = True, False
        self.placed = Placed(self.insert, module)

    def refuse(self, state: SlotState, code: str) -> None:
        """It may not run; neither does what ran in its place."""
        self.state, self.code, self.bridge_until, self.placed = state, code, None, None
        self.due = False

    def wait(self, code: str) -> None:
        """Its file is awaited; what runs in its place goes on."""
        self.state, self.code, self.due = SlotState.WAITING, code, False


class Slots:
    """The slots of one sheet, in its order. Times are monotonic seconds."""

    def __init__(self, bridge_s: float, max_bytes: int) -> None:
        self._bridge_s = bridge_s
        self._max_bytes = max_bytes
        self.fitting: frozenset[bytes] = frozenset()
        """The digests of the sheet's files that there is room for."""
        self._sheet: PatchSheet | None = None
        self._slots: dict[str, Slot] = {}

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    def get(self, insert_id: str) -> Slot | None:
        """Return the slot of an insert."""
        return self._slots.get(insert_id)

    def clear(self) -> None:
        """Run nothing; the next sheet is a new one, also if it is the same."""
        self._sheet, self._slots, self.fitting = None, {}, frozenset()

    def follow(self, sheet: PatchSheet | None, now: float) -> bool:
        """Take a sheet; return whether it is another than the one followed before."""
        if sheet is self._sheet:
            return False
        before, self._sheet = self._slots, sheet
        inserts = sheet.inserts if sheet is not None else ()
        self.fitting = _fitting(((insert.digest, insert.size) for insert in inserts), self._max_bytes)
        self._slots = {insert.id: self._slot(insert, before.get(insert.id), now) for insert in inserts}
        self._bound_bridges(now)
        return True

    def again(self) -> None:
        """Something changed that verdicts depend on: judge anew what does not run."""
        for slot in self:
            slot.due = slot.state in (SlotState.REJECTED, SlotState.STOPPED)

    def waiting(self) -> tuple[Insert, ...]:
        """Return the inserts to judge."""
        return tuple(slot.insert for slot in self if slot.due or slot.state is SlotState.WAITING)

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

    def next_end(self, now_ns: int, now: float) -> float | None:
        """Return in how many seconds the first of what runs ends by itself; None if nothing does."""
        ends = [(placed.module.expires - now_ns) / 1e9 for placed in self.wanted()]
        ends += [slot.bridge_until - now for slot in self if slot.bridge_until is not None]
        return max(0.0, min(ends)) if ends else None

    def _slot(self, insert: Insert, before: Slot | None, now: float) -> Slot:
        if before is None or before.placed is None or insert.digest not in self.fitting:
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

    def _bound_bridges(self, now: float) -> None:
        """Have the versions before end now that find no room: sheet upon sheet, they would be many."""
        bridges = {
            slot.insert.id: slot.placed.module
            for slot in self
            if slot.bridge_until is not None
            and slot.placed is not None
            and slot.placed.module.digest not in self.fitting
        }
        fitting = _fitting(((old.digest, len(old.data)) for old in bridges.values()), self._max_bytes)
        for insert_id, old in bridges.items():
            if old.digest not in fitting:
                self._slots[insert_id].bridge_until = now


def _fitting(files: Iterable[tuple[bytes, int]], max_bytes: int) -> frozenset[bytes]:
    """Return the digests of the files (digest, size) that fit: each in turn, if there is room beside those before."""
    sizes: dict[bytes, int] = {}
    for digest, size in files:
        sizes[digest] = max(size, sizes.get(digest, 0))  # a sheet may give a file two
    fitting = set()
    for digest, size in sizes.items():
        if size <= max_bytes:
            fitting.add(digest)
            max_bytes -= size
    return frozenset(fitting)
