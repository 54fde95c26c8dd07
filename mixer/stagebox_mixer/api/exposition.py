"""The metrics of one snapshot, and their text for Prometheus. Pure.

Names follow Prometheus' conventions: base units (s since the Unix epoch), ``_total`` for counters. Removed racks have
no series. docs/reference/api.md lists them all. This module is imported at the first scrape, not when the mixer starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from stagebox.control.denylist import DenyKind, DenyList
from stagebox.passport import PassportStatus
from stagebox_mixer.api.heartbeat_metrics import presence_families
from stagebox_mixer.api.rack_view import ban_on
from stagebox_mixer.api.services import Counters
from stagebox_mixer.lifecycle.expiry import warning_ns
from stagebox_mixer.presence.roll import Presence
from stagebox_mixer.registry.model import RackEntry

_NS = 1e9
_DAY_S = 24 * 3600.0
_COUNTED = {
    "admitted": ("stagebox_admissions", "Connections let onto the bus"),
    "refused": ("stagebox_refusals", "Connections refused at the bus"),
    "renewals": ("stagebox_renewals", "Renewals granted, late ones included"),
    "renewals_refused": ("stagebox_renewals_refused", "Renewals refused"),
    "grace_renewals": ("stagebox_grace_renewals", "Renewals granted after the certificate's end"),
    "nats_restarts": ("stagebox_nats_restarts", "Times nats-server had to be started again"),
    "wal_batches_committed": ("stagebox_wal_batches_committed", "Journal batches committed to the lake"),
    "wal_batches_rejected": ("stagebox_wal_batches_rejected", "Journal batches that did not verify"),
    "journal_alarms": (
        "stagebox_journal_alarms",
        "Journals that forked, rewound, lost records or said less than before",
    ),
}


@dataclass(frozen=True)
class Snapshot:
    """What one scrape shows; ``now_s`` is s since the Unix epoch, ``certificate_days`` the life certificates get."""

    racks: Sequence[RackEntry]
    deny: DenyList
    audit_last: int
    healthy: bool
    counters: Counters
    certificate_days: float
    now_s: float
    presence: Mapping[str, Presence] = field(default_factory=dict)


def text(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """Return a snapshot in the format that the ``Accept`` header asks for, and its content type."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Taken(snapshot))
    return encode(registry), content_type


class _Taken(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        return families(self._snapshot)


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Return every metric of a snapshot. Pure."""
    racks = [entry for entry in snapshot.racks if not entry.removed_at]
    yield from _rack_families(racks, snapshot)
    yield from _fleet_families(racks, snapshot)
    yield from presence_families(racks, snapshot.presence)
    for counted in fields(Counters):
        name, text = _COUNTED[counted.name]
        yield CounterMetricFamily(f"{name}_total", f"{text}.", value=getattr(snapshot.counters, counted.name))


def expires_unrenewed(entry: RackEntry, *, now_s: float, certificate_days: float) -> bool:
    """Tell whether a rack's certificate ends soon (``warning_ns``) and the rack has proved none after it."""
    return entry.certificate_not_after - now_s * _NS < warning_ns(certificate_days)


def _rack_families(racks: Sequence[RackEntry], snapshot: Snapshot) -> Iterator[Metric]:
    def gauge(name: str, text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"stagebox_rack_{name}", text, labels=("rack",))

    certificate = gauge("certificate_not_after_seconds", "End of the certificate the rack last proved.")
    passport = gauge("passport_not_after_seconds", "End of the passport the rack last proved.")
    expiring = gauge(
        "expires_unrenewed", "1 if the certificate ends in less than 7 days and was not renewed."
    )
    grace = gauge("grace_uses", "Renewals after the certificate's end since the last one in time.")
    failing = gauge("renewal_failing", "1 if the rack reports that its renewal fails.")
    denied = gauge("denied", "1 if the rack is banned by name, machine or certificate.")
    for entry in racks:
        label = (entry.name,)
        certificate.add_metric(label, entry.certificate_not_after / _NS)
        if entry.passport_not_after:
            passport.add_metric(label, entry.passport_not_after / _NS)
        due = expires_unrenewed(entry, now_s=snapshot.now_s, certificate_days=snapshot.certificate_days)
        expiring.add_metric(label, due)
        grace.add_metric(label, entry.grace_uses)
        failing.add_metric(label, bool(entry.problem))
        denied.add_metric(label, ban_on(entry, snapshot.deny) is not None)
    yield from (certificate, passport, expiring, grace, failing, denied)


def _fleet_families(racks: Sequence[RackEntry], snapshot: Snapshot) -> Iterator[Metric]:
    statuses = Counter(entry.status for entry in racks)
    by_status = GaugeMetricFamily("stagebox_racks", "Registered racks by status.", labels=("status",))
    for status in PassportStatus:
        by_status.add_metric((status.value,), statuses[status])
    yield by_status
    bans = Counter(entry.kind for entry in snapshot.deny.entries)
    by_kind = GaugeMetricFamily("stagebox_denied", "Bans by kind.", labels=("kind",))
    for kind in DenyKind:
        by_kind.add_metric((kind.value,), bans[kind])
    yield by_kind
    yield GaugeMetricFamily(
        "stagebox_deny_list_epoch", "Epoch of the deny list; it never falls.", value=snapshot.deny.epoch
    )
    yield GaugeMetricFamily(
        "stagebox_audit_last_sequence", "Sequence of the newest audit row.", value=snapshot.audit_last
    )
    yield GaugeMetricFamily(
        "stagebox_healthy", "1 if everything that must go on does.", value=int(snapshot.healthy)
    )
