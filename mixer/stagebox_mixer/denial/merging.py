"""Which of two copies of the deny list holds. Pure.

The higher epoch wins, so that an older copy put back from a backup changes nothing. A ban is never lost by it:
one made on the older copy after the newer was written (by a mixer that had been restored and did not know
better), or on one of two copies of the same epoch, is carried over, and the result gets an epoch above both.

What a rack brings back may also be older and still know more: a mixer restored from a backup that bans on, before
the racks have told it what it forgot, soon has the higher epoch. So a rack's ban counts unless it was cleared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stagebox.control.denylist import Denied, DenyList
from stagebox.errors import InputError
from stagebox.limits import LIMITS
from stagebox_mixer.denial.record import note_key


def newest(
    own: DenyList, other: DenyList, *, now_ns: int, cleared: Mapping[str, int] | None = None
) -> DenyList:
    """Return the list that holds: ``own`` itself, ``other`` itself, or a new one made of both.

    With ``cleared`` (:class:`~stagebox_mixer.denial.record.Record`) ``other`` is a rack's copy.

    Raises:
        InputError: both together are more than a list may hold.
    """
    high, low = (own, other) if own.epoch >= other.epoch else (other, own)
    forgotten = cleared if low is other else None
    carried = tuple(entry for entry in low.entries if _was_lost(entry, high, low, forgotten))
    if not carried:
        return high
    entries = tuple(sorted((*high.entries, *carried)))
    if len(entries) > LIMITS.max_denied:
        raise InputError(
            f"two copies of the deny list hold {len(entries)} bans together, more than {LIMITS.max_denied}",
            remedy="clear bans of racks that were removed: stagebox admin racks denied",
        )
    return replace(high, epoch=high.epoch + 1, time_ns=max(now_ns, high.time_ns + 1), entries=entries)


def _was_lost(entry: Denied, high: DenyList, low: DenyList, cleared: Mapping[str, int] | None) -> bool:
    if entry in high.entries:
        return False
    if cleared is not None:
        return cleared.get(note_key(entry), -1) < entry.since
    return low.epoch == high.epoch or entry.since > high.time_ns
