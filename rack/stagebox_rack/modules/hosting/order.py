"""Which instances go on when modules are arranged anew, and where those that leave fade out. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def in_step(old: Sequence[Key], new: Sequence[Key]) -> frozenset[Key]:
    """Return as many of what both have as stand in the same order in both.

    An instance cannot be heard at two places at once: one that moves is replaced by a fresh one.
    """
    place = {key: index for index, key in enumerate(old)}
    both = [key for key in new if key in place]
    # The longest rising run of places, ending with each.
    length: list[int] = []
    before: list[int | None] = []
    for index, key in enumerate(both):
        earlier = [one for one in range(index) if place[both[one]] < place[key]]
        best = max(earlier, key=lambda one: length[one], default=None)
        length.append(1 if best is None else length[best] + 1)
        before.append(best)
    kept: set[Key] = set()
    at = max(range(len(both)), key=lambda one: length[one], default=None)
    while at is not None:
        kept.add(both[at])
        at = before[at]
    return frozenset(kept)


def with_leaving(old: Sequence[Key], new: Sequence[Key]) -> list[Key]:
    """Return ``new`` with what is only in ``old`` in between, each before the one that it was before.

    What both have must stand in the same order in both.
    """
    kept = set(new)
    ahead: dict[Key, list[Key]] = {}
    leaving: list[Key] = []
    for key in old:
        if key in kept:
            ahead[key], leaving = leaving, []
        else:
            leaving.append(key)
    merged: list[Key] = []
    for key in new:
        merged += [*ahead.get(key, ()), key]
    return merged + leaving
