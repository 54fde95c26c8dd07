"""Which file holds which sequences: the one list that the writer, the sealer and the readers share.

Spans are disjoint and sorted. Frozen hot spans wait to be sealed; the active span grows with each commit.
All methods may be called from any thread.
"""

from __future__ import annotations

import bisect
import threading
from dataclasses import dataclass
from pathlib import Path

from stagebox.records.seal import NO_SEAL
from stagebox_rack.wal.hotfile import HotSpan


@dataclass(frozen=True)
class SegmentSpan:
    """A sealed segment: sequences ``first`` … ``last``; ``stem`` is the path of its files without suffix."""

    stem: Path
    first: int
    last: int
    previous: bytes
    head: bytes
    size: int
    sealed_at: float
    seal_hash: bytes


Span = HotSpan | SegmentSpan


class Catalogue:
    """The spans of one journal."""

    def __init__(self, segments: list[SegmentSpan], frozen: list[HotSpan]) -> None:
        self._lock = threading.Lock()
        self._segments = sorted(segments, key=lambda span: span.first)
        self._frozen = sorted(frozen, key=lambda span: span.first)
        self._active: HotSpan | None = None

    def set_active(self, span: HotSpan | None) -> None:
        """Publish what the active hot file has committed."""
        with self._lock:
            self._active = span

    def freeze(self, span: HotSpan) -> None:
        """The active file is closed at ``span``."""
        with self._lock:
            self._active = None
            self._frozen.append(span)

    def sealed(self, hot: HotSpan, segments: list[SegmentSpan]) -> None:
        """A frozen hot file became ``segments`` (none if nothing in it could be saved)."""
        with self._lock:
            self._frozen.remove(hot)
            for segment in segments:
                bisect.insort(self._segments, segment, key=lambda span: span.first)

    def evicted(self, segment: SegmentSpan) -> None:
        """A segment is about to be removed."""
        with self._lock:
            self._segments.remove(segment)

    def last_seal(self) -> bytes:
        """Return the hash of the newest seal; :data:`NO_SEAL` if there is none."""
        with self._lock:
            return self._segments[-1].seal_hash if self._segments else NO_SEAL

    def frozen(self) -> list[HotSpan]:
        """Hot files waiting to be sealed, oldest first."""
        with self._lock:
            return list(self._frozen)

    def segments(self) -> list[SegmentSpan]:
        """Sealed segments, oldest first."""
        with self._lock:
            return list(self._segments)

    def spans(self) -> list[Span]:
        """Everything readable, oldest first."""
        with self._lock:
            active = [self._active] if self._active is not None else []
            return [*self._segments, *sorted([*self._frozen, *active], key=lambda span: span.first)]

    def after(self, sequence: int) -> Span | None:
        """Return the span that holds the first sequence above ``sequence``, or None."""
        with self._lock:
            index = bisect.bisect_right(self._segments, sequence, key=lambda span: span.last)
            if index < len(self._segments):
                candidate: Span = self._segments[index]
                return candidate
            active = [self._active] if self._active is not None else []
            later = [span for span in (*self._frozen, *active) if span.last > sequence]
            return min(later, key=lambda span: span.first, default=None)

    def hot_bytes(self) -> int:
        """Committed bytes in hot files."""
        with self._lock:
            active = self._active.end if self._active is not None else 0
            return active + sum(span.end for span in self._frozen)
