"""Whether somebody may be connected at all, whatever they can prove. Pure.

The same rules hold for a connection that comes (:mod:`stagebox_mixer.admission.policy`) and for one that is
there already (:mod:`stagebox_mixer.admission.enforcement`).
"""

from __future__ import annotations

import enum

from stagebox.control.denylist import DenyList
from stagebox.errors import VerificationError
from stagebox.passport import PassportStatus
from stagebox_mixer.registry.model import RackEntry


class Rights(enum.StrEnum):
    """How much of its own subjects a rack may use."""

    FULL = "full"
    LIMITED = "limited"


class Refused(VerificationError):
    """The connection is not admitted; ``code`` is the reason in the audit, ``identity`` who it claims to be.

    ``proved`` names what the connection did prove where that says something: a copy of a rack's key is about.
    """

    def __init__(self, code: str, message: str, identity: str = "", *, proved: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.identity = identity
        self.proved = proved


def check_client(certificate: str, denied: DenyList, identity: str = "") -> None:
    """Demand that a person's or tool's certificate (its fingerprint) is not banned.

    Raises:
        Refused: ``denied``.
    """
    if denied.matches(certificates=(certificate,)) is not None:
        raise Refused("denied", f"certificate {certificate} is denied", identity)


def check_rack(
    name: str, certificate: str, entry: RackEntry | None, denied: DenyList, identity: str = ""
) -> RackEntry:
    """Return the entry of a rack that may be connected. ``certificate`` is the one it shows.

    A ban of any certificate it has in the registry counts too: a newer one would else escape it.

    Raises:
        Refused: ``denied``, ``unknown_rack`` or ``removed``.
    """
    certificates = [certificate]
    if entry is not None:
        certificates.append(entry.certificate)
        certificates += [entry.pending.certificate] if entry.pending is not None else []
    machine = entry.machine_id if entry is not None else None
    hit = denied.matches(rack=name, machine_id=machine, certificates=certificates)
    if hit is not None:
        raise Refused("denied", f"{hit.kind.value} {hit.value} is denied", identity)
    if entry is None:
        raise Refused("unknown_rack", f"no rack {name!r} is registered", identity)
    if entry.removed_at:
        raise Refused("removed", f"rack {name!r} was removed", identity)
    return entry


def rights_of(entry: RackEntry) -> Rights:
    """Return the rights of the rack's present status."""
    return Rights.FULL if entry.status is PassportStatus.ACTIVE else Rights.LIMITED
