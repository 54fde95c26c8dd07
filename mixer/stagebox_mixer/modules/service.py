"""Modules as the rest of the mixer uses them: what the API asks for, what racks ask for, and what follows from either.

When some rack may have to run something else, every connected, active rack that it is about gets its new sheet at once;
the others ask when they connect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

import structlog

from stagebox.bus import BusClient
from stagebox.control.denylist import DenyList
from stagebox.control.request import Verb
from stagebox.errors import BusError, DecodeError, StageboxError
from stagebox.passport import PassportStatus
from stagebox.records.status import Status
from stagebox.tasks import end_tasks
from stagebox_keys.mixer_keys import MixerKeys
from stagebox_mixer.connections import LiveConnection
from stagebox_mixer.lifecycle.audited import AuditLog
from stagebox_mixer.lifecycle.refusals import LifecycleRefused, check_not_denied
from stagebox_mixer.modules.answering import ModuleAnswers
from stagebox_mixer.modules.assigning import Wanted, matches
from stagebox_mixer.modules.assignments import Assigner
from stagebox_mixer.modules.delivery import Commands, SheetDelivery
from stagebox_mixer.modules.importing import Imported, Importer, Prove
from stagebox_mixer.modules.judging import ImportOptions
from stagebox_mixer.modules.model import Assignment, ModuleEntry
from stagebox_mixer.modules.remains import SignedFiles
from stagebox_mixer.modules.revoking import Revoked, Revoker
from stagebox_mixer.modules.sheets import Sheets
from stagebox_mixer.modules.store import Catalogue, ModuleStore
from stagebox_mixer.modules.sweeping import Sweeper
from stagebox_mixer.modules.vendors import ListedVendor, Vendors
from stagebox_mixer.modules.watching import FaultWatch
from stagebox_mixer.registry.model import RackEntry
from stagebox_mixer.registry.store import Registry
from stagebox_mixer.requests import Handler

log = structlog.get_logger()


class Denials(Protocol):
    """The deny list."""

    async def read(self) -> DenyList:
        """Return the list in force."""

    async def deny(self, kind: str, value: str, *, reason: str, actor: str) -> DenyList:
        """Ban, and tell everybody."""


class Connections(Protocol):
    """Who is connected."""

    async def live(self, user: str | None = None) -> Collection[LiveConnection]:
        """Return every connection of racks and clients."""


class ModuleService:
    """``store`` is the mixer's own user on the bus, ``live`` that of ``credentials.live_user``."""

    def __init__(
        self,
        *,
        keys: MixerKeys,
        vendor_keys: Path,
        store: BusClient,
        live: BusClient,
        registry: Registry,
        denials: Denials,
        audit: AuditLog,
        commands: Commands,
        connections: Connections,
        prove: Prove,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        cluster, authority, lock = keys.cluster.name, keys.authority, asyncio.Lock()
        self._registry = registry
        self._denials = denials
        self._connections = connections
        self._vendors = Vendors(vendor_keys)
        self._store = ModuleStore(lambda: store.js, denials)
        self._sheets = Sheets(
            cluster=cluster, authority=authority, catalogue=self._store.catalogue, clock=clock
        )
        self._importer = Importer(
            cluster=cluster, authority=authority, vendors=self._vendors, store=self._store, audit=audit,
            prove=prove, lock=lock, clock=clock,
        )  # fmt: skip
        self._sweeper = Sweeper(self._store, lock)
        self._assigner = Assigner(
            store=self._store, importer=self._importer, racks=registry, audit=audit, lock=lock, clock=clock
        )
        self._revoker = Revoker(
            store=self._store, vendors=self._vendors, bans=denials, audit=audit, clock=clock,
            signed=SignedFiles(self._store.files, cluster, authority.public),
        )  # fmt: skip
        self._answers = ModuleAnswers(
            cluster=cluster, authority=authority, racks=registry, denials=denials, audit=audit,
            store=self._store, sheets=self._sheets, clock=clock,
        )  # fmt: skip
        self.delivery = SheetDelivery(commands, self._sheets)
        self.watch = FaultWatch(live, self._sheets, self._assigner.roll_back)
        self._pushes: set[asyncio.Task[None]] = set()
        self._assigner.changed = self._revoker.changed = self.push

    async def start(self) -> None:
        """Begin to hear alerts.

        Raises:
            BusError: the server does not let us.
        """
        self._vendors.all()  # says in the log whom it trusts
        await self.watch.start()

    async def stop(self) -> None:
        """End what is under way; racks ask for their sheets when they next connect."""
        await self.watch.stop()
        await end_tasks(self._pushes)
        await self.delivery.stop()

    async def run(self) -> None:
        """Take failed versions back, and remove files that nothing needs, as long as the mixer runs."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.watch.run(), name="module-watch")
            group.create_task(self._sweeper.run(), name="module-sweep")

    # --- racks ------------------------------------------------------------------------------------------

    @property
    def handlers(self) -> Mapping[Verb, Handler]:
        """What racks may ask of modules."""
        return {Verb.PATCH: self._answers.patch, Verb.MODULE: self._answers.module}

    def heard(self, rack: str, status: Status) -> None:
        """Take a heartbeat."""
        self.watch.heard(rack, status)

    # --- operators --------------------------------------------------------------------------------------

    async def catalogue(self) -> Catalogue:
        """Return all modules and assignments.

        Raises:
            BusError: they cannot be read.
        """
        return await self._store.catalogue()

    def vendors(self) -> tuple[ListedVendor, ...]:
        """Return the files of the directory of trusted vendors."""
        return self._vendors.all()

    async def import_module(self, data: bytes, options: ImportOptions, *, actor: str) -> Imported:
        """Import a vendor's file; see :meth:`Importer.take`."""
        imported = await self._importer.take(data, options, actor=actor)
        if imported.repaired:
            await self._raised(imported.entry.name, actor)
        return imported

    async def reissue(self, name: str, version: str, *, actor: str, reason: str = "") -> ModuleEntry:
        """Countersign a version again; see :meth:`Importer.reissue`. Racks that run it get the new file."""
        entry = await self._importer.reissue(name, version, actor=actor, reason=reason)
        await self._raised(name, actor)
        return entry

    async def revoke_module(self, name: str, version: str, *, reason: str, actor: str) -> Revoked:
        """Revoke a version everywhere; see :meth:`Revoker.module`."""
        return await self._revoker.module(name, version, reason=reason, actor=actor)

    async def revoke_vendor(self, vendor: str, *, reason: str, actor: str) -> Revoked:
        """Revoke all of a vendor's modules everywhere; see :meth:`Revoker.vendor`."""
        return await self._revoker.vendor(vendor, reason=reason, actor=actor)

    async def assign(
        self, wanted: Wanted, *, actor: str, name: str | None = None, reason: str = ""
    ) -> Assignment:
        """Make or change an assignment; see :meth:`Assigner.assign`."""
        return await self._assigner.assign(wanted, actor=actor, name=name, reason=reason)

    async def unassign(self, name: str, *, actor: str, reason: str = "") -> None:
        """Remove an assignment; see :meth:`Assigner.unassign`."""
        await self._assigner.unassign(name, actor=actor, reason=reason)

    # --- sheets -----------------------------------------------------------------------------------------

    def push(self, assignments: Collection[Assignment]) -> None:
        """Bring every connected rack that these are about its new sheet, in the background."""
        if not assignments:
            return
        task = asyncio.create_task(self._push(tuple(assignments)), name="push-patches")
        self._pushes.add(task)
        task.add_done_callback(self._pushes.discard)

    async def _raised(self, name: str, actor: str) -> None:
        """A version of a module has a higher serial than before: see that racks have all that they run."""
        await self._assigner.level(name, actor=actor)
        catalogue = await self._store.catalogue()
        self.push([item for item in catalogue.assignments if item.module == name])

    async def _push(self, assignments: tuple[Assignment, ...]) -> None:
        try:
            denied = await self._denials.read()
            racks = [
                entry
                for entry in await self._registry.all_racks()
                if _admissible(entry, denied) and any(matches(item, entry.name) for item in assignments)
            ]
            connected = await self._connected()
        except StageboxError as error:
            # They get it when they next ask, which is within minutes.
            log.error("patches_not_pushed", error=error.message)
            return
        for entry in racks:
            if connected is None or f"rack:{entry.name}" in connected:
                self.delivery.deliver(entry.name)

    async def _connected(self) -> set[str] | None:
        """Return who is connected; None if the servers do not say, and then all are taken to be."""
        try:
            return {connection.user for connection in await self._connections.live()}
        except (BusError, DecodeError) as error:
            log.warning("connections_unknown", error=error.message)
            return None


def _admissible(entry: RackEntry, denied: DenyList) -> bool:
    if entry.removed_at or entry.status is not PassportStatus.ACTIVE:
        return False
    try:
        check_not_denied(denied, entry.name, entry)
    except LifecycleRefused:
        return False
    return True
