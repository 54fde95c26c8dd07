"""What to do with staged identities after any end of the process: pure, from the names of the files found.

A slot is a directory ``next/<serial>-<generation>`` that appears whole, by one rename, with key, certificate and
passport in it. Promotion moves them over the main files in that order, passport last. So a slot with a passport and
without a key is a promotion that was cut short and is finished; one without a passport holds nothing that counts;
a whole one waits to be proved. A slot behind the main passport is never looked at again: it is older.

Several may wait: one that was admitted just before the power went is what the mixer knows us by, though we do not
know it, and must not go for a newer one that the mixer has not seen. All that are older than a proved one are dead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

KEY, CERTIFICATE, PASSPORT = "identity.key", "rack.pem", "state.flux"
PROMOTION_ORDER = (KEY, CERTIFICATE, PASSPORT)

_NAME = re.compile(r"([0-9]{20})-([0-9]{6})\Z")


@dataclass(frozen=True, order=True)
class SlotName:
    """A slot's place in the order of issue; ``generation`` tells two apart that hold the same passport."""

    serial: int
    generation: int

    def __str__(self) -> str:
        return f"{self.serial:020d}-{self.generation:06d}"

    @classmethod
    def parse(cls, text: str) -> SlotName | None:
        """Return the name, or None if ``text`` is not a slot's."""
        found = _NAME.match(text)
        return cls(int(found[1]), int(found[2])) if found is not None else None


@dataclass(frozen=True)
class Decision:
    """``roll_forward`` is finished first, ``discard`` removed, oldest first; ``waiting``, newest first, stay."""

    roll_forward: SlotName | None
    waiting: tuple[SlotName, ...]
    discard: tuple[SlotName, ...]


def decide(main_serial: int, slots: Mapping[SlotName, frozenset[str]]) -> Decision:
    """Return what becomes of ``slots`` (their names and the files in each) beside a passport of ``main_serial``."""
    promoting = [
        name for name, files in slots.items()
        if PASSPORT in files and KEY not in files and name.serial >= main_serial
    ]  # fmt: skip
    roll_forward = max(promoting, default=None)
    waiting = [
        name for name, files in slots.items()
        if files.issuperset(PROMOTION_ORDER)
        and name.serial >= main_serial
        and (roll_forward is None or name > roll_forward)
    ]  # fmt: skip
    kept = {roll_forward, *waiting}
    discard = tuple(sorted(name for name in slots if name not in kept))
    return Decision(roll_forward, tuple(sorted(waiting, reverse=True)), discard)


def next_name(serial: int, slots: Mapping[SlotName, frozenset[str]]) -> SlotName:
    """Return a name for a new slot of ``serial`` that sorts behind every slot there is of it."""
    return SlotName(serial, 1 + max((name.generation for name in slots if name.serial == serial), default=0))
