"""Import: a vendor's file becomes a module of this cluster, or it is refused and nothing has changed.

In this order: size, vendor's signature and everything it says, deny list, name and version against what is there, what
it imports against what it is granted, a compilation to prove it; then the audit row, the countersignature, the file,
the registry entry. The bytes that are countersigned are the bytes that were verified. Whatever is refused is a row with
its code. Files that no entry names, left by a crash in between, do no harm: nothing refers to them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace

import structlog

from stagebox.control.denylist import DenyList
from stagebox.errors import ModuleError, StageboxError
from stagebox.modules.capabilities import Capability
from stagebox.modules.compiling import compile_module
from stagebox.modules.interface import check_interface, read_interface
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.statement import ClusterStatement, ModuleLimits, in_order
from stagebox.modules.verification import Signed, VendorTrust, verify_countersigned, verify_vendor
from stagebox_keys.authority import ClusterAuthority
from stagebox_mixer.audit import Row
from stagebox_mixer.lifecycle.audited import AuditLog, record_failure
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.model import ModuleEntry
from stagebox_mixer.modules.store import Catalogue, ModuleStore
from stagebox_mixer.modules.vendors import Vendors
from stagebox_mixer.modules.versions import Precedence
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
class ImportOptions:
    """What an admin says on importing: fewer capabilities than asked for, other limits, an older version."""

    granted: tuple[Capability, ...] | None = None
    limits: ModuleLimits | None = None
    allow_older: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Imported:
    """The registry's entry; ``new`` is false if the same file was there already, and ``repaired`` is whether what was
    stored of it had been lost.
    """

    entry: ModuleEntry
    new: bool
    repaired: bool = False


@dataclass(frozen=True)
class _Accepted:
    """A verified file with what it is granted."""

    signed: Signed = field(repr=False)
    digest: bytes
    granted: tuple[Capability, ...]
    limits: ModuleLimits

    @property
    def title(self) -> str:
        return f"{self.signed.statement.name}@{self.signed.statement.version}"

    @property
    def expires(self) -> int:
        """The end of the countersignature: no vendor signs for longer than it is trusted."""
        return min(self.signed.statement.expires, self.signed.root.not_after)


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
        self._vendors = vendors
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
                accepted = await self._judged(data, options, catalogue)
                held = _held(accepted, options, catalogue)
                if held is not None:
                    return await self._whole(held, accepted, catalogue, actor)
                return Imported(await self._enter(accepted, options, catalogue, actor), new=True)
        except ModuleError as refusal:
            self._refused("module_import", f"sha256:{hashlib.sha256(data).hexdigest()}", refusal, actor)
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
            entry = _known(catalogue, name, version)
            file, own = await self._own_file(entry)
            trust = self._vendors.under(catalogue.denied)
            signed = await asyncio.to_thread(self._verify, file, trust, catalogue.denied)
        except ModuleError as refusal:
            self._refused("module_reissue", f"{name}@{version}", refusal, actor)
            raise
        serial = serial if serial is not None else self._next_serial(catalogue, name)
        accepted = _Accepted(signed, entry.vendor_digest, own.granted, own.limits)
        return await self._issue_again(entry, accepted, serial, actor=actor, reason=reason)

    # --- examining --------------------------------------------------------------------------------------

    async def _examine(self, data: bytes, options: ImportOptions) -> None:
        if len(data) > FORMAT.max_module_bytes:
            raise ModuleError(
                "too_large", f"the file has {len(data)} bytes, at most {FORMAT.max_module_bytes} are allowed"
            )
        catalogue = await self._store.catalogue()
        accepted = await self._judged(data, options, catalogue)
        if _held(accepted, options, catalogue) is None:
            async with self._compiling:
                await self._prove(accepted.signed.data)

    async def _judged(self, data: bytes, options: ImportOptions, catalogue: Catalogue) -> _Accepted:
        trust = self._vendors.under(catalogue.denied)
        return await asyncio.to_thread(self._judge, data, options, trust, catalogue.denied)

    def _judge(self, data: bytes, options: ImportOptions, trust: VendorTrust, denied: DenyList) -> _Accepted:
        """Verify everything that needs no registry. Takes some milliseconds a megabyte."""
        signed = self._verify(data, trust, denied)
        asked = signed.statement.capabilities
        granted = asked if options.granted is None else in_order(options.granted)
        beyond = sorted(set(granted) - set(asked))
        if beyond:
            raise ModuleError("capability_not_allowed", f"the module does not ask for {beyond[0].value!r}")
        limits = (options.limits if options.limits is not None else LIMITS.module_limits).check()
        check_interface(read_interface(signed.data, signed.sections), granted, limits, signed.params)
        return _Accepted(signed, signed.digest, granted, limits)

    def _verify(self, data: bytes, trust: VendorTrust, denied: DenyList) -> Signed:
        signed = verify_vendor(data, trust, now_ns=self._clock(), cluster_public=self._authority.public)
        if denied.matches_module((signed.digest,), (signed.statement.key_id,)) is not None:
            raise ModuleError(
                "denied", f"{signed.statement.name!r} {signed.statement.version} is revoked here"
            )
        return signed

    async def _own_file(self, entry: ModuleEntry) -> tuple[bytes, ClusterStatement]:
        """Return the vendor's file and what we said of it: the registry is not signed, what it grants is a hint."""
        found = await asyncio.to_thread(
            verify_countersigned, await self._store.files.get(entry.digest),
            cluster=self._cluster, cluster_public=self._authority.public, now_ns=self._clock(),
        )  # fmt: skip
        own = found.cluster.statement
        if (own.name, own.version) != (entry.name, entry.version):
            raise ModuleError("wrong_module_version", f"the stored file of {entry.title} is another module's")
        if own.sha256 != entry.vendor_digest:
            raise ModuleError("wrong_digest", f"the stored file of {entry.title} is not of the vendor's file")
        return found.data[: own.covered], found.cluster

    # --- changing ---------------------------------------------------------------------------------------

    async def _enter(
        self, accepted: _Accepted, options: ImportOptions, catalogue: Catalogue, actor: str
    ) -> ModuleEntry:
        statement, serial = (
            accepted.signed.statement,
            self._next_serial(catalogue, accepted.signed.statement.name),
        )
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

    async def _countersign(self, accepted: _Accepted, serial: int) -> bytes:
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
        self, entry: ModuleEntry, accepted: _Accepted, serial: int, *, actor: str, reason: str
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
        self, entry: ModuleEntry, accepted: _Accepted, catalogue: Catalogue, actor: str
    ) -> Imported:
        """Return an entry that was there already; if its file was lost, this is the way to have it again."""
        try:
            await self._store.files.check(entry.digest)
        except ModuleError as error:
            serial = self._next_serial(catalogue, entry.name)
            held = replace(accepted, granted=entry.granted, limits=entry.limits)
            again = await self._issue_again(
                entry, held, serial, actor=actor, reason=f"file lost: {error.code}"
            )
            return Imported(again, new=False, repaired=True)
        return Imported(entry, new=False)

    def _next_serial(self, catalogue: Catalogue, name: str) -> int:
        return max((self._clock(), *(entry.serial + 1 for entry in catalogue.versions(name))))

    def _refused(self, action: str, subject: str, refusal: ModuleError, actor: str) -> None:
        detail: dict[str, str | int] = {"message": refusal.message[: LIMITS.refusal_message_chars]}
        self._audit.refused(Row(actor, action, subject, "refused", refusal.code, detail))


