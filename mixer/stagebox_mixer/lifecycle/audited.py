"""Changes of a rack's registry entry: decided, then audited, then written by compare-and-set.

The row is durable before the entry changes. If somebody else changed the entry in between, a row ``failed`` says
so and the change is decided anew on what is there now. If the storage fails, the row ``failed`` is tried too; the
entry then is what the registry says it is when it can be read again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import structlog

from stagebox.errors import BusError, StageboxError
from stagebox_mixer.audit import Row
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import RackEntry, TokenEntry
from stagebox_mixer.registry.store import Conflict, Stored

log = structlog.get_logger()

_Entry = TypeVar("_Entry", RackEntry, TokenEntry)


class Entries(Protocol[_Entry]):
    """Entries of one kind by key, each write naming the revision it read."""

    async def get(self, key: str) -> Stored[_Entry] | None:
        """Return the entry, or None."""

    async def put(self, key: str, entry: _Entry, *, revision: int | None) -> None:
        """Write the entry if it is still at ``revision``; raises ``Conflict`` if not."""

    async def keys(self) -> list[str]:
        """Return all keys."""


class RackRegistry(Protocol):
    """Where racks and tokens are kept."""

    @property
    def racks(self) -> Entries[RackEntry]:
        """Racks by name."""

    @property
    def tokens(self) -> Entries[TokenEntry]:
        """Tokens by hash."""


class AuditLog(Protocol):
    """Where rows go."""

    async def record(self, row: Row) -> object:
        """Write a row durably, or raise."""

    def refused(self, row: Row) -> None:
        """Write a refusal without waiting; repeats are counted."""


@dataclass(frozen=True)
class Change:
    """A decision: the entry to write and the row that must stand before it."""

    entry: RackEntry
    row: Row


class AuditedRacks:
    """Writes racks, each write behind its audit row."""

    def __init__(self, racks: Entries[RackEntry], audit: AuditLog) -> None:
        self._racks = racks
        self._audit = audit

    async def get(self, name: str) -> RackEntry | None:
        """Return the entry, a removed rack's too, or None."""
        stored = await self._racks.get(name)
        return stored.entry if stored is not None else None

    async def change(self, name: str, decide: Callable[[RackEntry | None], Change | RackEntry]) -> RackEntry:
        """Apply ``decide`` to the entry; it returns a change, or an entry as it is if nothing is to be written.

        Raises:
            StageboxError: whatever ``decide`` raises; nothing was written.
            BusError: audit or registry cannot be used, or others keep changing the entry.
        """
        for _ in range(LIMITS.registry_attempts):
            stored = await self._racks.get(name)
            decision = decide(stored.entry if stored is not None else None)
            if isinstance(decision, RackEntry):
                return decision
            await self._audit.record(decision.row)
            try:
                await self._racks.put(
                    name, decision.entry, revision=stored.revision if stored is not None else None
                )
            except Conflict:
                await record_failure(self._audit, decision.row, "conflict")
                continue
            except StageboxError:
                await record_failure(self._audit, decision.row, "storage")
                raise
            return decision.entry
        raise BusError(
            f"the registry entry of rack {name!r} keeps changing: gave up after {LIMITS.registry_attempts} tries",
            remedy="try again in a moment",
        )


async def record_failure(audit: AuditLog, row: Row, reason: str) -> None:
    """Say after ``row`` that it did not take effect; if that cannot be written either, the log has it."""
    try:
        await audit.record(replace(row, result="failed", reason=reason))
    except StageboxError as error:
        log.error("audit_write_failed", action=row.action, subject=row.subject, error=error.message)
