"""Import: a vendor's file becomes a module of this cluster, or it is refused and nothing has changed.

In this order: everything :mod:`stagebox_mixer.modules.judging` asks, a compilation to prove it; then the audit row, the
countersignature, the file, the registry entry. The bytes that are countersigned are the bytes that were verified.
Whatever is refused is a row with its code. Files that no entry names, those of a former countersignature and those that
a crash in between has left, are :mod:`stagebox_mixer.modules.sweeping`'s to remove.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace

import structlog

from stagebox.errors import ModuleError, StageboxError
from stagebox.modules.capabilities import Capability
from stagebox.modules.compiling import compile_module
from stagebox_keys.authority import ClusterAuthority
from stagebox_mixer.audit import Row
from stagebox_mixer.lifecycle.audited import AuditLog, record_failure
from stagebox_mixer.modules.audited import refused
from stagebox_mixer.modules.judging import Accepted, ImportOptions, Judge, held_already, usable
from stagebox_mixer.modules.model import ModuleEntry
from stagebox_mixer.modules.store import Catalogue, ModuleStore
from stagebox_mixer.modules.vendors import Vendors
from stagebox_mixer.registry.store import Conflict

log = structlog.get_logger()

Prove = Callable[[bytes], Awaitable[None]]
"""Compiles a module where that can hurt nobody; raises ``ModuleError`` if it does not compile."""


async def prove(data: bytes) -> None:
    """Compile a module in a process of its own, and throw away what comes out.

    Raises:
        ModuleError: ``does_not_compile``.
    """
    # Portable: the mixer's unit forbids memory that is written and executed, and nothing is run here.
    await asyncio.to_thread(compile_module, data, portable=True)


@dataclass(frozen=True)
class Imported:
    """The registry's entry; ``new`` is false if the same file was there already, and ``repaired`` is whether what was
    stored of it had been lost.
    """

    entry: ModuleEntry
    new: bool
    repaired: bool = False


def subject_of(data: bytes) -> str:
    """Return how audits name a file that is none of ours."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Importer:
    """Imports and countersigns. ``lock`` is held by whoever changes modules or assignments of this mixer."""

    def __init__(
        self,
        *,
        cluster: str,
        authority: ClusterAuthority,
        vendors: Vendors,
        store: ModuleStore,
        audit: AuditLog,
        prove: Prove,
        lock: asyncio.Lock,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._cluster = cluster
        self._authority = authority
        self._judge = Judge(cluster=cluster, cluster_public=authority.public, vendors=vendors, clock=clock)
        self._store = store
        self._audit = audit
        self._prove = prove
        self._lock = lock
        self._clock = clock
        self._compiling = asyncio.Lock()

    async def take(self, data: bytes, options: ImportOptions, *, actor: str) -> Imported:
        """Import a vendor's file.

        Raises:
            ModuleError: it is refused; ``code`` says why, and is in the audit. Nothing has changed.
            BusError, StorageError: the mixer cannot do it now.
        """
        try:
            await self._examine(data, options)
            # Compiling takes its time: trust may have ended, another import come between. What counts is now.
            async with self._lock:
                catalogue = await self._store.catalogue()
                accepted = await self._judge.file(data, options, catalogue)
                entry = held_already(accepted, options, catalogue)
                if entry is not None:
                    return await self._whole(entry, accepted, catalogue, actor)
                return Imported(await self._enter(accepted, options, catalogue, actor), new=True)
        except ModuleError as refusal:
            self._audit.refused(refused("module_import", subject_of(data), refusal, actor))
            raise

    async def reissue(
        self, name: str, version: str, *, actor: str, reason: str = "", serial: int | None = None
    ) -> ModuleEntry:
        """Countersign an imported version again, with the next serial or ``serial``; the caller holds no lock.

        Raises:
            ModuleError: there is no such version, it is revoked, or its vendor no longer stands for it.
            BusError, StorageError: as :meth:`take`.
        """
        async with self._lock:
            return await self.reissue_locked(name, version, actor=actor, reason=reason, serial=serial)

    async def reissue_locked(
        self, name: str, version: str, *, actor: str, reason: str = "", serial: int | None = None
    ) -> ModuleEntry:
        """As :meth:`reissue`, for a caller that holds the lock."""
        try:
            catalogue = await self._store.catalogue()
            entry = usable(catalogue, name, version)
            stored = await self._store.files.get(entry.digest)
            accepted = await self._judge.again(entry, stored, catalogue)
        except ModuleError as refusal:
            self._audit.refused(refused("module_reissue", f"{name}@{version}", refusal, actor))
            raise
        serial = serial if serial is not None else self._next_serial(catalogue, name)
        return await self._issue_again(entry, accepted, serial, actor=actor, reason=reason)

    # --- examining --------------------------------------------------------------------------------------

    async def _examine(self, data: bytes, options: ImportOptions) -> None:
        catalogue = await self._store.catalogue()
        accepted = await self._judge.file(data, options, catalogue)
        if held_already(accepted, options, catalogue) is None:
            async with self._compiling:
                await self._prove(accepted.signed.data)

    # --- changing ---------------------------------------------------------------------------------------

    async def _enter(
        self, accepted: Accepted, options: ImportOptions, catalogue: Catalogue, actor: str
    ) -> ModuleEntry:
        statement = accepted.signed.statement
        serial = self._next_serial(catalogue, statement.name)
        row = Row(actor, "module_import", accepted.title, "ok", options.reason, _facts(accepted, serial))
        await self._audit.record(row)
        try:
            file = await self._countersign(accepted, serial)
            entry = ModuleEntry(
                name=statement.name,
                version=statement.version,
                digest=await self._store.files.put(file),
                size=len(file),
                vendor_digest=accepted.digest,
                vendor_size=len(accepted.signed.data),
                vendor=accepted.signed.root.owner,
                key_id=statement.key_id,
                signer=statement.signer,
                capabilities=statement.capabilities,
                granted=accepted.granted,
                limits=accepted.limits,
                serial=serial,
                expires=accepted.expires,
                imported=self._clock(),
                imported_by=actor,
                params=accepted.signed.params,
            )
            await self._store.modules.put(entry.key, entry, revision=None)
        except StageboxError as error:
            await record_failure(self._audit, row, _code_of(error))
            raise
        log.info("module_imported", module=entry.title, vendor=entry.vendor, serial=serial)
        return entry

    async def _countersign(self, accepted: Accepted, serial: int) -> bytes:
        return await asyncio.to_thread(
            self._authority.countersign,
            accepted.signed.data,
            cluster=self._cluster,
            granted=accepted.granted,
            limits=accepted.limits,
            serial=serial,
            issued=self._clock(),
            expires=accepted.expires,
        )

    async def _issue_again(
        self, entry: ModuleEntry, accepted: Accepted, serial: int, *, actor: str, reason: str
    ) -> ModuleEntry:
        """Put another countersignature of the same vendor's file in force."""
        granted, limits = accepted.granted, accepted.limits
        facts: dict[str, str | int] = {"serial": serial, "before": entry.serial, "granted": _words(granted)}
        row = Row(actor, "module_reissue", entry.title, "ok", reason, facts)
        await self._audit.record(row)
        try:
            file = await self._countersign(accepted, serial)
            digest = await self._store.files.put(file)
            stored = await self._store.modules.get(entry.key)
            if stored is None or stored.entry != entry:
                raise Conflict(f"{entry.title} was changed by somebody else meanwhile")
            after = replace(
                entry,
                digest=digest,
                size=len(file),
                serial=serial,
                granted=granted,
                limits=limits,
                expires=accepted.expires,
            )
            await self._store.modules.put(entry.key, after, revision=stored.revision)
        except StageboxError as error:
            await record_failure(self._audit, row, _code_of(error))
            raise
        return after

    async def _whole(
        self, entry: ModuleEntry, accepted: Accepted, catalogue: Catalogue, actor: str
    ) -> Imported:
        """Return an entry that was there already; if its file was lost, this is the way to have it again."""
        try:
            await self._store.files.check(entry.digest)
        except ModuleError as error:
            serial = self._next_serial(catalogue, entry.name)
            kept = replace(accepted, granted=entry.granted, limits=entry.limits)
            again = await self._issue_again(
                entry, kept, serial, actor=actor, reason=f"file lost: {error.code}"
            )
            return Imported(again, new=False, repaired=True)
        return Imported(entry, new=False)

    def _next_serial(self, catalogue: Catalogue, name: str) -> int:
        return max((self._clock(), *(entry.serial + 1 for entry in catalogue.versions(name))))


def _facts(accepted: Accepted, serial: int) -> dict[str, str | int]:
    statement, root = accepted.signed.statement, accepted.signed.root
    return {
        "sha256": accepted.digest.hex(),
        "bytes": len(accepted.signed.data),
        "vendor": root.owner,
        "key_id": statement.key_id.hex(),
        "granted": _words(accepted.granted),
        "serial": serial,
    }


def _words(capabilities: Collection[Capability]) -> str:
    return ",".join(capability.value for capability in capabilities)


def _code_of(error: StageboxError) -> str:
    if isinstance(error, ModuleError):
        return error.code
    return "conflict" if isinstance(error, Conflict) else "storage"
