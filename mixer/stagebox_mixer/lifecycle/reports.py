"""What a rack's report on connecting changes in its registry entry. Pure.

Nothing goes back by a report: the command sequence only grows, and a certificate is taken over only if it ends
later than the one registered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stagebox.control.sync import SyncReport
from stagebox_mixer.lifecycle.machine import Terms
from stagebox_mixer.lifecycle.refusals import LifecycleRefused
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import RackEntry

RENEWED_BY = ("mixer", "operator")


@dataclass(frozen=True)
class ReportedCertificate:
    """The certificate a rack shows, verified: fingerprint and end in ns."""

    fingerprint: str
    not_after: int


def check_report(entry: RackEntry, report: SyncReport) -> None:
    """Refuse what no rack of ours can say.

    Raises:
        LifecycleRefused: ``malformed`` or ``command_sequence``.
    """
    if report.renewal not in RENEWED_BY:
        raise LifecycleRefused("malformed", f"the report says it is renewed by {report.renewal[:32]!r}")
    if report.command > entry.command_seq + LIMITS.command_sequence_gap:
        # Believed, it would use up the sequence and leave the rack without commands for ever.
        raise LifecycleRefused(
            "command_sequence",
            f"rack {entry.name!r} reports command {report.command}, far beyond {entry.command_seq}",
            "look at the rack; if it is sound, enroll it again",
        )


def reported(entry: RackEntry, report: SyncReport, certificate: ReportedCertificate) -> RackEntry:
    """Return the entry with what is new in ``report``; the same entry if nothing is."""
    entry = replace(
        entry,
        command_seq=max(entry.command_seq, report.command),
        renewal=report.renewal,
        problem=report.problem[: LIMITS.problem_chars],
    )
    if certificate.not_after <= entry.certificate_not_after:
        return entry
    return replace(entry, certificate=certificate.fingerprint, certificate_not_after=certificate.not_after)


def changes(before: RackEntry, after: RackEntry) -> dict[str, str | int]:
    """Return what differs, for the audit."""
    names = ("command_seq", "renewal", "problem", "certificate", "certificate_not_after")
    pairs = ((name, getattr(before, name), getattr(after, name)) for name in names)
    return {name: new for name, old, new in pairs if old != new}


def passport_is_due(entry: RackEntry, terms: Terms, now_ns: int) -> bool:
    """Tell whether a rack that does not renew with us needs a new passport: less than a third of its life is left."""
    if entry.pending is not None or entry.renewal != "operator" or not entry.passport_not_after:
        return False
    return now_ns > entry.passport_not_after - terms.passport_ns // 3


def lacks_issue(entry: RackEntry, report: SyncReport) -> bool:
    """Tell whether an issue waits that only a command brings and that the rack does not have yet."""
    waiting = entry.pending
    return waiting is not None and not waiting.certificate_der and report.serial < waiting.serial
