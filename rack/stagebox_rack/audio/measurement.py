"""What the audio engine hands on: measurements, packets and events, with no knowledge of the bus.

Every item carries the source's name, a sample index (counted from the start of the source, advancing
through gaps) and a time in ns since the Unix epoch. For a measurement and a packet these are the index
of its first frame and the capture time of its last one, as in the records made of them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from stagebox_rack.metering.levels import Float32, Levels

EventValue = str | int | float | list[str]


class SourceState(enum.StrEnum):
    """What a source is doing now."""

    STOPPED = "stopped"
    RUNNING = "running"
    LOST = "lost"
    ENDED = "ended"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class MeterMeasurement:
    """One meter frame of one source: its levels, and one byte a channel that says what is wrong with it.

    ``frames`` is what the meter rate asks for, less in the frame that ends at a gap or at the end of the source.
    """

    source: str
    start: int
    frames: int
    rate: int
    time_ns: int
    levels: Levels
    flags: bytes

    @property
    def peak(self) -> Float32:
        """Sample peak, dBFS, float32[channels]."""
        return self.levels.peak

    @property
    def rms(self) -> Float32:
        """RMS, dBFS, float32[channels]; a full-scale sine has −3.01."""
        return self.levels.rms


@dataclass(frozen=True, slots=True)
class OpusPacket:
    """One 20 ms Opus packet of a monitor bus. ``start`` counts frames of ``rate`` (48 kHz)."""

    bus: str
    start: int
    frames: int
    rate: int
    channels: int
    time_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """Something that happened to a source: ``source_lost``, ``gap``, ``clip`` and the like.

    ``start`` is the sample index it happened at.
    """

    source: str
    name: str
    start: int
    time_ns: int
    detail: Mapping[str, EventValue] = field(default_factory=dict)


AudioItem = MeterMeasurement | OpusPacket | SourceEvent


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A source's state and running totals, as one consistent-enough snapshot for the heartbeat."""

    source: str
    state: SourceState
    reason: str
    rate: int
    channels: int
    bits: int
    channel_names: tuple[str, ...]
    programmes: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    frames: int
    overruns: int
    overrun_frames: int
    gaps: int
    gap_frames: int
    nonfinite_samples: int
    meter_frames: int
    xruns: int
    losses: int
    reopens: int
    clock_steps: int
