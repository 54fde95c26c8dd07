"""Every size, count, rate and time limit of the mixer, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MixerLimits:
    """Limits of the control plane. Sizes in bytes, times in seconds unless the name says otherwise."""

    # nats-server supervision
    nats_ready_s: float = 20.0
    nats_stop_s: float = 10.0
    nats_ports_poll_s: float = 0.005
    nats_restart_first_s: float = 0.1
    nats_restart_cap_s: float = 10.0
    nats_stable_s: float = 30.0
    nats_log_line_bytes: int = 64 << 10

    # Admission
    admission_sessions: int = 65_536
    admission_concurrency: int = 64

    # Enrollment
    token_default_ttl_s: int = 15 * 60
    token_max_ttl_s: int = 24 * 3600
    rack_certificate_days: int = 30
    passport_days: int = 365
    server_certificate_days: int = 90
    server_certificate_check_s: float = 3600.0

    # API
    request_body_bytes: int = 64 << 10
    api_shutdown_s: float = 3.0

    # Ingest
    wal_trim_every_s: float = 600.0
    ingest_fetch: int = 256
    ingest_wait_s: float = 1.0
    ingest_retry_s: float = 0.5
    ingest_idle_consumer_s: float = 60.0
    ingest_digests_per_rack: int = 100_000
    ingest_heads: int = 16_384  # journals whose chain head is kept in memory

    # Audit
    refusal_window_s: float = 10.0
    refusal_keys: int = 4096


LIMITS = MixerLimits()
