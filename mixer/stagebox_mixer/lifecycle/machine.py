"""The life of a rack's identity as pure transitions of its registry entry.

Rules:
- Every issue gets the serial after the highest ever issued under the name; serials are never used twice, not even
  after the rack was removed.
- An issue waits in ``pending`` beside the identity the rack last proved; both hold until the rack proves the new
  one (:func:`confirm`), then the old one is dead. Another issue replaces a waiting one.
- The status belongs to the entry and takes effect at once; every issue carries the status of its moment.
- Refusals raise and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from stagebox.errors import InputError
from stagebox.passport import PassportStatus
from stagebox_mixer.lifecycle.refusals import LifecycleRefused
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import PendingIssue, RackEntry, secret_hash

_NS = 1_000_000_000
_DAY_NS = 24 * 3600 * _NS

SecretOf = Callable[[str, int, bytes], str]
"""(rack, serial, request digest) → the secret of that issue."""


@dataclass(frozen=True)
class Terms:
    """How long things last. A passport outlives the certificate issued with it and the grace after that."""

    certificate_days: float = LIMITS.rack_certificate_days
    grace_days: int = LIMITS.grace_days
    grace_uses: int = LIMITS.grace_uses
    renew_min_interval_s: float = LIMITS.renew_min_interval_s

    @property
    def passport_ns(self) -> int:
        """Life of a passport."""
        return int(max(LIMITS.passport_days, self.certificate_days + self.grace_days + 1) * _DAY_NS)

    @property
    def certificate_ns(self) -> int:
        """Life of a certificate."""
        return int(self.certificate_days * _DAY_NS)

    @property
    def grace_ns(self) -> int:
        """How long after its certificate's end a rack may still renew."""
        return self.grace_days * _DAY_NS

    @property
    def renew_min_interval_ns(self) -> int:
        """How long a rack must wait between two renewals."""
        return int(self.renew_min_interval_s * _NS)


@dataclass(frozen=True)
class Certified:
    """A certificate just signed. ``not_after`` in ns."""

    der: bytes
    fingerprint: str
    not_after: int


@dataclass(frozen=True)
class Candidate:
    """Who enrolls."""

    name: str
    tenant: str
    machine_id: int
    rack_public: bytes
    certificate: Certified


def enroll(
    entry: RackEntry | None,
    candidate: Candidate,
    *,
    auto_approve: bool,
    request: bytes,
    secret_of: SecretOf,
    terms: Terms,
    now_ns: int,
    floor: int = 0,
) -> tuple[RackEntry, PendingIssue]:
    """Register ``candidate`` and return the new entry with what to issue, a passport with a serial above ``floor``.

    The key that is registered already gets a waiting issue, so its identity holds if the reply is lost; another
    key takes the place of the old one at once.
    """
    status = _enrolled_status(entry, candidate.rack_public, auto_approve)
    if entry is not None and is_same(entry, candidate):
        last = max(entry.highest_serial, floor)
        waiting = replace(entry, status=status, enrolled_at=now_ns, last_serial=last)
        made = make_issue(
            waiting, candidate.rack_public, candidate.certificate, request, secret_of, terms, now_ns
        )
        return replace(waiting, pending=made, last_serial=made.serial), made
    blank = RackEntry(
        name=candidate.name,
        tenant=candidate.tenant,
        machine_id=candidate.machine_id,
        rack_public=candidate.rack_public,
        status=status,
        serial=0,
        secret_hash=bytes(32),
        certificate="",
        certificate_not_after=0,
        enrolled_at=now_ns,
        last_serial=max(floor, entry.highest_serial if entry is not None else 0),
        command_seq=entry.command_seq if entry is not None else 0,
        earlier_keys=earlier_keys(entry, candidate.rack_public) if entry is not None else (),
        extra=entry.extra if entry is not None else {},
    )
    made = make_issue(blank, candidate.rack_public, candidate.certificate, request, secret_of, terms, now_ns)
    return prove(blank, made), made


def reissue(
    entry: RackEntry,
    status: PassportStatus,
    *,
    request: bytes,
    secret_of: SecretOf,
    terms: Terms,
    now_ns: int,
) -> RackEntry:
    """Return the entry with ``status`` and a waiting passport that says so, for the identity proved last."""
    entry = replace(entry, status=status)
    made = make_issue(entry, entry.rack_public, None, request, secret_of, terms, now_ns)
    return replace(entry, pending=made, last_serial=made.serial)


