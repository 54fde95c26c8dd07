"""The jitter buffer: packets as the network brings them in, in order and in time out. Pure; times in seconds.

Rules:

* a packet is played ``latency`` after it would have arrived on the fastest of the last few seconds' journeys; the
  play-out clock follows the rack's clock slowly, so neither ever runs away;
* what is not there when its time has come is *lost* and never played later; a sequence number tells a loss on the way
  from a gap at the source, which is reported and not concealed;
* a network that brings nothing for a while is a gap as well, once `ListenLimits.starved_packets` were concealed;
* nothing is played twice, out of order, or before its time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from stagebox.listening.limits import LISTEN_LIMITS, ListenLimits


@dataclass(frozen=True)
class Packet:
    """One packet as it came. ``start`` is its first frame's index, ``time_ns`` the capture time of its last frame."""

    boot: bytes
    seq: int
    start: int
    frames: int
    channels: int
    time_ns: int
    data: bytes


@dataclass(frozen=True)
class Lost:
    """``frames`` from ``start`` were sent and are not here in time."""

    start: int
    frames: int


@dataclass(frozen=True)
class Gap:
    """``frames`` from ``start`` were never sent, or the network was silent for so long; ``restart``: a new boot."""

    start: int
    frames: int
    restart: bool = False


Output = Packet | Lost | Gap


@dataclass
class JitterCounters:
    """``received`` = played + late + duplicates + dropped + what waits."""

    received: int = 0
    played: int = 0
    lost: int = 0
    late: int = 0
    duplicates: int = 0
    reordered: int = 0
    dropped: int = 0
    gaps: int = 0


@dataclass
class _Clock:
    """When frames are due: ``origin`` is the play-out time of frame 0."""

    origin: float
    slack: deque[float] = field(default_factory=deque)


class JitterBuffer:
    """One listener's packets. ``latency_s`` is how long a punctual packet waits."""

    def __init__(self, latency_s: float, limits: ListenLimits = LISTEN_LIMITS) -> None:
        self._latency = latency_s
        self._limits = limits
        self._waiting: dict[int, Packet] = {}
        self._clock: _Clock | None = None
        self._boot = b""
        self._next = 0  # index of the next frame to be played
        self._seq = 0  # sequence number of the packet played (or given up) last
        self._newest = -1  # highest sequence number that arrived
        self._starving = 0
        self._arrived = 0.0
        self.counters = JitterCounters()

    @property
    def waiting(self) -> int:
        """Packets that have arrived and are not due yet."""
        return len(self._waiting)

    def push(self, packet: Packet, now: float) -> list[Output]:
        """Take a packet that arrived at ``now``; returns what a restart of the source ends."""
        self.counters.received += 1
        ended: list[Output] = []
        if self._clock is None or packet.boot != self._boot:
            ended = self._restart(packet, now)
        elif packet.start < self._next:
            self.counters.late += 1
            return []
        elif packet.start in self._waiting:
            self.counters.duplicates += 1
            return []
        if packet.seq < self._newest:
            self.counters.reordered += 1
        self._newest = max(self._newest, packet.seq)
        if len(self._waiting) >= self._limits.buffer_packets:
            self._drop_oldest()
        self._waiting[packet.start] = packet
        self._follow(packet, now)
        return ended

    def pop(self, now: float) -> Output | None:
        """The next output whose time has come; None if nothing is due."""
        if self._clock is None or self._due(self._next) > now:
            return None
        packet = self._waiting.pop(self._next, None)
        if packet is not None:
            return self._play(packet)
        if not self._waiting:
            return self._starve()
        return self._skip_to(min(self._waiting))

    def next_due(self) -> float | None:
        """When `pop` will have something without anything arriving; None if only an arrival can bring it."""
        if self._clock is None or (not self._waiting and self._starving >= self._limits.starved_packets):
            return None
        return self._due(self._next)

    def _play(self, packet: Packet) -> Packet:
        self.counters.played += 1
        self._starving = 0
        self._seq = packet.seq
        self._next = packet.start + packet.frames
        return packet

    def _starve(self) -> Output | None:
        if self._starving >= self._limits.starved_packets:
            return None
        self._starving += 1
        return self._lose()

    def _lose(self) -> Lost:
        self.counters.lost += 1
        self._seq += 1
        lost = Lost(self._next, self._limits.packet_frames)
        self._next += lost.frames
        return lost

    def _skip_to(self, start: int) -> Output:
        """The next packet here begins later: conceal what was sent, report what was not."""
        missing, frames = self._waiting[start].seq - self._seq - 1, start - self._next
        if (
            self._starving < self._limits.starved_packets
            and missing > 0
            and frames >= self._limits.packet_frames
        ):
            return self._lose()
        self.counters.gaps += 1
        self._starving = 0
        self._seq = self._waiting[start].seq - 1
        gap = Gap(self._next, frames)
        self._next = start
        return gap

    def _restart(self, packet: Packet, now: float) -> list[Output]:
        ended: list[Output] = []
        if self._clock is not None:
            ended.append(Gap(packet.start, 0, restart=True))
            self.counters.dropped += len(self._waiting)
            self.counters.gaps += 1
        self._waiting.clear()
        self._boot, self._next, self._seq = packet.boot, packet.start, packet.seq - 1
        self._newest, self._starving = packet.seq, 0
        self._clock = _Clock(now + self._latency - packet.start / self._limits.rate)
        return ended

    def _follow(self, packet: Packet, now: float) -> None:
        """Let the play-out clock follow the rack's: the least slack of the last packets is to be the latency."""
        clock, limits = self._clock, self._limits
        assert clock is not None
        slack = self._due(packet.start) - now
        clock.slack.append(slack)
        if len(clock.slack) > limits.slew_window:
            clock.slack.popleft()
            error = max(clock.slack) - self._latency
            most = limits.slew_per_s * packet.frames / limits.rate
            clock.origin -= max(-most, min(most, error))
        elif slack > self._latency:
            # An earlier arrival than the first: that one was held up, so everything may be played earlier.
            clock.origin -= slack - self._latency
            self._latency_changed(slack - self._latency)

    def _latency_changed(self, by: float) -> None:
        assert self._clock is not None
        self._clock.slack = deque(value - by for value in self._clock.slack)

    def _drop_oldest(self) -> None:
        oldest = min(self._waiting)
        packet = self._waiting.pop(oldest)
        self.counters.dropped += 1
        self._next, self._seq = oldest + packet.frames, packet.seq

    def _due(self, index: int) -> float:
        assert self._clock is not None
        return self._clock.origin + index / self._limits.rate
