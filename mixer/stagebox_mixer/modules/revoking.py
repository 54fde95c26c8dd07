"""Revocation: a version of a module, or everything a vendor's key signed, ends everywhere at once.

The deny list does it: it is announced to every connected rack in the moment it changes, kept by every rack, and brought
back by them to a mixer that was restored from a backup. The registry is marked after it, and new sheets leave the
module out. No lock is waited for, and nothing else in the registry can stand in the way: a version is revoked by its
own entry, or by what is left of it, and a key by its id; what else follows is done as far as it can be.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from stagebox.control.denylist import DenyKind, DenyList, module_value
from stagebox.errors import InputError, ModuleError, StageboxError
from stagebox_mixer.audit import Row
from stagebox_mixer.lifecycle.audited import AuditLog, record_failure
from stagebox_mixer.modules.assigning import versions_in_use
from stagebox_mixer.modules.audited import Change, change
from stagebox_mixer.modules.model import Assignment, ModuleEntry, module_key, named_by
from stagebox_mixer.modules.remains import SignedFiles, digests_of, remains_of
from stagebox_mixer.modules.store import Catalogue, ModuleStore, unknown_module
from stagebox_mixer.modules.vendors import Vendors
from stagebox_mixer.registry.store import Unreadable

log = structlog.get_logger()

_KEY_ID = re.compile(r"[0-9a-f]{32}\Z")


class Bans(Protocol):
    """The deny list."""

    async def deny(self, kind: str, value: str, *, reason: str, actor: str) -> DenyList:
        """Ban, and tell everybody."""


@dataclass(frozen=True)
class RevokedVersion:
    """A version that a revocation hit. ``vendor_digest`` is empty where the registry does not say it."""

    name: str
    version: str
    vendor_digest: bytes


@dataclass(frozen=True)
class Revoked:
    """What was revoked: versions of modules, the vendor's keys if it was a vendor, and the deny list's epoch.

    ``unread`` are the keys of entries that cannot be read and may be of a vendor that was revoked by its name.
    """

    modules: tuple[RevokedVersion, ...]
    keys: tuple[bytes, ...]
    epoch: int
    unread: tuple[str, ...] = ()


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
        signed: SignedFiles,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store = store
        self._vendors = vendors
        self._bans = bans
        self._audit = audit
        self._signed = signed
        self._clock = clock
        self.changed: Callable[[Collection[Assignment]], None] = _nobody

    async def module(self, name: str, version: str, *, reason: str, actor: str) -> Revoked:
        """Revoke one version of a module; said again, it outlives copies of the deny list that lack it.

        Raises:
            ModuleError: it was never imported, or nothing is left of it. BusError: it is not in effect.
        """
        try:
            found = await self._store.modules.find(module_key(name, version))
        except InputError:
            found = None  # no module is called that
        if found is None:
            raise unknown_module(name, version)
        detail: dict[str, str | int] = {}
        if isinstance(found, Unreadable):
            digests = await digests_of(name, version, found.data, self._signed)
            detail["problem"] = found.problem
        else:
            digests = [found.entry.vendor_digest, found.entry.digest]
        row = Row(
            actor, "module_revoke", f"{name}@{version}", "ok", reason, {"sha256": digests[0].hex(), **detail}
        )
        # By the vendor's bytes every countersignature is hit, also one that is being made now.
        bans = [(DenyKind.MODULE, module_value(digest)) for digest in digests]
        hit = RevokedVersion(name, version, digests[0])
        return Revoked((hit,), (), await self._revoke(row, bans, [hit]))

    async def vendor(self, vendor: str, *, reason: str, actor: str) -> Revoked:
        """Revoke a vendor, by its name (all of its keys that are known here) or by one key id in hexadecimal.

        Raises:
            ModuleError: nobody of that name is known. BusError: it is not in effect.
        """
        # By an id nothing else need be known; which keys a name has, the registry says.
        catalogue = await self._readable() if _KEY_ID.match(vendor) else await self._store.catalogue()
        keys = self._keys(vendor, catalogue)
        hit = _signed_by(keys, catalogue)
        row = Row(
            actor, "module_vendor_revoke", vendor, "ok", reason, {"keys": len(keys), "modules": len(hit)}
        )
        epoch = await self._revoke(row, [(DenyKind.VENDOR, key.hex()) for key in keys], hit)
        unread = [item.key for item in catalogue.unreadable] if catalogue is not None else []
        titles = {(item.name, item.version) for item in hit}
        return Revoked(tuple(hit), keys, epoch, tuple(key for key in unread if named_by(key) not in titles))

    def _keys(self, vendor: str, catalogue: Catalogue | None) -> tuple[bytes, ...]:
        found = {item.root.key_id for item in self._vendors.all() if item.root and item.root.owner == vendor}
        if catalogue is not None:
            found |= {entry.key_id for entry in catalogue.modules.values() if entry.vendor == vendor}
        if _KEY_ID.match(vendor):
            found.add(bytes.fromhex(vendor))  # also a name may look like one: then both are meant
        if not found:
            raise ModuleError(
                "unknown_vendor", f"no vendor {vendor[:64]!r} is known here", remedy="stagebox wasm vendors"
            )
        return tuple(sorted(found))

    async def _revoke(
        self, row: Row, bans: list[tuple[DenyKind, str]], hit: Collection[RevokedVersion]
    ) -> int:
        """Ban, and do what follows from it; return the epoch of the deny list."""
        await self._audit.record(row)
        epoch = 0
        try:
            for kind, value in bans:
                epoch = (await self._bans.deny(kind.value, value, reason=row.reason, actor=row.actor)).epoch
        except StageboxError:
            await record_failure(self._audit, row, "storage")
            raise
        titles = {(item.name, item.version) for item in hit}
        catalogue = await self._readable()
        assignments = catalogue.assignments if catalogue is not None else ()
        self.changed(
            [
                item
                for item in assignments
                if any((item.module, version) in titles for version in versions_in_use(item))
            ]
        )
        for name, version in sorted(titles):
            await self._mark(name, version, row)
        return epoch

    async def _readable(self) -> Catalogue | None:
        try:
            return await self._store.catalogue()
        except StageboxError as error:
            log.error("modules_not_read", error=error.message)
            return None

    async def _mark(self, name: str, version: str, row: Row) -> None:
        """Note it in the registry, for people; the deny list is what counts."""

        def decide(found: ModuleEntry | None) -> Change[ModuleEntry] | None:
            if found is None or found.revoked_at:
                return None
            after = replace(found, revoked_at=self._clock(), revoked_by=row.actor, revoked_reason=row.reason)
            return Change(after, Row(row.actor, "module_marked", found.title, "ok", row.reason))

        try:
            await change(self._store.modules, self._audit, module_key(name, version), decide)
        except StageboxError as error:
            # The revocation is in effect, so the answer is that; a damaged entry cannot be marked at all.
            log.warning("module_not_marked", module=f"{name}@{version}", error=error.message)


def _signed_by(keys: Collection[bytes], catalogue: Catalogue | None) -> list[RevokedVersion]:
    """Return every version that one of the keys signed, also those of which only that can be read."""
    if catalogue is None:
        return []
    hit = [
        RevokedVersion(entry.name, entry.version, entry.vendor_digest)
        for entry in catalogue.modules.values()
        if entry.key_id in keys
    ]
    odd = [named_by(item.key) for item in catalogue.unreadable if remains_of(item.data).key_id in keys]
    return hit + [RevokedVersion(*found, b"") for found in odd if found is not None]
