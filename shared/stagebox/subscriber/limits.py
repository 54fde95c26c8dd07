"""Every size, count and time limit of the subscriber SDK, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SubscriberLimits:
    """Defaults of the SDK. Times in seconds."""

    # Verification
    unverifiable_after: float = 5.0
    max_pending_records: int = 20_000
    covered_per_stream: int = 1024
    max_covered_streams: int = 4096
    chain_window: int = 128
    max_boots_per_rack: int = 4
    max_racks: int = 4096
    trust_recheck: float = 300.0

    # Delivery
    queue_records: int = 10_000
    max_held_records: int = 40_000
    max_errors_queued: int = 16

    # Sequence gaps
    max_remembered_gaps: int = 1024
    max_sequence_streams: int = 8192

    # First connect
    connect_within: float = 10.0


SUBSCRIBER_LIMITS = SubscriberLimits()
