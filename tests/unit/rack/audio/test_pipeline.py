"""One source's blocks in order: gaps stay gaps, bad samples are said, nothing is invented."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagebox.records.meter import METER_FLOOR_DB
from stagebox_rack.audio.measurement import AudioItem, MeterMeasurement, OpusPacket, SourceEvent
from stagebox_rack.audio.pipeline import SourcePipeline
from stagebox_rack.audio.ring import Block, BlockFlag

RATE = 48_000
NS = 1_000_000_000
Kind = TypeVar("Kind", MeterMeasurement, OpusPacket, SourceEvent)


def block(
    index: int, frames: int = 480, *, flags: BlockFlag = BlockFlag.NONE, lost: int = 0, level: float = 0.1
) -> Block:
    samples: npt.NDArray[np.float32] = np.full((frames, 2), level, dtype=np.float32)
    return Block(samples, index, index * NS // RATE, flags, lost)


def run(pipeline: SourcePipeline, blocks: list[Block]) -> list[AudioItem]:
    return [item for each in blocks for item in pipeline.accept(each)]


def of(kind: type[Kind], items: list[AudioItem]) -> list[Kind]:
    return [item for item in items if isinstance(item, kind)]


def meters_only() -> SourcePipeline:
    return SourcePipeline("main", RATE, 2, monitor_bit_rate=None)


def test_a_second_of_audio_is_twenty_meter_frames_and_fifty_packets() -> None:
    pipeline = SourcePipeline("main", RATE, 2, monitor_bit_rate=96_000)
    items = run(pipeline, [block(n * 480) for n in range(100)])
    meters, packets = of(MeterMeasurement, items), of(OpusPacket, items)
    assert [m.start for m in meters] == [n * 2400 for n in range(20)]
    assert [m.time_ns for m in meters] == [(n + 1) * 50_000_000 for n in range(20)]
    assert [p.start for p in packets] == [n * 960 for n in range(50)]
    assert [p.time_ns for p in packets] == [(n + 1) * 20_000_000 for n in range(50)]
    assert of(SourceEvent, items) == []
    assert (pipeline.counters.frames, pipeline.counters.meter_frames) == (48_000, 20)


@pytest.mark.parametrize(
    ("flag", "cause"),
    [
        (BlockFlag.OVERRUN, "overrun"),
        (BlockFlag.REOPENED, "device_reopened"),
        (BlockFlag.OVERFLOW, "device_overflow"),
        (BlockFlag.LATE, "late"),
        (BlockFlag.NONE, "unknown"),
    ],
)
def test_a_gap_is_an_event_with_exact_offsets_and_splits_the_meter_frame(flag: BlockFlag, cause: str) -> None:
    pipeline = meters_only()
    items = run(pipeline, [block(0), block(480), block(10_007, flags=flag), block(10_487, 2400)])
    short, gap, after = items
    assert isinstance(short, MeterMeasurement)
    assert (short.start, short.frames) == (0, 960)
    assert isinstance(gap, SourceEvent)
    assert (gap.name, gap.start) == ("gap", 960)
    assert gap.detail == {"frames": 10_007 - 960, "cause": cause, "resumes": 10_007}
    assert isinstance(after, MeterMeasurement)
    assert (after.start, after.frames) == (10_007, 2400)
    assert (pipeline.counters.gaps, pipeline.counters.gap_frames) == (1, 9047)


def test_loudness_does_not_reach_across_a_gap() -> None:
    pipeline = meters_only()
    n = np.arange(48_000)
    loud = np.repeat(0.5 * np.sin(2 * np.pi * 997 * n / RATE)[:, np.newaxis], 2, axis=1).astype(np.float32)
    run(pipeline, [Block(loud, 0, 0, BlockFlag.NONE, 0)])
    items = run(pipeline, [block(96_000, 2400, level=0.0)])
    after = of(MeterMeasurement, items)[0]
    assert after.programme_momentary == METER_FLOOR_DB
    assert list(after.true_peak) == [METER_FLOOR_DB, METER_FLOOR_DB]


def test_a_packet_never_spans_a_gap() -> None:
    pipeline = SourcePipeline("main", RATE, 2, monitor_bit_rate=96_000)
    items = run(pipeline, [block(0), block(5000), block(5480)])
    assert [packet.start for packet in of(OpusPacket, items)] == [5000]


def test_bad_samples_are_counted_reported_once_and_recovered() -> None:
    pipeline = meters_only()
    bad = block(480)
    bad.samples[3, 0] = np.nan
    bad.samples[4, 1] = np.inf
    bad.samples[5, 1] = -np.inf
    again = block(960)
    again.samples[0, 0] = np.nan
    items = run(pipeline, [block(0), bad, again, *(block(n * 480) for n in range(3, 120))])
    events = [(e.name, e.start, dict(e.detail)) for e in of(SourceEvent, items)]
    assert events == [
        ("nonfinite", 480, {"samples": 3}),
        ("nonfinite.recovered", 1440 + 99 * 480, {"samples": 4}),
    ]
    assert pipeline.counters.nonfinite_samples == 4
    for meter in of(MeterMeasurement, items):
        assert np.isfinite(meter.peak).all()
        assert list(meter.peak) == pytest.approx([-20.0, -20.0], abs=0.01)
    assert np.isnan(bad.samples[3, 0])  # what was captured is left as it was


def test_the_last_short_frame_is_measured_at_the_end() -> None:
    pipeline = meters_only()
    run(pipeline, [block(0), block(480)])
    (last,) = list(pipeline.finish())
    assert isinstance(last, MeterMeasurement)
    assert last.frames == 960
    assert list(pipeline.finish()) == []


def test_an_index_that_goes_back_is_refused() -> None:
    pipeline = meters_only()
    run(pipeline, [block(480)])
    with pytest.raises(ValueError, match="went back from 960 to 500"):
        run(pipeline, [block(500)])


@settings(deadline=None, max_examples=40)
@given(steps=st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 3)), min_size=1, max_size=25))
def test_every_captured_frame_is_metered_once_and_every_missing_one_reported(
    steps: list[tuple[int, int]],
) -> None:
    pipeline, index, blocks = meters_only(), 0, []
    for frames, gap in steps:
        index += gap
        blocks.append(block(index, frames))
        index += frames
    items = [*run(pipeline, blocks), *pipeline.finish()]
    covered = [(m.start, m.start + m.frames) for m in of(MeterMeasurement, items)]
    missing = [(e.start, e.start + int(e.detail["frames"])) for e in of(SourceEvent, items)]
    joined = sorted(covered + missing)
    assert joined[0][0] == blocks[0].index
    assert joined[-1][1] == index
    assert all(end == start for (_, end), (start, _) in pairwise(joined))
