"""Where modules, their assignments and their files are kept, and all of it as one picture to decide on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

from nats.js import JetStreamContext

from stagebox.control.denylist import DenyList
from stagebox.errors import ModuleError
from stagebox_mixer.denial.fresh import Fresh
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.files import ModuleFiles
from stagebox_mixer.modules.model import Assignment, ModuleEntry
from stagebox_mixer.registry.store import Bucket
from stagebox_mixer.streams import ASSIGNMENTS_BUCKET, MODULES_BUCKET


class DenyLists(Protocol):
    """Where the deny list is read."""

    async def read(self) -> DenyList:
        """Return the list in force."""


@dataclass(frozen=True)
class Catalogue:
    """All modules by name and version, all assignments as they were made, and what is denied."""

    modules: Mapping[tuple[str, str], ModuleEntry]
    assignments: tuple[Assignment, ...]
    denied: DenyList

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
            ModuleError: ``unknown_module``: there is none.
        """
        entry = self.module(name, version)
        if entry is None:
            raise ModuleError(
                "unknown_module",
                f"no module {name[:64]}@{version[:64]} was imported",
                remedy="stagebox wasm list",
            )
        return entry

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

    def after(self, changed: Assignment) -> Catalogue:
        """Return everything as it is once ``changed`` is stored."""
        others = [item for item in self.assignments if item.id != changed.id]
        return replace(self, assignments=_in_order([*others, changed]))


class ModuleStore:
    """Modules by name and version, assignments by id, files by digest."""

    def __init__(self, jetstream: Callable[[], JetStreamContext], denials: DenyLists) -> None:
        # The bytes come from the server every time; what the same bytes say need not be worked out every time.
        decode_module = lru_cache(LIMITS.modules)(ModuleEntry.decode)
        decode_assignment = lru_cache(LIMITS.assignments)(Assignment.decode)
        self.modules: Bucket[ModuleEntry] = Bucket(MODULES_BUCKET, decode_module, jetstream)
        self.assignments: Bucket[Assignment] = Bucket(ASSIGNMENTS_BUCKET, decode_assignment, jetstream)
        self.files = ModuleFiles(jetstream)
        self._denials = denials
        self._shared = Fresh(self._read)

    async def catalogue(self) -> Catalogue:
        """Return everything as a read finds it that begins after this call.

        Raises:
            BusError: the store is away. StageboxError: an entry or the deny list is damaged.
        """
        return await self._shared.get()

    async def _read(self) -> Catalogue:
        modules, assignments, denied = await asyncio.gather(
            self.modules.all(), self.assignments.all(), self._denials.read()
        )
        return Catalogue(
            {(entry.name, entry.version): entry for entry in modules.values()},
            _in_order(assignments.values()),
            denied,
        )


def _in_order(assignments: Iterable[Assignment]) -> tuple[Assignment, ...]:
    """As they were made."""
    return tuple(sorted(assignments, key=lambda item: (item.created, item.id)))
