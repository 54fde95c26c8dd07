"""Who is refused before anything else is looked at: strangers, removed racks, the banned."""

from __future__ import annotations

from stagebox.control.denylist import DenyList
from stagebox.errors import VerificationError
from stagebox_mixer.registry.model import RackEntry

NEW_TOKEN = "make a token: stagebox admin token create --rack"  # noqa: S105 - a remedy


class LifecycleRefused(VerificationError):
    """A rack's request is refused; ``code`` goes to the audit and into the signed answer."""

    def __init__(self, code: str, message: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


def check_not_denied(
    bans: DenyList,
    rack: str,
    entry: RackEntry | None,
    *,
    machine_id: int | None = None,
    certificate: str = "",
) -> None:
    """Demand that neither the rack, its machine nor a certificate is banned, as registered and as presented.

    Raises:
        LifecycleRefused: ``denied``.
    """
    certificates = {certificate}
    machines = {machine_id}
    if entry is not None and not entry.removed_at:
        certificates.add(entry.certificate)
        certificates.add(entry.pending.certificate if entry.pending is not None else "")
        machines.add(entry.machine_id)
    found = bans.matches(rack=rack, certificates=certificates)
    for machine in machines:
        found = found or bans.matches(machine_id=machine)
    if found is not None:
        raise denied(rack, found.kind.value)


def denied(rack: str, kind: str) -> LifecycleRefused:
    """Return the refusal of a banned rack."""
    what = {"rack": "", "machine": "the machine of ", "certificate": "a certificate of "}[kind]
    return LifecycleRefused(
        "denied",
        f"{what}rack {rack!r} is denied in this cluster",
        "an administrator lifts it with: stagebox admin racks clear",
    )


def registered(entry: RackEntry | None, name: str) -> RackEntry:
    """Return the entry of a rack that is registered now.

    Raises:
        LifecycleRefused: ``unknown_rack`` or ``removed``.
    """
    if entry is None:
        raise LifecycleRefused("unknown_rack", f"no rack {name!r} is registered", f"{NEW_TOKEN} {name}")
    if entry.removed_at:
        raise LifecycleRefused("removed", f"rack {name!r} was removed", f"{NEW_TOKEN} {name}")
    return entry
