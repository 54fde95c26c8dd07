"""Maps a device's sample index to the rack's monotonic clock.

Callbacks come late, in bursts, and some host APIs report converter times that lie in the future. What is
certain is that a frame cannot have been captured after the moment it is seen. So the earliest line that
observations allow is the mapping: an observation earlier than predicted moves it at once, later ones let
it lag by no more than `LIMITS.audio_clock_slew_ppm`, which follows a converter that runs slow. It holds
across a reopened stream, because the index goes on with the clock there. Pure.
"""

from __future__ import annotations

from stagebox_rack.limits import LIMITS

_NS = 1_000_000_000
_PPM = 1_000_000


class StreamClock:
    """The mapping of one source."""

    def __init__(self, rate: int) -> None:
        """Start without a mapping, for a nominal ``rate`` in Hz."""
        self._rate = rate
        self._offset_ns: int | None = None
        self._last_index = 0

    def observe(self, index: int, seen_ns: int) -> int:
        """Frame ``index`` was captured at ``seen_ns`` at the latest; returns when the mapping says it was."""
        offset = seen_ns - index * _NS // self._rate
        if self._offset_ns is not None:
            offset = min(offset, self._offset_ns + self._slew(index))
        self._offset_ns = offset
        self._last_index = index
        return offset + index * _NS // self._rate

    def _slew(self, index: int) -> int:
        elapsed_ns = max(0, index - self._last_index) * _NS // self._rate
        return elapsed_ns * LIMITS.audio_clock_slew_ppm // _PPM