def next_status(entry: RackEntry, action: str) -> PassportStatus:
    """Return the status after an operator's ``approve``, ``suspend``, ``activate`` or ``rotate_secret``.

    Raises:
        InputError: the rack is not in a state to do that.
    """
    if action == "approve" and entry.status is not PassportStatus.PENDING:
        raise InputError(f"rack {entry.name!r} is {entry.status.value}, not pending")
    if action == "activate" and entry.status is PassportStatus.PENDING:
        raise InputError(
            f"rack {entry.name!r} is pending", remedy=f"stagebox admin racks approve {entry.name}"
        )
    return {
        "approve": PassportStatus.ACTIVE,
        "suspend": PassportStatus.SUSPENDED,
        "activate": PassportStatus.ACTIVE,
        "rotate_secret": entry.status,
    }[action]


def remove(entry: RackEntry, *, now_ns: int) -> RackEntry:
    """Return the tombstone: nothing connects with it, but serials, sequences and keys are remembered."""
    return replace(entry, removed_at=now_ns, pending=None, last_serial=entry.highest_serial, problem="")


def confirm(entry: RackEntry, serial: int) -> RackEntry:
    """Return the entry after the rack proved the waiting issue ``serial``: it is the identity now.

    Raises:
        LifecycleRefused: ``superseded``: that issue is neither waiting nor proved.
    """
    if entry.serial == serial:
        return entry
    if entry.pending is None or entry.pending.serial != serial:
        raise LifecycleRefused(
            "superseded",
            f"issue {serial} of rack {entry.name!r} was replaced by another before it was proved",
        )
    return prove(entry, entry.pending)


def is_same(entry: RackEntry, candidate: Candidate) -> bool:
    """Tell whether ``candidate`` is registered already: the same key on the same machine."""
    registered = (entry.rack_public, entry.machine_id, entry.tenant)
    wanted = (candidate.rack_public, candidate.machine_id, candidate.tenant)
    return not entry.removed_at and registered == wanted


def make_issue(
    entry: RackEntry,
    rack_public: bytes,
    certificate: Certified | None,
    request: bytes,
    secret_of: SecretOf,
    terms: Terms,
    now_ns: int,
) -> PendingIssue:
    """Return the next issue for ``rack_public``; without ``certificate`` the rack keeps the one it has."""
    serial = entry.highest_serial + 1
    return PendingIssue(
        rack_public=rack_public,
        secret_hash=secret_hash(secret_of(entry.name, serial, request)),
        serial=serial,
        issued_at=now_ns,
        passport_not_after=now_ns + terms.passport_ns,
        certificate=certificate.fingerprint if certificate is not None else entry.certificate,
        certificate_der=certificate.der if certificate is not None else b"",
        certificate_not_after=certificate.not_after
        if certificate is not None
        else entry.certificate_not_after,
        request=request,
    )


def prove(entry: RackEntry, issue: PendingIssue) -> RackEntry:
    """Return the entry with ``issue`` as the identity proved last."""
    return replace(
        entry,
        rack_public=issue.rack_public,
        earlier_keys=earlier_keys(entry, issue.rack_public),
        secret_hash=issue.secret_hash,
        serial=issue.serial,
        last_serial=max(entry.highest_serial, issue.serial),
        certificate=issue.certificate,
        certificate_not_after=issue.certificate_not_after,
        passport_not_after=issue.passport_not_after,
        pending=None,
    )


def earlier_keys(entry: RackEntry, current: bytes) -> tuple[bytes, ...]:
    """Return the keys before ``current``, the latest first, as many as are kept."""
    keys = dict.fromkeys((entry.rack_public, *entry.earlier_keys))
    return tuple(key for key in keys if key != current)[: LIMITS.earlier_keys]


def _enrolled_status(entry: RackEntry | None, rack_public: bytes, auto_approve: bool) -> PassportStatus:
    known = entry is not None and not entry.removed_at
    if entry is not None and known and entry.status is PassportStatus.SUSPENDED:
        return PassportStatus.SUSPENDED  # a token gives an identity, it does not lift a suspension
    if auto_approve:
        return PassportStatus.ACTIVE
    if entry is not None and known and entry.rack_public == rack_public:
        return entry.status
    return PassportStatus.PENDING
