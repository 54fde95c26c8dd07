"""Revocation: a version of a module, or everything a vendor's key signed, ends everywhere at once.

The deny list does it: it is announced to every connected rack in the moment it changes, kept by every rack, and brought
back by them to a mixer that was restored from a backup. The registry is marked after it, and new sheets leave the
module out. No lock is waited for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

from stagebox.control.denylist import DenyKind, DenyList, module_value
from stagebox.errors import ModuleError, StageboxError
from stagebox_mixer.audit import Row
from stagebox_mixer.lifecycle.audited import AuditLog, record_failure
from stagebox_mixer.modules.assigning import versions_in_use
from stagebox_mixer.modules.audited import Change, change
from stagebox_mixer.modules.model import Assignment, ModuleEntry
from stagebox_mixer.modules.store import Catalogue, ModuleStore
from stagebox_mixer.modules.vendors import Vendors

_KEY_ID = re.compile(r"[0-9a-f]{32}\Z")


class Bans(Protocol):
    """The deny list."""

    async def deny(self, kind: str, value: str, *, reason: str, actor: str) -> DenyList:
        """Ban, and tell everybody."""


@dataclass(frozen=True)
class Revoked:
    """What was revoked: versions of modules, the vendor's keys if it was a vendor, and the deny list's epoch."""

    modules: tuple[ModuleEntry, ...]
    keys: tuple[bytes, ...]
    epoch: int


def _nobody(_: Collection[Assignment]) -> None:
    """Stand in until somebody wants to know."""


class Revoker:
    """Revokes. ``changed`` hears of the assignments that lose a module."""

    def __init__(
        self,
        *,
        store: ModuleStore,
        vendors: Vendors,
        bans: Bans,
        audit: AuditLog,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store = store
        self._vendors = vendors
        self._bans = bans
        self._audit = audit
        self._clock = clock
        self.changed: Callable[[Collection[Assignment]], None] = _nobody

    async def module(self, name: str, version: str, *, reason: str, actor: str) -> Revoked:
        """Revoke one version of a module; said again, it outlives copies of the deny list that lack it.

        Raises:
            ModuleError: it was never imported. BusError: it is not in effect.
        """
        catalogue = await self._store.catalogue()
        entry = catalogue.imported(name, version)
        row = Row(actor, "module_revoke", entry.title, "ok", reason, {"sha256": entry.vendor_digest.hex()})
        # By the vendor's bytes every countersignature is hit, also one that is being made now.
        bans = [(DenyKind.MODULE, module_value(digest)) for digest in (entry.vendor_digest, entry.digest)]
        return await self._revoke(row, bans, (), [entry], catalogue)

    async def vendor(self, vendor: str, *, reason: str, actor: str) -> Revoked:
        """Revoke a vendor, by its name (all of its keys that are known here) or by one key id in hexadecimal.

        Raises:
            ModuleError: nobody of that name is known. BusError: it is not in effect.
        """
        catalogue = await self._store.catalogue()
        keys = self._keys(vendor, catalogue)
        hit = [entry for entry in catalogue.modules.values() if entry.key_id in keys]
        row = Row(
            actor, "module_vendor_revoke", vendor, "ok", reason, {"keys": len(keys), "modules": len(hit)}
        )
        bans = [(DenyKind.VENDOR, key.hex()) for key in keys]
        return await self._revoke(row, bans, keys, hit, catalogue)

    def _keys(self, vendor: str, catalogue: Catalogue) -> tuple[bytes, ...]:
        found = {item.root.key_id for item in self._vendors.all() if item.root and item.root.owner == vendor}
        found |= {entry.key_id for entry in catalogue.modules.values() if entry.vendor == vendor}
        if _KEY_ID.match(vendor):
            found.add(bytes.fromhex(vendor))  # also a name may look like one: then both are meant
        if not found:
            raise ModuleError(
                "unknown_vendor", f"no vendor {vendor[:64]!r} is known here", remedy="stagebox wasm vendors"
            )
        return tuple(sorted(found))

    async def _revoke(
        self,
        row: Row,
        bans: list[tuple[DenyKind, str]],
        keys: tuple[bytes, ...],
        hit: list[ModuleEntry],
        catalogue: Catalogue,
    ) -> Revoked:
        await self._audit.record(row)
        epoch = 0
        try:
            for kind, value in bans:
                epoch = (await self._bans.deny(kind.value, value, reason=row.reason, actor=row.actor)).epoch
        except StageboxError:
            await record_failure(self._audit, row, "storage")
            raise
        titles = {(entry.name, entry.version) for entry in hit}
        self.changed(
            [
                item
                for item in catalogue.assignments
                if any((item.module, version) in titles for version in versions_in_use(item))
            ]
        )
        marked = [await self._mark(entry, row) for entry in hit]
        return Revoked(tuple(marked), keys, epoch)

    async def _mark(self, entry: ModuleEntry, row: Row) -> ModuleEntry:
        """Note it in the registry, for people; the deny list is what counts."""

        def decide(found: ModuleEntry | None) -> Change[ModuleEntry] | None:
            if found is None or found.revoked_at:
                return None
            after = replace(found, revoked_at=self._clock(), revoked_by=row.actor, revoked_reason=row.reason)
            return Change(after, Row(row.actor, "module_marked", found.title, "ok", row.reason))

        return await change(self._store.modules, self._audit, entry.key, decide) or entry
