"""A place in the way of audio where something may sit that changes it: nothing, until somebody says otherwise.

One audio thread calls :meth:`InsertPoint.process`; anybody else changes what sits there, between two pieces of audio.
"""

from __future__ import annotations

import threading
from typing import Protocol

from stagebox_rack.metering.levels import Float32


class Processor(Protocol):
    """What may sit at a point. It never raises and waits a bounded time only: it is on the way to meters and ears."""

    def process(self, samples: Float32, *, start: int, time_ns: int) -> Float32:
        """Return what becomes of float32[frames, channels]: the same shape, finite.

        ``start`` is the sample index of the first frame, ``time_ns`` when it was captured.
        """
        ...


class InsertPoint:
    """One point, of one source or one monitor bus."""

    def __init__(self) -> None:
        self._processor: Processor | None = None
        self._busy = threading.Lock()

    def use(self, processor: Processor | None) -> None:
        """Let ``processor`` sit here, or nothing; when this returns the one before is not called any more.

        Blocks while a piece of audio is under way.
        """
        with self._busy:
            self._processor = processor

    def process(self, samples: Float32, *, start: int, time_ns: int) -> Float32:
        """Return what the processor makes of float32[frames, channels]; ``samples`` themselves if nothing sits here."""
        with self._busy:
            if self._processor is None:
                return samples
            return self._processor.process(samples, start=start, time_ns=time_ns)


class InsertPoints:
    """Points by name; a name that was never asked for has an empty one."""

    def __init__(self) -> None:
        self._points: dict[str, InsertPoint] = {}

    def at(self, name: str) -> InsertPoint:
        """Return the point of this name, always the same one."""
        return self._points.setdefault(name, InsertPoint())
