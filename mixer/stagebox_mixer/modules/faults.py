"""What a rack says of a module that does not run, and which assignment goes back because of it. Pure.

Believed for the rack on whose subject it came: nats-server lets nobody else publish there. A rack can so take a new
version away from the others, and never give them anything but what ran there before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from stagebox_mixer.modules.assigning import runs_on
from stagebox_mixer.modules.model import Assignment, AssignmentState

ALERTS = frozenset({"module.rejected", "module.stopped"})
_STATES = frozenset({"rejected", "stopped"})

EXCUSED = frozenset(
    {
        # somebody decided so
        "denied",
        "revoked",
        "not_assigned",
        "unknown_module",
        # it is that rack's room, disk, clock or past
        "modules_full",
        "no_room",
        "deny_list_lost",
        "floors_lost",
        "floors_full",
        "floor_not_kept",
        "missing",
        "unreadable",
        "wrong_digest",
        "wrong_size",
        "downgrade",
        "expired",
        "not_yet_valid",
    }
)
"""Codes that say nothing against a version: the one before would do no better."""

_TEXT_CHARS = 64


@dataclass(frozen=True)
class Fault:
    """A module does not run on a rack. ``insert`` is the assignment's id, empty if the rack does not say.

    ``time_ns`` is when an alert was raised, by the rack's clock; 0 for what is so now.
    """

    rack: str
    module: str
    version: str
    insert: str
    digest: str
    code: str
    time_ns: int = 0

    @property
    def counts(self) -> bool:
        """Whether it says something against the version."""
        return self.code not in EXCUSED


def of_alert(rack: str, name: str, detail: dict[str, Any], time_ns: int = 0) -> Fault | None:
    """Return the fault that an alert reports; None if it reports none, or is malformed."""
    fault = _fault(rack, detail) if name in ALERTS else None
    return replace(fault, time_ns=time_ns) if fault is not None else None


def of_heartbeat(rack: str, body: dict[str, Any]) -> Iterator[Fault]:
    """Yield the faults that a heartbeat lists under ``modules``; what is malformed is left out."""
    listed = body.get("modules")
    for item in listed if isinstance(listed, list) else ():
        state = item.get("state") if isinstance(item, dict) else None
        if isinstance(state, str) and state in _STATES:
            fault = _fault(rack, item)
            if fault is not None:
                yield fault


def _fault(rack: str, fields: dict[str, Any]) -> Fault | None:
    texts = {name: fields.get(name, "") for name in ("module", "version", "insert", "digest", "code")}
    if not all(_is_word(text) for text in texts.values()):
        return None
    return Fault(rack=rack, **texts) if texts["module"] and texts["version"] else None


def _is_word(text: object) -> bool:
    """A code ends up in the audit and in what people are shown."""
    return isinstance(text, str) and len(text) <= _TEXT_CHARS and text.isascii() and text.isprintable()


def blamed(fault: Fault, assignments: Iterable[Assignment]) -> Collection[Assignment]:
    """Return the assignments by which that rack runs that version as the new one."""
    return [item for item in assignments if _is_of(fault, item)] if fault.counts else []


def _is_of(fault: Fault, assignment: Assignment) -> bool:
    if assignment.state is not AssignmentState.ACTIVE or fault.insert not in ("", assignment.id):
        return False
    if 0 < fault.time_ns < assignment.time:
        return False  # it is about what ran there before; what is still so the heartbeat says too
    if (assignment.module, assignment.version) != (fault.module, fault.version):
        return False
    running = runs_on(assignment, fault.rack)
    return running is not None and running[0] == fault.version