def _held(accepted: _Accepted, options: ImportOptions, catalogue: Catalogue) -> ModuleEntry | None:
    """Return the entry if the same file is there already, None if it may be entered.

    Raises:
        ModuleError: the name is another vendor's, the version is taken or too old, or there are too many.
    """
    statement = accepted.signed.statement
    versions = catalogue.versions(statement.name)
    foreign = next((entry for entry in versions if entry.vendor != accepted.signed.root.owner), None)
    if foreign is not None:
        raise ModuleError(
            "name_taken",
            f"{statement.name!r} is a module of vendor {foreign.vendor!r}, not of {accepted.signed.root.owner!r}",
            remedy="have it named otherwise; narrow the names of each vendor in its root file",
        )
    held = catalogue.module(statement.name, statement.version)
    if held is not None:
        return _same(held, accepted, options, catalogue)
    newest = max(versions, key=lambda entry: Precedence(entry.version), default=None)
    if (
        newest is not None
        and Precedence(statement.version) < Precedence(newest.version)
        and not options.allow_older
    ):
        raise ModuleError(
            "older_version",
            f"{accepted.title} is older than {newest.title}, which is here already",
            remedy="say --allow-older if that is meant",
        )
    if len(catalogue.modules) >= LIMITS.modules:
        raise ModuleError(
            "too_many_modules", f"the registry holds {len(catalogue.modules)} modules and is full"
        )
    return None


def _same(
    held: ModuleEntry, accepted: _Accepted, options: ImportOptions, catalogue: Catalogue
) -> ModuleEntry:
    if held.vendor_digest != accepted.digest:
        raise ModuleError(
            "version_exists",
            f"another file was imported as {held.title}",
            remedy="give the new one a version of its own",
        )
    if catalogue.revoked(held):
        raise ModuleError("revoked", f"{held.title} is revoked: {held.revoked_reason or 'see the deny list'}")
    granted = options.granted is not None and accepted.granted != held.granted
    limits = options.limits is not None and accepted.limits != held.limits
    if granted or limits:
        raise ModuleError(
            "already_imported",
            f"{held.title} was imported with other {'capabilities' if granted else 'limits'}",
            remedy="import a new version with them",
        )
    return held


def _known(catalogue: Catalogue, name: str, version: str) -> ModuleEntry:
    entry = catalogue.module(name, version)
    if entry is None:
        raise ModuleError("unknown_module", f"no module {name}@{version} was imported")
    if catalogue.revoked(entry):
        raise ModuleError(
            "revoked", f"{entry.title} is revoked", remedy="revocations are final: import a fixed version"
        )
    return entry


def _facts(accepted: _Accepted, serial: int) -> dict[str, str | int]:
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
