"""What happens to one source's blocks on the way to its meters, in order: continuity, channel map, sanity, insert,
levels.

A state machine without threads, clocks or I/O: blocks in, items out. Rules: a discontinuity is an event with the exact
sample index and length of what is missing, it ends the meter frame before it (short) and starts filters afresh; NaN and
infinite samples are counted, reported, and replaced by 0 for the arithmetic only; a step of the clock is no break.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stagebox.records.meter import Condition
from stagebox_rack.audio.capture import StreamFormat
from stagebox_rack.audio.channel_map import ChannelMap
from stagebox_rack.audio.framing import Frame, FrameAssembler
from stagebox_rack.audio.insert import InsertPoint
from stagebox_rack.audio.measurement import AudioItem, EventValue, MeterMeasurement, SourceEvent
from stagebox_rack.audio.ring import Block, BlockFlag
from stagebox_rack.audio.sanity import replace_bad
from stagebox_rack.limits import LIMITS
from stagebox_rack.metering.conditions import ConditionChange, Conditions, ConditionSettings
from stagebox_rack.metering.layout import MeterLayout
from stagebox_rack.metering.meter import Meter

_CAUSES = (
    (BlockFlag.OVERRUN, "overrun"),
    (BlockFlag.REOPENED, "device_reopened"),
    (BlockFlag.OVERFLOW, "device_overflow"),
    (BlockFlag.LATE, "late"),
)
_NS = 1_000_000_000
_CONTINUOUS = BlockFlag.NONE | BlockFlag.CLOCK_STEP


@dataclass
class PipelineCounters:
    """Running totals of one pipeline."""

    frames: int = 0
    gaps: int = 0
    gap_frames: int = 0
    nonfinite_samples: int = 0
    meter_frames: int = 0


class SourcePipeline:
    """Turns the blocks of one source into meter measurements and events."""

    def __init__(
        self,
        source: str,
        opened: StreamFormat,
        mapped: ChannelMap,
        layout: MeterLayout,
        conditions: ConditionSettings,
        insert: InsertPoint | None = None,
    ) -> None:
        """Prepare for ``source``, whose blocks ``mapped`` turns into the channels that ``layout`` measures.

        What sits at ``insert`` changes what is measured.
        """
        self.counters = PipelineCounters()
        self._source = source
        self._map = mapped
        self._layout = layout
        self._meter = Meter(layout)
        self._conditions = Conditions(layout, conditions)
        self._insert = insert or InsertPoint()
        self._frames = FrameAssembler(self._meter.next_frame_size, opened.channels, layout.rate, opened.dtype)
        self._may_be_nonfinite = opened.dtype.kind == "f"
        self._next: int | None = None
        self._nonfinite_run = 0  # samples since the condition was raised; 0 is "not raised"
        self._clean_frames = 0
        self._resets: deque[int | None] = deque()

    @property
    def next_index(self) -> int:
        """The sample index after the last block; 0 before the first."""
        return self._next or 0

    @property
    def frames_due(self) -> int:
        """How many more frames complete the next measurement; at least 1."""
        return max(1, self._frames.size - self._frames.pending)

    def reset_loudness(self, programme: int | None) -> None:
        """Start integrated loudness, range and maxima of a programme (None: of all) again with the next frame.

        May be called from any thread.
        """
        self._resets.append(programme)

    def accept(self, block: Block) -> Iterator[AudioItem]:
        """What one block gives, in order."""
        if self._next is not None and (block.index != self._next or block.flags & ~_CONTINUOUS):
            yield from self._break(block, self._next)
        self._next = block.index + len(block.samples)
        self.counters.frames += len(block.samples)
        for frame in self._frames.push(block.samples, block.index, block.time_ns):
            yield from self._measure(frame)

    def finish(self) -> Iterator[AudioItem]:
        """The short meter frame that was under way, if any; the source is over."""
        if self._frames.pending:
            yield from self._measure(self._frames.flush())

    def _break(self, block: Block, expected: int) -> Iterator[AudioItem]:
        missing = block.index - expected
        if missing < 0:
            raise ValueError(f"sample index went back from {expected} to {block.index}")
        yield from self.finish()
        self._meter.reset()
        self._frames.size = self._meter.next_frame_size
        self._conditions.reset()
        self.counters.gaps += 1
        self.counters.gap_frames += missing
        cause = next((name for flag, name in _CAUSES if block.flags & flag), "unknown")
        detail: dict[str, EventValue] = {"frames": missing, "cause": cause, "resumes": block.index}
        yield SourceEvent(self._source, "gap", expected, block.time_ns, detail)

    def _measure(self, frame: Frame) -> Iterator[AudioItem]:
        while self._resets:
            self._meter.reset_loudness(self._resets.popleft())
        samples = self._map.apply(frame.samples)
        bad: npt.NDArray[np.bool_] | None = None
        if self._may_be_nonfinite:
            bad = replace_bad(samples)
            yield from self._report_bad(bad, frame)
        begin_ns = frame.end_ns - len(samples) * _NS // self._layout.rate
        samples = self._insert.process(samples, start=frame.index, time_ns=begin_ns)
        levels = self._meter.measure(samples)
        flags, changes = self._conditions.observe(self._meter.rows, levels, frame.index)
        if bad is not None:
            flags = flags | np.where(bad.any(axis=0), np.uint8(Condition.NONFINITE), np.uint8(0))
        self.counters.meter_frames += 1
        yield MeterMeasurement(
            self._source,
            frame.index,
            len(samples),
            self._layout.rate,
            frame.end_ns,
            levels,
            flags.tobytes(),
        )
        self._frames.size = self._meter.next_frame_size
        for change in changes:
            yield self._changed(change, frame)

    def _changed(self, change: ConditionChange, frame: Frame) -> SourceEvent:
        detail: dict[str, EventValue] = {"channels": [self._map.names[n] for n in change.channels]}
        if change.value is not None:
            detail["value"] = round(change.value, 2)
        name = f"{change.name}.recovered" if change.recovered else change.name
        return SourceEvent(self._source, name, change.start, frame.end_ns, detail)

    def _report_bad(self, bad: npt.NDArray[np.bool_] | None, frame: Frame) -> Iterator[AudioItem]:
        if bad is None:
            yield from self._clean(frame)
            return
        count = int(np.count_nonzero(bad))
        self.counters.nonfinite_samples += count
        raised = self._nonfinite_run > 0
        self._nonfinite_run += count
        self._clean_frames = 0
        if not raised:
            first = frame.index + int(bad.any(axis=1).argmax())
            detail: dict[str, EventValue] = {"samples": count}
            yield SourceEvent(self._source, "nonfinite", first, frame.end_ns, detail)

    def _clean(self, frame: Frame) -> Iterator[AudioItem]:
        if not self._nonfinite_run:
            return
        self._clean_frames += len(frame.samples)
        if self._clean_frames < LIMITS.nonfinite_recovery * self._layout.rate:
            return
        total, self._nonfinite_run = self._nonfinite_run, 0
        detail: dict[str, EventValue] = {"samples": total}
        yield SourceEvent(self._source, "nonfinite.recovered", frame.index, frame.end_ns, detail)
