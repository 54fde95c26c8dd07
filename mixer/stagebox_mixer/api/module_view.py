"""Modules, assignments and vendors as the API shows them: digests in hexadecimal, times in ns. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from stagebox_mixer.modules.assigning import runs_on
from stagebox_mixer.modules.model import Assignment, ModuleEntry, named_by
from stagebox_mixer.modules.store import Catalogue
from stagebox_mixer.modules.vendors import ListedVendor
from stagebox_mixer.registry.store import Unreadable


def module_view(entry: ModuleEntry, catalogue: Catalogue) -> dict[str, Any]:
    """Return one version of a module."""
    return {
        "name": entry.name,
        "version": entry.version,
        "revoked": catalogue.revoked(entry),
        "revoked_at_ns": entry.revoked_at or None,
        "revoked_by": entry.revoked_by,
        "revoked_reason": entry.revoked_reason,
        "digest": entry.digest.hex(),
        "size": entry.size,
        "vendor_digest": entry.vendor_digest.hex(),
        "vendor": entry.vendor,
        "key_id": entry.key_id.hex(),
        "signer": entry.signer,
        "capabilities": [item.value for item in entry.capabilities],
        "granted": [item.value for item in entry.granted],
        "limits": asdict(entry.limits),
        "serial": entry.serial,
        "expires_ns": entry.expires,
        "imported_at_ns": entry.imported,
        "imported_by": entry.imported_by,
        "params": [asdict(param) for param in entry.params],
    }


def unreadable_view(item: Unreadable) -> dict[str, Any]:
    """Return what stands where an entry should be; ``name`` and ``version`` are null if its key is no version's."""
    name, version = named_by(item.key) or (None, None)
    return {"key": item.key, "name": name, "version": version, "problem": item.problem}


def assignment_view(assignment: Assignment, racks: Iterable[str]) -> dict[str, Any]:
    """Return one assignment; ``on`` says what those of ``racks`` run by it that it is for."""
    running = ((rack, runs_on(assignment, rack)) for rack in racks)
    return {
        "id": assignment.id,
        "module": assignment.module,
        "version": assignment.version,
        "previous": assignment.previous,
        "percent": assignment.percent,
        "racks": list(assignment.racks),
        "point": assignment.point.value,
        "source": assignment.source,
        "bus": assignment.bus,
        "params": dict(assignment.params),
        "state": assignment.state.value,
        "reason": assignment.reason,
        "by": assignment.by,
        "created_ns": assignment.created,
        "changed_ns": assignment.time,
        "on": [{"rack": rack, "version": found[0]} for rack, found in running if found is not None],
    }


def vendor_view(vendor: ListedVendor, catalogue: Catalogue) -> dict[str, Any]:
    """Return one file of the directory of trusted vendors; without a root if it cannot be used."""
    root = vendor.root
    if root is None:
        return {"file": vendor.file, "problem": vendor.problem, "owner": None}
    denied = catalogue.denied.matches_module((), (root.key_id,)) is not None
    return {
        "file": vendor.file,
        "problem": vendor.problem,
        "owner": root.owner,
        "key_id": root.key_id.hex(),
        "public_key": root.public.hex(),
        "not_before_ns": root.not_before,
        "not_after_ns": root.not_after,
        "capabilities": [item.value for item in root.capabilities],
        "modules": list(root.modules),
        "revoked": root.revoked or denied,
        "reason": root.reason,
    }
