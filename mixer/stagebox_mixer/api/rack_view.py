"""A rack as the API shows it: no secrets, times in ns under names that say so. Pure.

``certificate_not_after`` and ``enrolled_at`` are the names the first release gave two of them; they stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stagebox.control.denylist import Denied, DenyList
from stagebox_mixer.denial.record import Note, note_key
from stagebox_mixer.lake.state import JournalState
from stagebox_mixer.presence.roll import Presence
from stagebox_mixer.registry.model import PendingIssue, RackEntry

REMOVED = "removed"
_OWN = frozenset({"state", "time_ns", "boot"})


def status_of(entry: RackEntry) -> str:
    """Return the registry's status, or ``removed``."""
    return REMOVED if entry.removed_at else entry.status.value


def ban_on(entry: RackEntry, deny: DenyList) -> Denied | None:
    """Return the ban that hits this rack by name, machine or either of its certificates, or None."""
    certificates = [entry.certificate]
    if entry.pending is not None:
        certificates.append(entry.pending.certificate)
    return deny.matches(rack=entry.name, machine_id=entry.machine_id, certificates=certificates)


def rack_view(entry: RackEntry, deny: DenyList, notes: Mapping[str, Note]) -> dict[str, Any]:
    """Return one rack."""
    banned = ban_on(entry, deny)
    return {
        "name": entry.name,
        "tenant": entry.tenant,
        "status": status_of(entry),
        "denied": ban_view(banned, notes) if banned is not None else None,
        "machine_id": f"{entry.machine_id:016x}",
        "public_key": entry.rack_public.hex(),
        "serial": entry.serial,
        "certificate": entry.certificate,
        "certificate_not_after": entry.certificate_not_after,
        "certificate_not_after_ns": entry.certificate_not_after,
        "passport_not_after_ns": entry.passport_not_after or None,
        "enrolled_at": entry.enrolled_at,
        "enrolled_at_ns": entry.enrolled_at,
        "removed_at_ns": entry.removed_at or None,
        "renewal": entry.renewal,
        "problem": entry.problem,
        "grace_uses": entry.grace_uses,
        "command_seq": entry.command_seq,
        "pending": _pending_view(entry.pending) if entry.pending is not None else None,
    }


def ban_view(banned: Denied, notes: Mapping[str, Note]) -> dict[str, Any]:
    """Return one ban with what was noted for people; a list taken back from a rack has no notes."""
    note = notes.get(note_key(banned))
    return {
        "kind": banned.kind.value,
        "value": banned.value,
        "since_ns": banned.since,
        "reason": note.reason if note is not None else "",
        "actor": note.actor if note is not None else "",
    }


def presence_view(presence: Presence) -> dict[str, Any]:
    """Return whether a rack is there and how long ago it was heard."""
    heartbeat = presence.heartbeat
    return {
        "state": presence.state.value,
        "age_s": round(presence.age_s, 3) if presence.age_s is not None else None,
        "last_seen_ns": heartbeat.received_ns if heartbeat is not None else None,
    }


def heartbeat_view(presence: Presence) -> dict[str, Any] | None:
    """Return the latest heartbeat as JSON can hold it, None if there was none."""
    heartbeat = presence.heartbeat
    if heartbeat is None:
        return None
    return {
        "state": heartbeat.state,
        "time_ns": heartbeat.time_ns,
        "boot": heartbeat.boot.hex(),
        **{name: json_value(value) for name, value in heartbeat.body.items() if name not in _OWN},
    }


def json_value(value: Any, depth: int = 8) -> Any:
    """Return what a rack said as JSON can hold it: bytes as hexadecimal, what is no number as null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if depth and isinstance(value, dict):
        return {str(name): json_value(item, depth - 1) for name, item in value.items()}
    if depth and isinstance(value, list | tuple):
        return [json_value(item, depth - 1) for item in value]
    return None


def journal_view(row: JournalState) -> dict[str, Any]:
    """Return what the lake has of one journal."""
    return {
        "journal": row.journal.hex(),
        "last": row.last,
        "records": row.records,
        "batches": row.batches,
        "checkpoints": row.checkpoints,
        "proved": row.proved,
        "rejected": row.rejected,
        "missing": row.missing,
    }


def _pending_view(issue: PendingIssue) -> dict[str, Any]:
    return {
        "serial": issue.serial,
        "public_key": issue.rack_public.hex(),
        "certificate": issue.certificate,
        "certificate_not_after_ns": issue.certificate_not_after,
        "passport_not_after_ns": issue.passport_not_after,
        "issued_at_ns": issue.issued_at,
    }
