"""What happens to one source's blocks, in order: continuity, sanity, meters, monitor packets.

A state machine without threads, clocks or I/O: blocks in, items out. Rules: a discontinuity is an event
with the exact sample index and length of what is missing, it ends the meter frame before it (short) and
starts filters afresh; NaN and infinite samples are counted, reported, and replaced by 0 for the
arithmetic only.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stagebox_rack.audio.framing import Frame, FrameAssembler
from stagebox_rack.audio.measurement import AudioItem, MeterMeasurement, OpusPacket, SourceEvent
from stagebox_rack.audio.meters import Meter
from stagebox_rack.audio.opus import OpusEncoder
from stagebox_rack.audio.ring import Block, BlockFlag
from stagebox_rack.limits import LIMITS

_CAUSES = (
    (BlockFlag.OVERRUN, "overrun"),
    (BlockFlag.REOPENED, "device_reopened"),
    (BlockFlag.OVERFLOW, "device_overflow"),
    (BlockFlag.LATE, "late"),
)


@dataclass
class PipelineCounters:
    """Running totals of one pipeline."""

    frames: int = 0
    gaps: int = 0
    gap_frames: int = 0
    nonfinite_samples: int = 0
    meter_frames: int = 0
    opus_packets: int = 0


class SourcePipeline:
    """Turns the blocks of one source into meter measurements, Opus packets and events."""

    def __init__(self, source: str, rate: int, channels: int, *, monitor_bit_rate: int | None) -> None:
        """Prepare for ``source``; without a ``monitor_bit_rate`` there is no monitor bus.

        Raises:
            ConfigError: the bit rate is out of range.
            CaptureError: there is no Opus encoder.
        """
        self.counters = PipelineCounters()
        self._source = source
        self._rate = rate
        self._meter = Meter(rate, channels)
        self._meter_frames = FrameAssembler(self._meter.frame_size, channels, rate)
        self._opus = None if monitor_bit_rate is None else OpusEncoder(rate, channels, monitor_bit_rate)
        self._next: int | None = None
        self._nonfinite_run = 0  # samples since the condition was raised; 0 is "not raised"
        self._clean_frames = 0

    @property
    def next_index(self) -> int:
        """The sample index after the last block; 0 before the first."""
        return self._next or 0

    @property
    def frames_due(self) -> int:
        """How many more frames complete the next measurement or packet; at least 1."""
        due = self._meter.frame_size - self._meter_frames.pending
        if self._opus is not None:
            due = min(due, self._opus.frames_due)
        return max(1, due)

    def accept(self, block: Block) -> Iterator[AudioItem]:
        """What one block gives, in order."""
        if self._next is not None and (block.index != self._next or block.flags):
            yield from self._break(block, self._next)
        self._next = block.index + len(block.samples)
        self.counters.frames += len(block.samples)
        block, events = self._sanitise(block)
        yield from events
        for frame in self._meter_frames.push(block.samples, block.index, block.time_ns):
            yield self._measure(frame)
        if self._opus is not None:
            for packet in self._opus.push(block.samples, block.index, block.time_ns):
                self.counters.opus_packets += 1
                yield OpusPacket(
                    self._source,
                    packet.start,
                    LIMITS.opus_frame,
                    LIMITS.opus_rate,
                    self._opus.channels,
                    packet.end_ns,
                    packet.data,
                )

    def finish(self) -> Iterator[AudioItem]:
        """The short meter frame that was under way, if any; the source is over."""
        if self._meter_frames.pending:
            yield self._measure(self._meter_frames.flush())

    def _break(self, block: Block, expected: int) -> Iterator[AudioItem]:
        missing = block.index - expected
        if missing < 0:
            raise ValueError(f"sample index went back from {expected} to {block.index}")
        yield from self.finish()
        self._meter.reset()
        if self._opus is not None:
            self._opus.reset()
        self.counters.gaps += 1
        self.counters.gap_frames += missing
        cause = next((name for flag, name in _CAUSES if block.flags & flag), "unknown")
        detail: dict[str, str | int] = {"frames": missing, "cause": cause, "resumes": block.index}
        yield SourceEvent(self._source, "gap", expected, block.time_ns, detail)

    def _measure(self, frame: Frame) -> MeterMeasurement:
        levels = self._meter.measure(frame.samples)
        self.counters.meter_frames += 1
        return MeterMeasurement(
            self._source,
            frame.index,
            len(frame.samples),
            self._rate,
            frame.end_ns,
            _array(levels.peak),
            _array(levels.rms),
            _array(levels.true_peak),
            _array(levels.momentary),
            levels.programme_momentary,
        )

    def _sanitise(self, block: Block) -> tuple[Block, list[SourceEvent]]:
        finite = np.isfinite(block.samples)
        if finite.all():
            return block, self._clean(block)
        bad = finite.size - int(np.count_nonzero(finite))
        self.counters.nonfinite_samples += bad
        raised = self._nonfinite_run > 0
        self._nonfinite_run += bad
        self._clean_frames = 0
        event = SourceEvent(self._source, "nonfinite", block.index, block.time_ns, {"samples": bad})
        cleaned = replace(block, samples=np.where(finite, block.samples, np.float32(0)))
        return cleaned, [] if raised else [event]

    def _clean(self, block: Block) -> list[SourceEvent]:
        if not self._nonfinite_run:
            return []
        self._clean_frames += len(block.samples)
        if self._clean_frames < LIMITS.nonfinite_recovery * self._rate:
            return []
        total, self._nonfinite_run = self._nonfinite_run, 0
        return [
            SourceEvent(self._source, "nonfinite.recovered", block.index, block.time_ns, {"samples": total})
        ]


def _array(values: npt.NDArray[np.float32]) -> array[float]:
    return array("f", values.tobytes())
