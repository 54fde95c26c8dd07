"""Everything the routes work with, built once by the composition root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stagebox_mixer.api.access import Access
from stagebox_mixer.api.ports import (
    Audit,
    AuditReader,
    Commands,
    Connections,
    Denials,
    Enforcement,
    Lifecycle,
    Listening,
    Modules,
    Presences,
)
from stagebox_mixer.enrollment.service import EnrollmentService
from stagebox_mixer.lake.lake import Lake
from stagebox_mixer.registry.store import Registry


@dataclass(frozen=True)
class Counters:
    """What the mixer counted since it started; each becomes a metric of its own."""

    admitted: int = 0
    refused: int = 0
    renewals: int = 0
    renewals_refused: int = 0
    grace_renewals: int = 0
    nats_restarts: int = 0
    wal_batches_committed: int = 0
    wal_batches_rejected: int = 0
    journal_alarms: int = 0


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the routes need."""

    enrollment: EnrollmentService
    lifecycle: Lifecycle
    registry: Registry
    lake: Lake
    denials: Denials
    enforcer: Enforcement
    connections: Connections
    commands: Commands
    listening: Listening
    presence: Presences
    modules: Modules
    audit: Audit
    audit_reader: AuditReader
    access: Access
    cluster: str
    roots_pem: bytes
    certificate_days: float
    snake_port: Callable[[], int]
    health: Callable[[], dict[str, Any]]
    counters: Callable[[], Counters]
