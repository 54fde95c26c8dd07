"""Which files are merged, and which partitions are too old. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from stagebox_mixer.lake.state import ARRIVALS, Hold, LakeFile

_TIER: Final = 4


def to_sort(
    arrivals: Sequence[LakeFile], *, now_ns: int, age_ns: int, most_bytes: int, min_bytes: int
) -> list[LakeFile]:
    """Return the arrivals (oldest first) to sort together now: once there is enough, or the oldest waited long."""
    if not arrivals:
        return []
    if sum(file.size for file in arrivals) < min_bytes and now_ns - arrivals[0].first_ns < age_ns:
        return []
    chosen: list[LakeFile] = []
    size = 0
    for file in arrivals:
        if chosen and size + file.size > most_bytes:
            break
        chosen.append(file)
        size += file.size
    return chosen


def to_merge(
    files: Iterable[LakeFile], *, today: str, small: int, most: int, together: int
) -> list[LakeFile]:
    """Return files of one partition to merge into one, or none.

    On a day that goes on, ``together`` files of about one size are merged, so that nothing is written more often than
    the logarithm of its size asks for; of a day that is over, all that are ``small``. A merged file has up to ``most``
    bytes.
    """
    partitions: dict[tuple[str, str, str], list[LakeFile]] = {}
    for file in files:
        if file.kind != ARRIVALS and file.size < small:
            partitions.setdefault((file.date, file.rack, file.kind), []).append(file)
    for (date, _, _), mine in sorted(partitions.items()):
        groups = [mine] if date < today else _tiers(mine)
        for group in groups:
            chosen = _fitting(sorted(group, key=lambda file: file.first_ns), most)
            if len(chosen) >= (2 if date < today else together):
                return chosen
    return []


def to_retire(files: Iterable[LakeFile], holds: Sequence[Hold], *, before: str) -> list[LakeFile]:
    """Return the sorted files of dates before ``before`` that no legal hold covers."""
    return [
        file
        for file in files
        if file.kind != ARRIVALS
        and file.date < before
        and not any(hold.covers(file.rack, file.date) for hold in holds)
    ]


def _tiers(files: Sequence[LakeFile]) -> list[list[LakeFile]]:
    tiers: dict[int, list[LakeFile]] = {}
    for file in files:
        tier, size = 0, file.size
        while size >= _TIER:
            tier, size = tier + 1, size // _TIER
        tiers.setdefault(tier, []).append(file)
    return [tiers[tier] for tier in sorted(tiers)]


def _fitting(files: Sequence[LakeFile], most: int) -> list[LakeFile]:
    chosen: list[LakeFile] = []
    size = 0
    for file in files:
        if size + file.size > most:
            break
        chosen.append(file)
        size += file.size
    return chosen
