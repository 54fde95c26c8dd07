"""Assignments with their I/O: made, removed, and taken back when a new version fails.

Decided on what is stored at that moment, audited, then written by compare-and-set. Whoever would run an older version
than before gets it under a new countersignature first, so that no sheet ever names a file that racks must refuse.
``changed`` hears of every assignment by which some rack may now run something else.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Protocol

import structlog

from stagebox.errors import DecodeError, InputError, ModuleError, StageboxError
from stagebox_mixer.audit import Row
from stagebox_mixer.lifecycle.audited import AuditLog, record_failure
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.assigning import (
    Wanted,
    assigned,
    check_wanted,
    rolled_back,
    to_raise,
    versions_in_use,
)
from stagebox_mixer.modules.audited import Change, change, refused
from stagebox_mixer.modules.faults import Fault, blamed
from stagebox_mixer.modules.importing import Importer
from stagebox_mixer.modules.judging import usable
from stagebox_mixer.modules.model import Assignment, AssignmentState, ModuleEntry
from stagebox_mixer.modules.room import check_room
from stagebox_mixer.modules.store import Catalogue, ModuleStore
from stagebox_mixer.registry.model import RackEntry
from stagebox_mixer.registry.store import Conflict, Unreadable

log = structlog.get_logger()

ACTOR = "mixer"
_STEM_CHARS = 54
_TAIL_BYTES = 4


class Racks(Protocol):
    """The registered racks."""

    async def all_racks(self) -> list[RackEntry]:
        """Return every entry."""


def _nobody(_: Collection[Assignment]) -> None:
    """Stand in until somebody wants to know."""


class Assigner:
    """Changes assignments. ``lock`` is that of the :class:`~stagebox_mixer.modules.importing.Importer`."""

    def __init__(
        self,
        *,
        store: ModuleStore,
        importer: Importer,
        racks: Racks,
        audit: AuditLog,
        lock: asyncio.Lock,
        clock: Callable[[], int] = time.time_ns,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._importer = importer
        self._racks = racks
        self._audit = audit
        self._lock = lock
        self._clock = clock
        self._entropy = entropy
        self.changed: Callable[[Collection[Assignment]], None] = _nobody

    async def assign(
        self, wanted: Wanted, *, actor: str, name: str | None = None, reason: str = ""
    ) -> Assignment:
        """Make an assignment, or change the one called ``name``.

        Raises:
            ModuleError: no such module, or it is revoked. InputError: what is wanted makes no sense, or some rack has
            no room for it. Either is in the audit, and nothing has changed.
            BusError, StorageError: the mixer cannot do it now.
        """
        name = name if name is not None else self._name(wanted.module)
        try:
            async with self._lock:
                made, touched = await self._assign(wanted, name, actor, reason)
        except DecodeError:
            raise  # what is stored is damaged; that is nobody's wish
        except (InputError, ModuleError) as refusal:
            self._audit.refused(refused("module_assign", name, refusal, actor))
            raise
        self.changed(touched)
        return made

    async def _assign(
        self, wanted: Wanted, name: str, actor: str, reason: str
    ) -> tuple[Assignment, list[Assignment]]:
        """Return what was made, and every assignment by which some rack may now run something else."""
        catalogue = await self._store.catalogue()
        check_wanted(wanted, usable(catalogue, wanted.module, wanted.version))
        before = catalogue.assignment(name)
        odd = catalogue.unreadable_assignment(name)
        if odd is not None:
            raise InputError(f"assignment {name!r} cannot be read: {odd.problem}", remedy="unassign it first")
        held = len(catalogue.assignments) + len(catalogue.unreadable_assignments)
        if before is None and held >= LIMITS.assignments:
            raise InputError(f"there are {held} assignments, which is all there may be")
        now_ns = self._clock()

        def decide(found: Assignment | None) -> Change[Assignment]:
            made = assigned(found, wanted, name=name, by=actor, reason=reason, now_ns=now_ns)
            return Change(made, Row(actor, "module_assign", name, "ok", reason, _facts(made)))

        after = decide(before).entry
        assert after is not None
        racks = [rack.name for rack in await self._racks.all_racks() if not rack.removed_at]
        check_room(after, catalogue, racks)
        raised = await self._raise(before, after, catalogue, actor)
        made = await change(self._store.assignments, self._audit, name, decide)
        assert made is not None
        return made, _touched((before, made), raised, catalogue)

    async def unassign(self, name: str, *, actor: str, reason: str = "") -> None:
        """Remove an assignment, also one that cannot be read; racks stop what they ran by it.

        Raises:
            ModuleError: there is none, which is in the audit. BusError: the mixer cannot do it now.
        """
        removed: list[Assignment] = []

        def decide(found: Assignment | None) -> Change[Assignment] | None:
            if found is None:
                return None
            removed[:] = [found]
            return Change(None, Row(actor, "module_unassign", name, "ok", reason, _facts(found)))

        async with self._lock:
            odd = await self._store.assignments.find(name)
            if isinstance(odd, Unreadable):
                await self._remove(odd, actor, reason)
                return
            await change(self._store.assignments, self._audit, name, decide)
        if not removed:
            refusal = unknown_assignment(name)
            self._audit.refused(refused("module_unassign", name, refusal, actor))
            raise refusal
        self.changed(removed)

    async def _remove(self, odd: Unreadable, actor: str, reason: str) -> None:
        """Remove what cannot be read; it is on no sheet."""
        row = Row(actor, "module_unassign", odd.key, "ok", reason, {"problem": odd.problem})
        await self._audit.record(row)
        try:
            await self._store.assignments.delete(odd.key, revision=odd.revision)
        except StageboxError as error:
            await record_failure(self._audit, row, "conflict" if isinstance(error, Conflict) else "storage")
            raise

    async def roll_back(self, fault: Fault) -> list[Assignment]:
        """Take back whatever is to blame for a fault; return the assignments that went back.

        Raises:
            StageboxError: the mixer cannot do it now.
        """
        if not fault.counts:
            return []
        async with self._lock:
            catalogue = await self._store.catalogue()
            entry = catalogue.module(fault.module, fault.version)
            if entry is None or fault.digest not in ("", entry.digest.hex()):
                return []  # it is about a file of before
            gone = []
            for item in blamed(fault, catalogue.assignments):
                gone.append(await self._take_back(item, fault, catalogue))
                catalogue = await self._store.catalogue()
        return gone

    async def _take_back(self, item: Assignment, fault: Fault, catalogue: Catalogue) -> Assignment:
        reason = f"{fault.code or 'failed'} on {fault.rack}"
        wanted = rolled_back(item, by=ACTOR, reason=reason, now_ns=self._clock())
        raised: list[ModuleEntry] = []
        try:
            if wanted.previous:
                usable(catalogue, item.module, wanted.previous)
                raised = await self._raise(item, wanted, catalogue, ACTOR)
        except ModuleError as error:
            # The version before may not run either: then nothing does.
            log.error(
                "module_previous_unusable", assignment=item.id, version=item.previous, error=error.message
            )
            wanted = replace(wanted, previous="", previous_params={})
        facts: dict[str, str | int] = {**_facts(wanted), "rack": fault.rack, "code": fault.code}

        def decide(found: Assignment | None) -> Change[Assignment] | None:
            if found is None or found.version != item.version or found.state is not AssignmentState.ACTIVE:
                return None  # somebody was faster
            back = replace(wanted, racks=found.racks, percent=found.percent)
            return Change(back, Row(ACTOR, "module_rollback", item.id, "ok", fault.code, facts))

        after = await change(self._store.assignments, self._audit, item.id, decide)
        log.warning(
            "module_rolled_back",
            assignment=item.id,
            version=item.version,
            to=wanted.previous,
            rack=fault.rack,
        )
        self.changed(_touched((item, after), raised, catalogue))
        return after if after is not None else wanted

    async def _raise(
        self, before: Assignment | None, after: Assignment, catalogue: Catalogue, actor: str
    ) -> list[ModuleEntry]:
        """Countersign again what would else be refused as a step back; return those versions."""
        top, low = to_raise(before, after, catalogue.assignments, catalogue.versions(after.module))
        own = after.version if after.state is AssignmentState.ACTIVE else after.previous
        raised = []
        for entry in low:
            try:
                await self._importer.reissue_locked(
                    entry.name, entry.version, actor=actor, reason=f"for assignment {after.id}", serial=top
                )
            except ModuleError as error:
                if entry.version == own:
                    raise
                # Racks that have both say so themselves; what was asked for does not depend on it.
                log.warning("module_not_countersigned_again", module=entry.title, error=error.message)
                continue
            raised.append(entry)
        return raised

    async def level(self, module: str, *, actor: str) -> None:
        """After a version was countersigned again: also those that another assignment may bring to the same rack.

        Raises:
            BusError, StorageError: the mixer cannot do it now; racks that have both refuse the one of the lower serial.
        """
        async with self._lock:
            catalogue = await self._store.catalogue()
            own = [item for item in catalogue.assignments if item.module == module]
            if len(own) > 1:
                try:
                    await self._raise(None, own[0], catalogue, actor)
                except ModuleError as error:
                    log.warning("module_not_countersigned_again", module=module, error=error.message)

    def _name(self, module: str) -> str:
        return f"{module[:_STEM_CHARS].rstrip('-')}-{self._entropy(_TAIL_BYTES).hex()}"


def unknown_assignment(name: str) -> ModuleError:
    """Return the error of an assignment that is not there."""
    return ModuleError(
        "unknown_assignment", f"there is no assignment {name[:64]!r}", remedy="stagebox wasm list"
    )


def _touched(
    own: Iterable[Assignment | None], raised: Iterable[ModuleEntry], catalogue: Catalogue
) -> list[Assignment]:
    """Return every assignment by which some rack may now run something else than before."""
    again = {(entry.name, entry.version) for entry in raised}
    found = [item for item in own if item is not None]
    found += [
        item
        for item in catalogue.assignments
        if any((item.module, version) in again for version in versions_in_use(item))
    ]
    return found


def _facts(assignment: Assignment) -> dict[str, str | int]:
    return {
        "module": assignment.module,
        "version": assignment.version,
        "previous": assignment.previous,
        "percent": assignment.percent,
        "racks": " ".join(assignment.racks),
        "point": assignment.point.value,
        "source": assignment.source,
        "bus": assignment.bus,
    }
