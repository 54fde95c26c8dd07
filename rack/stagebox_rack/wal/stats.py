"""The journal's figures, as the heartbeat publishes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WalStats:
    """Counters since start, and what is on disk. Sequences are 0 when there is none."""

    records: int
    committed: int
    acknowledged: int
    oldest: int
    queued: int
    refused: int
    refused_by_class: dict[str, int]
    failed: int
    segments: int
    segment_bytes: int
    hot_files: int
    hot_bytes: int
    lost: int
    journal: str
