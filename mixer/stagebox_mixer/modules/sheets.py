"""The patch sheet of each rack: what the assignments make of it, signed by the cluster authority.

Serials are the mixer's time in ns, taken before the state is read that a sheet is made of: of two sheets the one with
the higher serial never tells of an older state. For one rack they only rise, whatever the clock does meanwhile. A
clock that was set back far makes sheets that a rack does not take; that is said in the log, and mends itself.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from stagebox.envelope import DOMAIN_PATCH
from stagebox.errors import DecodeError
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.patch import Insert, PatchSheet
from stagebox_keys.authority import ClusterAuthority
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.assigning import runs_on
from stagebox_mixer.modules.model import Assignment
from stagebox_mixer.modules.store import Catalogue

log = structlog.get_logger()


def inserts_of(rack: str, catalogue: Catalogue) -> tuple[Insert, ...]:
    """Return what a rack runs, in the order in which it was assigned; what is revoked is left out. Pure."""
    found = (insert_of(item, rack, catalogue) for item in catalogue.assignments)
    return tuple(insert for insert in found if insert is not None)


def insert_of(assignment: Assignment, rack: str, catalogue: Catalogue) -> Insert | None:
    """Return what an assignment puts on a rack's sheet, None if nothing. Pure."""
    running = runs_on(assignment, rack)
    if running is None:
        return None
    version, params = running
    entry = catalogue.module(assignment.module, version)
    if entry is None or catalogue.revoked(entry):
        return None
    return Insert(
        id=assignment.id,
        module=entry.name,
        version=entry.version,
        digest=entry.digest,
        size=entry.size,
        point=assignment.point,
        source=assignment.source,
        bus=assignment.bus,
        params=params,
    )


def fits(inserts: tuple[Insert, ...]) -> bool:
    """Tell whether a rack can take a sheet with all of these. Pure."""
    if len(inserts) > FORMAT.max_inserts:
        return False
    try:
        PatchSheet.decode(PatchSheet("c" * 63, "r" * 63, 1, inserts).encode())
    except DecodeError:
        return False
    return True


def fitting(rack: str, inserts: tuple[Insert, ...]) -> tuple[Insert, ...]:
    """Return as many inserts as a sheet takes. Assigning sees to it that these are all, for the racks there are."""
    kept = inserts[: FORMAT.max_inserts]
    while not fits(kept):
        kept = kept[: len(kept) * 3 // 4]
    if kept != inserts:
        log.error("patch_sheet_full", rack=rack, inserts=len(inserts), kept=len(kept))
    return kept


@dataclass(frozen=True)
class SignedSheet:
    """A sheet with its envelope. ``taken``: the rack has it; it asked for it, or has acknowledged it."""

    sheet: PatchSheet
    data: bytes
    taken: bool = False


class Sheets:
    """Makes sheets, and remembers the last one of each rack."""

    def __init__(
        self,
        *,
        cluster: str,
        authority: ClusterAuthority,
        catalogue: Callable[[], Awaitable[Catalogue]],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._cluster = cluster
        self._authority = authority
        self._catalogue = catalogue
        self._clock = clock
        self._last: OrderedDict[str, SignedSheet] = OrderedDict()
        self._lanes: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def last(self, rack: str) -> SignedSheet | None:
        """Return the last sheet made for a rack by this mixer, or None."""
        return self._last.get(rack)

    def taken(self, rack: str, serial: int) -> None:
        """Note that a rack has the sheet of that serial, if it is the last one made for it."""
        last = self._last.get(rack)
        if last is not None and last.sheet.serial == serial:
            self._last[rack] = replace(last, taken=True)

    async def issue(self, rack: str, *, held: int = 0) -> SignedSheet:
        """Return a rack's sheet as things stand now; the last one if that says the same and is what the rack holds.

        Raises:
            StageboxError: the state cannot be read.
        """
        lane = self._lanes.setdefault(rack, asyncio.Lock())
        async with lane:
            before = self._last.get(rack)
            serial = max(self._clock(), before.sheet.serial + 1 if before is not None else 0)
            inserts = fitting(rack, inserts_of(rack, await self._catalogue()))
            if before is not None and before.sheet.serial == held and before.sheet.inserts == inserts:
                return before
            if held >= serial:
                log.warning("patch_serial_behind", rack=rack, held=held, serial=serial)
            sheet = PatchSheet(self._cluster, rack, serial, inserts)
            made = SignedSheet(sheet, self._authority.seal(DOMAIN_PATCH, sheet.encode()))
            self._last[rack] = made
            self._last.move_to_end(rack)
            while len(self._last) > LIMITS.patch_racks:
                self._last.popitem(last=False)
            return made
