"""Changes of one entry: decided, then audited, then written by compare-and-set; and what is refused, audited too.

As :mod:`stagebox_mixer.lifecycle.audited` does it for racks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from stagebox.errors import BusError, InputError, ModuleError, StageboxError
from stagebox_mixer.audit import Row
from stagebox_mixer.lifecycle.audited import AuditLog, record_failure
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.store import Conflict, Encodable, Stored

_Entry = TypeVar("_Entry", bound=Encodable)


class Entries(Protocol[_Entry]):
    """Entries of one kind by key, each write naming the revision it read."""

    async def get(self, key: str) -> Stored[_Entry] | None:
        """Return the entry, or None."""

    async def put(self, key: str, entry: _Entry, *, revision: int | None) -> None:
        """Write the entry if it is still at ``revision``; raises ``Conflict`` if not."""

    async def delete(self, key: str, *, revision: int) -> None:
        """Remove the entry if it is still at ``revision``; raises ``Conflict`` if not."""


@dataclass(frozen=True)
class Change(Generic[_Entry]):
    """A decision: the row that must stand first, and the entry to write, None to remove it."""

    entry: _Entry | None
    row: Row


async def change(
    entries: Entries[_Entry],
    audit: AuditLog,
    key: str,
    decide: Callable[[_Entry | None], Change[_Entry] | None],
) -> _Entry | None:
    """Apply ``decide`` to the entry; None changes nothing. Return the entry as it is then.

    Raises:
        StageboxError: whatever ``decide`` raises; nothing was written.
        BusError: audit or storage cannot be used, or others keep changing the entry.
    """
    for _ in range(LIMITS.registry_attempts):
        stored = await entries.get(key)
        decision = decide(stored.entry if stored is not None else None)
        if decision is None:
            return stored.entry if stored is not None else None
        await audit.record(decision.row)
        try:
            await _write(entries, key, decision.entry, stored.revision if stored is not None else None)
        except Conflict:
            await record_failure(audit, decision.row, "conflict")
            continue
        except StageboxError:
            await record_failure(audit, decision.row, "storage")
            raise
        return decision.entry
    raise BusError(
        f"the entry {key!r} keeps changing: gave up after {LIMITS.registry_attempts} tries",
        remedy="try again in a moment",
    )


def refused(action: str, subject: str, refusal: ModuleError | InputError, actor: str) -> Row:
    """Return the row of what was refused, with the code that the API answers."""
    code = refusal.code if isinstance(refusal, ModuleError) else "invalid"
    detail: dict[str, str | int] = {"message": refusal.message[: LIMITS.refusal_message_chars]}
    return Row(actor, action, subject, "refused", code, detail)


async def _write(entries: Entries[_Entry], key: str, entry: _Entry | None, revision: int | None) -> None:
    if entry is not None:
        await entries.put(key, entry, revision=revision)
    elif revision is not None:
        await entries.delete(key, revision=revision)
