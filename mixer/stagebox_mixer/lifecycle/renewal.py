"""Renewal as pure decisions: what a rack proved to hold goes in, its next registry entry comes out.

Rules:
- A passport older than the one proved last is refused for ever. One newer than it is believed on the authority's
  signature: an issue that was replaced before the rack proved it, or one the registry forgot because it was put
  back from a backup. So a rack always gets back with the newest passport it holds.
- What was granted for a request is granted again for the same request, and for another one for the same key as
  long as the grant is fresh: a lost reply costs nothing, neither a serial nor a use of the grace.
- After the certificate's end a rack renews in its grace: counted, capped, given back by a renewal in time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from stagebox.passport import PassportStatus
from stagebox_mixer.lifecycle.machine import (
    Certified,
    SecretOf,
    Terms,
    earlier_keys,
    make_issue,
    prove,
)
from stagebox_mixer.lifecycle.refusals import NEW_TOKEN, LifecycleRefused
from stagebox_mixer.registry.model import RackEntry, secret_hash, secret_matches


@dataclass(frozen=True)
class Presented:
    """The identity a rack proved to hold when it asked to renew it; times in ns."""

    name: str
    tenant: str
    machine_id: int
    rack_public: bytes
    status: PassportStatus
    serial: int
    secret: str = field(repr=False)
    passport_not_after: int
    certificate: str
    certificate_not_after: int


@dataclass(frozen=True)
class RenewalDecision:
    """A renewal allowed. ``entry`` has what the rack proved as its identity; ``repeat``: give the waiting issue
    again; ``grace``: the certificate has ended; ``adopted``: the passport was newer than the one proved last.
    """

    entry: RackEntry
    repeat: bool
    grace: bool
    adopted: bool


def learn(entry: RackEntry, presented: Presented) -> RackEntry:
    """Return the entry corrected by a passport with a serial it does not know: the registry is an older copy.

    A suspension on either side holds; otherwise the newer passport knows better whether the rack was approved.
    """
    if presented.serial <= entry.highest_serial:
        return entry
    suspended = PassportStatus.SUSPENDED in (entry.status, presented.status)
    return replace(
        entry,
        last_serial=presented.serial,
        pending=None,
        status=PassportStatus.SUSPENDED if suspended else presented.status,
    )


def judge_renewal(
    entry: RackEntry, presented: Presented, *, key: bytes, request: bytes, terms: Terms, now_ns: int
) -> RenewalDecision:
    """Decide about a renewal for ``key`` by the rack that proved to hold ``presented``.

    Raises:
        LifecycleRefused: an old passport, another machine's, expired, out of grace, or too soon.
    """
    entry, adopted = _with_presented(entry, presented)
    if now_ns >= presented.passport_not_after:
        raise LifecycleRefused(
            "passport_expired",
            f"the passport of rack {entry.name!r} has expired",
            f"{NEW_TOKEN} {entry.name}",
        )
    ended = now_ns >= presented.certificate_not_after
    if _repeats(entry, key, request, terms, now_ns):
        return RenewalDecision(entry, repeat=True, grace=False, adopted=adopted)
    if ended:
        _check_grace(entry, presented, terms, now_ns)
    _check_pace(entry, terms, now_ns)
    return RenewalDecision(entry, repeat=False, grace=ended, adopted=adopted)


def renewed(
    decision: RenewalDecision,
    *,
    key: bytes,
    certificate: Certified,
    request: bytes,
    secret_of: SecretOf,
    terms: Terms,
    now_ns: int,
) -> RackEntry:
    """Return the entry with the renewal waiting; a renewal in time gives all uses of the grace back."""
    entry = replace(
        decision.entry,
        grace_uses=decision.entry.grace_uses + 1 if decision.grace else 0,
        renewed_at=now_ns,
    )
    made = make_issue(entry, key, certificate, request, secret_of, terms, now_ns)
    return replace(entry, pending=made, last_serial=made.serial)


def _with_presented(entry: RackEntry, presented: Presented) -> tuple[RackEntry, bool]:
    """Return the entry with the presented identity as the proved one, and whether that was taken on trust."""
    if presented.tenant != entry.tenant:
        raise LifecycleRefused("other_tenant", f"rack {entry.name!r} is of another tenant")
    if presented.serial < entry.serial:
        raise _old(entry, presented)
    if presented.serial == entry.serial:
        if presented.machine_id != entry.machine_id:
            raise LifecycleRefused("other_machine", f"rack {entry.name!r} is registered on another machine")
        known = presented.rack_public == entry.rack_public
        if not known or not secret_matches(entry.secret_hash, presented.secret):
            raise _old(entry, presented)
        return entry, False
    waiting = entry.pending
    if waiting is not None and waiting.serial == presented.serial:
        same_key = waiting.rack_public == presented.rack_public
        if same_key and secret_matches(waiting.secret_hash, presented.secret):
            return prove(entry, waiting), False
    return replace(
        entry,
        machine_id=presented.machine_id,
        rack_public=presented.rack_public,
        earlier_keys=earlier_keys(entry, presented.rack_public),
        serial=presented.serial,
        secret_hash=secret_hash(presented.secret),
        passport_not_after=presented.passport_not_after,
        certificate=presented.certificate,
        certificate_not_after=presented.certificate_not_after,
        last_serial=max(entry.highest_serial, presented.serial),
        pending=None,
    ), True


def _old(entry: RackEntry, presented: Presented) -> LifecycleRefused:
    return LifecycleRefused(
        "old_passport",
        f"rack {entry.name!r} shows passport {presented.serial}, which is not its current one",
        f"if its state was put back from a copy, enroll it again; {NEW_TOKEN} {entry.name}",
    )


def _repeats(entry: RackEntry, key: bytes, request: bytes, terms: Terms, now_ns: int) -> bool:
    waiting = entry.pending
    if waiting is None or not waiting.certificate_der or now_ns >= waiting.certificate_not_after:
        return False
    fresh = now_ns < waiting.issued_at + terms.certificate_ns // 3
    return waiting.request == request or (waiting.rack_public == key and fresh)


def _check_grace(entry: RackEntry, presented: Presented, terms: Terms, now_ns: int) -> None:
    if now_ns >= presented.certificate_not_after + terms.grace_ns:
        raise LifecycleRefused(
            "grace_ended",
            f"the certificate of rack {entry.name!r} ended more than {terms.grace_days} days ago",
            f"{NEW_TOKEN} {entry.name}",
        )
    if entry.grace_uses >= terms.grace_uses:
        raise LifecycleRefused(
            "grace_used_up",
            f"rack {entry.name!r} renewed an ended certificate {entry.grace_uses} times in a row",
            f"find out why it does not renew in time, then {NEW_TOKEN} {entry.name}",
        )


def _check_pace(entry: RackEntry, terms: Terms, now_ns: int) -> None:
    waiting = entry.pending
    end = entry.certificate_not_after
    if waiting is not None and waiting.certificate_der:
        end = waiting.certificate_not_after
    # A time of renewal that is still to come was written by a clock that has been set right since.
    if entry.renewed_at <= now_ns < min(end, entry.renewed_at + terms.renew_min_interval_ns):
        raise LifecycleRefused(
            "too_soon",
            f"rack {entry.name!r} renewed less than {terms.renew_min_interval_s:g} s ago",
            "wait that long; a running rack tries again by itself",
        )
