"""The parts of the mixer that the API speaks to, as narrow as it uses them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from stagebox.audit_chain import Head
from stagebox.control.command import Ack
from stagebox.control.denylist import DenyList
from stagebox_mixer.audit import Row, StoredRow
from stagebox_mixer.connections import LiveConnection
from stagebox_mixer.denial.record import Note
from stagebox_mixer.listening.service import Granted
from stagebox_mixer.modules.assigning import Wanted
from stagebox_mixer.modules.importing import Imported
from stagebox_mixer.modules.judging import ImportOptions
from stagebox_mixer.modules.model import Assignment, ModuleEntry
from stagebox_mixer.modules.revoking import Revoked
from stagebox_mixer.modules.store import Catalogue
from stagebox_mixer.modules.vendors import ListedVendor
from stagebox_mixer.presence.roll import Presence
from stagebox_mixer.registry.model import RackEntry


class Lifecycle(Protocol):
    """The steps of an identity's life (``lifecycle.LifecycleService``)."""

    async def renew(self, data: bytes, *, via: str, host: str) -> bytes:
        """Answer a request envelope with an answer envelope, refusals too."""

    async def approve(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        """Let a pending rack in."""

    async def suspend(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        """Leave a rack connected and let it do nothing."""

    async def activate(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        """End a suspension."""

    async def rotate_secret(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        """Issue a new passport secret; the old one holds until the rack has proved the new one."""

    async def remove(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        """Take a rack out of the registry."""


class Denials(Protocol):
    """The deny list (``denial.Denials``)."""

    async def read(self) -> DenyList:
        """Return the list in effect."""

    async def notes(self) -> Mapping[str, Note]:
        """Return ``kind:value`` → reason, actor and time, for people."""

    async def check(
        self, *, rack: str | None = None, machine_id: int | None = None, certificates: Iterable[str] = ()
    ) -> None:
        """Raise an error with code ``denied`` if any of these is banned."""

    async def deny(self, kind: str, value: str, *, reason: str, actor: str) -> DenyList:
        """Ban."""

    async def clear(self, kind: str, value: str, *, actor: str, reason: str = "") -> DenyList:
        """Lift a ban."""


class Enforcement(Protocol):
    """Ends connections that must not be there (``admission.enforcement.Enforcer``)."""

    async def enforce(self, rack: str | None = None) -> int:
        """Look now, and return how many connections this look ended."""


class Connections(Protocol):
    """What is connected to the cluster's servers (``connections.Connections``)."""

    async def live(self, user: str | None = None) -> Sequence[LiveConnection]:
        """Return every connection of the account of racks and clients, or those of one user."""


class Commands(Protocol):
    """Signed commands (``commands.Commands``)."""

    async def send(
        self,
        rack: str,
        verb: str,
        args: Mapping[str, Any] | None = None,
        *,
        actor: str,
        ttl_s: float | None = None,
    ) -> Ack:
        """Send one and return the rack's verified ack."""


class AuditReader(Protocol):
    """Reads stored rows (``audit.AuditReader``)."""

    async def last(self) -> int:
        """Return the number of the newest row, 0 if there is none."""

    async def page(self, after: int, limit: int) -> Sequence[StoredRow]:
        """Return up to ``limit`` rows with sequences above ``after``, oldest first."""


class Audit(Protocol):
    """Writes rows (``audit.Audit``)."""

    async def record(self, row: Row) -> int:
        """Record a row durably; return its sequence."""

    def refused(self, row: Row) -> None:
        """Record a refusal; floods are folded into counts."""

    def head(self) -> Head:
        """Return number and hash of the newest row this mixer knows."""

    def witness(self) -> Head | None:
        """Return the head noted outside the stream, None if there is none."""


class Listening(Protocol):
    """Leases on monitor buses (``listening.service.Listening``)."""

    async def listen(self, rack: str, bus: str, ttl_s: int, caller: str, lease: str | None = None) -> Granted:
        """Give or renew a lease."""

    async def release(self, rack: str, bus: str, lease: str, caller: str) -> None:
        """End one."""


class Presences(Protocol):
    """Which racks are there (``presence.service.PresenceService``)."""

    def of(self, rack: str) -> Presence:
        """Whether a rack is there now."""


class Modules(Protocol):
    """Wasm modules and where they run (``modules.service.ModuleService``)."""

    async def catalogue(self) -> Catalogue:
        """Return all modules and assignments."""

    def vendors(self) -> Sequence[ListedVendor]:
        """Return the files of the directory of trusted vendors."""

    async def import_module(self, data: bytes, options: ImportOptions, *, actor: str) -> Imported:
        """Import a vendor's file."""

    async def reissue(self, name: str, version: str, *, actor: str, reason: str = "") -> ModuleEntry:
        """Countersign a version again."""

    async def revoke_module(self, name: str, version: str, *, reason: str, actor: str) -> Revoked:
        """Revoke a version everywhere."""

    async def revoke_vendor(self, vendor: str, *, reason: str, actor: str) -> Revoked:
        """Revoke everything a vendor signed."""

    async def assign(
        self, wanted: Wanted, *, actor: str, name: str | None = None, reason: str = ""
    ) -> Assignment:
        """Make or change an assignment."""

    async def unassign(self, name: str, *, actor: str, reason: str = "") -> None:
        """Remove an assignment."""
