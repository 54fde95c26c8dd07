"""What the audio engine hands on: measurements, packets and events, with no knowledge of the bus.

Every item carries the source's name, a sample index (counted from the start of the source, advancing
through gaps) and a time in ns since the Unix epoch. For a measurement and a packet these are the index
of its first frame and the capture time of its last one, as in the records made of them.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field


class SourceState(enum.StrEnum):
    """What a source is doing now."""

    STOPPED = "stopped"
    RUNNING = "running"
    LOST = "lost"
    ENDED = "ended"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class MeterMeasurement:
    """One meter frame of one source; per-channel values are ``array('f')`` in channel order.

    ``peak``, ``rms`` in dBFS (a full-scale sine has a peak of 0 and an RMS of −3.01 dBFS), ``true_peak``
    in dBTP, ``momentary`` (each channel alone, weight 1) and ``programme_momentary`` in LUFS: the highest
    of the window positions, 10 ms apart, that end in the frame. All have a floor of −150. ``frames`` is a
    twentieth of a second, less in the frame that ends at a gap or at the end of the source.
    """

    source: str
    start: int
    frames: int
    rate: int
    time_ns: int
    peak: array[float]
    rms: array[float]
    true_peak: array[float]
    momentary: array[float]
    programme_momentary: float


@dataclass(frozen=True, slots=True)
class OpusPacket:
    """One 20 ms Opus packet of a source's monitor bus. ``start`` counts frames of ``rate`` (48 kHz)."""

    source: str
    start: int
    frames: int
    rate: int
    channels: int
    time_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """Something that happened to a source: ``source_lost``, ``gap``, ``source_ended`` and the like.

    ``start`` is the sample index it happened at; ``detail`` holds text and integers only.
    """

    source: str
    name: str
    start: int
    time_ns: int
    detail: Mapping[str, str | int] = field(default_factory=dict)


AudioItem = MeterMeasurement | OpusPacket | SourceEvent


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A source's state and running totals, as one consistent-enough snapshot for the heartbeat."""

    source: str
    state: SourceState
    reason: str
    rate: int
    channels: int
    frames: int
    overruns: int
    overrun_frames: int
    gaps: int
    gap_frames: int
    nonfinite_samples: int
    meter_frames: int
    opus_packets: int
