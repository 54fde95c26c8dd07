"""What an assignment says of each rack, how it changes, and when it goes back. Pure.

Racks are let into a rollout by a hash of assignment and rack name: the same at every look and for every mixer, and a
larger percentage keeps those it had. Racks take no file of a module under a serial lower than one they had, so whoever
is to run an older version needs it countersigned again: :func:`to_raise` says which versions.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from stagebox.errors import InputError
from stagebox.identity import check_name
from stagebox.modules.capabilities import Capability
from stagebox.modules.params import resolve
from stagebox.modules.patch import Point
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.model import Assignment, AssignmentState, ModuleEntry

_PATTERN = re.compile(r"[a-z0-9*?\[\]!-]{1,63}\Z")
_ALL = 100


@dataclass(frozen=True)
class Wanted:
    """What somebody asks for: a module at a place on some racks."""

    module: str
    version: str
    racks: tuple[str, ...]
    point: Point
    source: str = ""
    bus: str = ""
    params: Mapping[str, float] = field(default_factory=dict)
    percent: int = _ALL


def check_wanted(wanted: Wanted, entry: ModuleEntry) -> None:
    """Demand that the module can be where it is wanted, with these parameters.

    Raises:
        InputError: a place, a pattern, a percentage or a parameter that makes no sense.
    """
    _check_racks(wanted.racks)
    if not 0 <= wanted.percent <= _ALL:
        raise InputError(f"{wanted.percent} is no percentage", remedy="give 0 to 100")
    telemetry = wanted.point is Point.TELEMETRY
    if wanted.source or not telemetry:
        check_name("source", wanted.source)
    if wanted.point is Point.MONITOR:
        check_name("bus", wanted.bus)
    elif wanted.bus:
        raise InputError(
            f"at {wanted.point.value} there is no bus", remedy=f"name one at {Point.MONITOR.value} only"
        )
    needed = Capability.TELEMETRY if telemetry else Capability.AUDIO
    if needed not in entry.granted:
        raise InputError(
            f"{entry.title} is not granted {needed.value}, which {wanted.point.value} needs",
            remedy="see what it is granted: stagebox wasm show",
        )
    resolve(entry.params, wanted.params)


def _check_racks(patterns: tuple[str, ...]) -> None:
    if not 1 <= len(patterns) <= LIMITS.assignment_patterns:
        raise InputError(f"name 1 to {LIMITS.assignment_patterns} racks or patterns of their names")
    for pattern in patterns:
        if not _PATTERN.match(pattern):
            raise InputError(
                f"{pattern[:64]!r} matches no rack's name",
                remedy="write a name, or a pattern such as stage-*",
            )


def assigned(
    before: Assignment | None, wanted: Wanted, *, name: str, by: str, reason: str, now_ns: int
) -> Assignment:
    """Return the assignment ``name`` as it is wanted. What ran everywhere until now is what it can go back to.

    Raises:
        InputError: ``name`` is another module's assignment, or not a name.
    """
    check_name("assignment", name)
    if before is not None and before.module != wanted.module:
        raise InputError(
            f"assignment {name!r} is of module {before.module!r}",
            remedy="unassign it first, or leave the id out",
        )
    previous, previous_params = _to_go_back_to(before, wanted)
    return Assignment(
        id=name,
        module=wanted.module,
        version=wanted.version,
        racks=wanted.racks,
        point=wanted.point,
        source=wanted.source,
        bus=wanted.bus,
        created=before.created if before is not None else now_ns,
        time=now_ns,
        by=by,
        params=dict(wanted.params),
        percent=wanted.percent,
        previous=previous,
        previous_params=previous_params,
        reason=reason,
        extra=before.extra if before is not None else {},
    )


def _to_go_back_to(before: Assignment | None, wanted: Wanted) -> tuple[str, Mapping[str, float]]:
    if before is None:
        return "", {}
    if before.version == wanted.version:
        return before.previous, before.previous_params
    complete = before.state is AssignmentState.ACTIVE and before.percent == _ALL
    stable = (before.version, before.params) if complete else (before.previous, before.previous_params)
    return stable if stable[0] != wanted.version else ("", {})


def rolled_back(assignment: Assignment, *, by: str, reason: str, now_ns: int) -> Assignment:
    """Return the assignment with every rack back at the version before, or at none."""
    return replace(
        assignment, state=AssignmentState.ROLLED_BACK, by=by, reason=reason, time=max(now_ns, assignment.time)
    )


def matches(assignment: Assignment, rack: str) -> bool:
    """Tell whether the assignment is for that rack at all."""
    return any(fnmatch.fnmatchcase(rack, pattern) for pattern in assignment.racks)


def share(assignment: str, rack: str) -> float:
    """Return where a rack stands in a rollout, 0 up to 100: it is in if the percentage is higher."""
    digest = hashlib.sha256(f"{assignment}\0{rack}".encode()).digest()
    return int.from_bytes(digest[:6], "big") * _ALL / (1 << 48)


def runs_on(assignment: Assignment, rack: str) -> tuple[str, Mapping[str, float]] | None:
    """Return version and parameters that a rack runs by this assignment, None if nothing."""
    if not matches(assignment, rack):
        return None
    active = assignment.state is AssignmentState.ACTIVE
    if active and share(assignment.id, rack) < assignment.percent:
        return assignment.version, assignment.params
    return (assignment.previous, assignment.previous_params) if assignment.previous else None


def versions_in_use(assignment: Assignment) -> set[str]:
    """Return every version that some rack may run by this assignment."""
    active = assignment.state is AssignmentState.ACTIVE
    found = {assignment.version} if active and assignment.percent else set()
    if assignment.previous and (not active or assignment.percent < _ALL):
        found.add(assignment.previous)
    return found


def to_raise(
    before: Assignment | None,
    after: Assignment,
    others: Collection[Assignment],
    versions: Collection[ModuleEntry],
) -> tuple[int, list[ModuleEntry]]:
    """Return the highest serial of the module, and the versions that need a countersignature with it.

    These are: what the change gives to racks that may have had a later one, and, where another assignment of the module
    has other versions on what may be the same racks, all of them. ``versions`` are all of the module.
    """
    top = max((entry.serial for entry in versions), default=0)
    needed = {after.version} if after.state is AssignmentState.ACTIVE else {after.previous}
    if before is not None and before.version == after.version and after.percent < before.percent:
        needed.add(after.previous)
    elsewhere = {
        version
        for other in others
        if other.id != after.id and other.module == after.module
        for version in versions_in_use(other)
    }
    if len(elsewhere | versions_in_use(after)) > 1 and elsewhere:
        needed |= elsewhere | versions_in_use(after)
    low = [entry for entry in versions if entry.version in needed and entry.serial < top]
    return top, sorted(low, key=lambda entry: entry.version)
