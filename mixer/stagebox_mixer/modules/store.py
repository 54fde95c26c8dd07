"""Where modules, their assignments and their files are kept, and all of it as one picture to decide on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import structlog
from nats.js import JetStreamContext

from stagebox.control.denylist import DenyList
from stagebox.errors import ModuleError
from stagebox.modules.patch import DIGEST_BYTES, Insert, PatchSheet, Point
from stagebox_mixer.denial.fresh import Fresh
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.files import ModuleFiles
from stagebox_mixer.modules.model import Assignment, ModuleEntry, named_by
from stagebox_mixer.registry.store import Bucket, Unreadable
from stagebox_mixer.streams import ASSIGNMENTS_BUCKET, MODULES_BUCKET

log = structlog.get_logger()


class DenyLists(Protocol):
    """Where the deny list is read."""

    async def read(self) -> DenyList:
        """Return the list in force."""


@dataclass(frozen=True)
class Catalogue:
    """All modules by name and version, all assignments as they were made, and what is denied.

    What cannot be read of either is apart: it runs nowhere, and hides nothing else.
    """

    modules: Mapping[tuple[str, str], ModuleEntry]
    assignments: tuple[Assignment, ...]
    denied: DenyList
    unreadable: tuple[Unreadable, ...] = ()
    unreadable_assignments: tuple[Unreadable, ...] = ()

    def versions(self, name: str) -> list[ModuleEntry]:
        """Return every imported version of a module, in the order of their serials."""
        found = [entry for (module, _), entry in self.modules.items() if module == name]
        return sorted(found, key=lambda entry: entry.serial)

    def module(self, name: str, version: str) -> ModuleEntry | None:
        """Return one version, or None."""
        return self.modules.get((name, version))

    def imported(self, name: str, version: str) -> ModuleEntry:
        """Return one version.

        Raises:
            ModuleError: ``unknown_module``: there is none; ``entry_unreadable``: its entry cannot be read.
        """
        entry = self.module(name, version)
        if entry is None:
            self.check_readable(name, version)
            raise unknown_module(name, version)
        return entry

    def unreadable_of(self, name: str) -> list[tuple[str, Unreadable]]:
        """Return the versions of a module whose entries cannot be read."""
        named = ((named_by(item.key), item) for item in self.unreadable)
        return [(found[1], item) for found, item in named if found is not None and found[0] == name]

    def check_readable(self, name: str, version: str) -> None:
        """Demand that nothing unreadable stands where a version's entry is.

        Raises:
            ModuleError: ``entry_unreadable``.
        """
        for found, item in self.unreadable_of(name):
            if found == version:
                raise ModuleError(
                    "entry_unreadable",
                    f"the registry's entry of {name}@{version} cannot be read: {item.problem}",
                    remedy="see them all with stagebox wasm list; a later release of the mixer may read it",
                )

    def revoked(self, entry: ModuleEntry) -> bool:
        """Tell whether a module, or its vendor, is revoked."""
        denied = self.denied.matches_module((entry.digest, entry.vendor_digest), (entry.key_id,))
        return bool(entry.revoked_at) or denied is not None

    def by_digest(self, digest: bytes) -> ModuleEntry | None:
        """Return the module whose countersigned file has that digest, or None."""
        return next((entry for entry in self.modules.values() if entry.digest == digest), None)

    def assignment(self, name: str) -> Assignment | None:
        """Return one assignment, or None."""
        return next((item for item in self.assignments if item.id == name), None)

    def unreadable_assignment(self, name: str) -> Unreadable | None:
        """Return what stands where that assignment would be and cannot be read, or None."""
        return next((item for item in self.unreadable_assignments if item.key == name), None)

    def after(self, changed: Assignment) -> Catalogue:
        """Return everything as it is once ``changed`` is stored."""
        others = [item for item in self.assignments if item.id != changed.id]
        return replace(self, assignments=_in_order([*others, changed]))


def unknown_module(name: str, version: str) -> ModuleError:
    """Return the error of a version that was never imported."""
    return ModuleError(
        "unknown_module", f"no module {name[:64]}@{version[:64]} was imported", remedy="stagebox wasm list"
    )


class ModuleStore:
    """Modules by name and version, assignments by id, files by digest."""

    def __init__(self, jetstream: Callable[[], JetStreamContext], denials: DenyLists) -> None:
        # The bytes come from the server every time; what the same bytes say need not be worked out every time.
        decode_module = lru_cache(LIMITS.modules)(_module)
        decode_assignment = lru_cache(LIMITS.assignments)(_assignment)
        self.modules: Bucket[ModuleEntry] = Bucket(
            MODULES_BUCKET, decode_module, jetstream, lambda entry: entry.key
        )
        self.assignments: Bucket[Assignment] = Bucket(
            ASSIGNMENTS_BUCKET, decode_assignment, jetstream, lambda item: item.id
        )
        self.files = ModuleFiles(jetstream)
        self._denials = denials
        self._told: frozenset[tuple[str, str, int]] = frozenset()
        self._shared = Fresh(self._read)

    async def catalogue(self) -> Catalogue:
        """Return everything as a read finds it that begins after this call.

        Raises:
            BusError: the store is away. StageboxError: the deny list is damaged.
        """
        return await self._shared.get()

    async def _read(self) -> Catalogue:
        (modules, odd), (assignments, odd_assignments), denied = await asyncio.gather(
            self.modules.all(), self.assignments.all(), self._denials.read()
        )
        self._tell({MODULES_BUCKET: odd, ASSIGNMENTS_BUCKET: odd_assignments})
        return Catalogue(
            {(entry.name, entry.version): entry for entry in modules.values()},
            _in_order(assignments.values()),
            denied,
            odd,
            odd_assignments,
        )

    def _tell(self, found: Mapping[str, Sequence[Unreadable]]) -> None:
        """Say once in the log what cannot be read: it is read for every sheet."""
        now = {(bucket, item.key, item.revision): item for bucket, odd in found.items() for item in odd}
        for (bucket, key, revision), item in now.items():
            if (bucket, key, revision) not in self._told:
                log.error("registry_entry_unreadable", bucket=bucket, key=key, problem=item.problem)
        self._told = frozenset(now)


def _module(data: bytes) -> ModuleEntry:
    made = ModuleEntry.decode(data)
    _check_on_sheet(Insert("a", made.name, made.version, made.digest, made.size, Point.TELEMETRY))
    return made


def _assignment(data: bytes) -> Assignment:
    made = Assignment.decode(data)
    for params in (made.params, made.previous_params):
        _check_on_sheet(
            Insert(
                made.id, made.module, "", bytes(DIGEST_BYTES), 1, made.point, made.source, made.bus, params
            )
        )
    return made


def _check_on_sheet(insert: Insert) -> None:
    """Demand that a sheet can say it: what none can would take the others of its racks with it."""
    PatchSheet.decode(PatchSheet("", "", 1, (insert,)).encode())


def _in_order(assignments: Iterable[Assignment]) -> tuple[Assignment, ...]:
    """As they were made."""
    return tuple(sorted(assignments, key=lambda item: (item.created, item.id)))
