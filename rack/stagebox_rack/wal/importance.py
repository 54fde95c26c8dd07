"""What gives way first when the disk is slow or full: measurements before events before alerts. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from stagebox.records import seal, tombstone
from stagebox.subjects import Kind


class Importance(enum.IntEnum):
    """Classes of records, the first to be refused first."""

    MEASUREMENT = 0
    EVENT = 1
    ALERT = 2


_BY_KIND: Final[Mapping[str, Importance]] = {
    Kind.METER.value: Importance.MEASUREMENT,
    Kind.MODULE.value: Importance.EVENT,  # what was concluded; the meters it may come from go first
    Kind.ALERT.value: Importance.ALERT,
    Kind.ACK.value: Importance.ALERT,
    seal.KIND: Importance.ALERT,
    tombstone.KIND: Importance.ALERT,
}

# The share of the queue that a class may fill, and the share of the last file that must be left for it to be taken
# when there is no room for another file; alerts are always tried.
_QUEUE_SHARE: Final = {Importance.MEASUREMENT: 0.5, Importance.EVENT: 0.8, Importance.ALERT: 1.0}
_ROOM_LEFT: Final = {Importance.MEASUREMENT: 0.5, Importance.EVENT: 0.15, Importance.ALERT: -1.0}


def importance(kind: str) -> Importance:
    """Return the class of a kind; kinds that are not listed are events."""
    return _BY_KIND.get(kind, Importance.EVENT)


def admitted(what: Importance, *, queue_filled: float, room_left: float | None) -> bool:
    """Tell whether a record is taken.

    ``queue_filled`` is the share of the queue in use with the record in it; ``room_left`` the share of the active hot
    file that is free while the disk has no room for another one, None while it has.
    """
    if queue_filled > _QUEUE_SHARE[what]:
        return False
    return room_left is None or room_left > _ROOM_LEFT[what]
