"""Whether racks can take what an assignment gives them: a whole sheet, and the files it names. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from stagebox.errors import InputError
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.patch import Insert
from stagebox_mixer.modules.model import Assignment
from stagebox_mixer.modules.sheets import fits, insert_of, inserts_of
from stagebox_mixer.modules.store import Catalogue


def check_room(after: Assignment, catalogue: Catalogue, racks: Iterable[str]) -> None:
    """Demand that every rack of ``racks`` to which ``after`` gives something can take all of its sheet then.

    Raises:
        InputError: one cannot; nothing was changed.
    """
    then = catalogue.after(after)
    seen: set[tuple[tuple[str, str], ...]] = set()
    for rack in racks:
        if insert_of(after, rack, then) is None:
            continue
        inserts = inserts_of(rack, then)
        # Encoding a full sheet takes milliseconds, and many racks have the same: id and version settle an insert.
        sheet = tuple((insert.id, insert.version) for insert in inserts)
        if sheet not in seen:
            _check_rack(rack, inserts)
            seen.add(sheet)


def _check_rack(rack: str, inserts: tuple[Insert, ...]) -> None:
    size = sum({insert.digest: insert.size for insert in inserts}.values())
    if size > FORMAT.rack_modules_bytes:
        raise InputError(
            f"the modules of rack {rack!r} would have {size} bytes, at most {FORMAT.rack_modules_bytes} are allowed",
            remedy="unassign something there, or assign smaller modules",
        )
    if not fits(inserts):
        raise InputError(f"the patch sheet of rack {rack!r} is full", remedy="unassign something there")
