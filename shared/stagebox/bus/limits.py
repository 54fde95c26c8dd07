"""Every size, count and time limit of the bus client, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BusLimits:
    """Defaults of the bus client. Sizes in bytes, times in seconds."""

    # Connecting
    connect_timeout: float = 5.0
    backoff_base: float = 0.1
    backoff_cap: float = 10.0
    stable_after: float = 5.0

    # Dead-peer detection: a peer is dead after this many unanswered pings
    ping_interval: float = 5.0
    max_unanswered_pings: int = 2

    # Sending
    max_frame_bytes: int = 256 << 10
    live_pending_bytes: int = 512 << 10
    durable_pending_bytes: int = 4 << 20

    # Receiving, per subscription with an asynchronous consumer
    subscription_messages: int = 16_384
    subscription_bytes: int = 32 << 20

    # Requests and closing
    request_timeout: float = 5.0
    flush_timeout: float = 5.0
    drain_timeout: float = 2.0
    close_timeout: float = 1.0

    # Bookkeeping
    max_counted_kinds: int = 64


BUS_LIMITS = BusLimits()
