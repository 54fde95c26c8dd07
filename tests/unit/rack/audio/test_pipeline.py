"""One source's blocks in order: gaps stay gaps, bad samples are said, nothing is invented."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagebox.records.meter import METER_FLOOR_DB, Condition
from stagebox_rack.audio.capture import StreamFormat
from stagebox_rack.audio.channel_map import ChannelMap
from stagebox_rack.audio.measurement import AudioItem, MeterMeasurement, SourceEvent
from stagebox_rack.audio.pipeline import SourcePipeline
from stagebox_rack.audio.ring import Block, BlockFlag
from stagebox_rack.metering.conditions import ConditionSettings
from stagebox_rack.metering.layout import MeterLayout, Programme

RATE = 48_000
NS = 1_000_000_000
Kind = TypeVar("Kind", MeterMeasurement, SourceEvent)


def block(
    index: int, frames: int = 480, *, flags: BlockFlag = BlockFlag.NONE, lost: int = 0, level: float = 0.1
) -> Block:
    samples: npt.NDArray[np.float32] = np.full((frames, 2), level, dtype=np.float32)
    return Block(samples, index, index * NS // RATE, flags, lost)


def run(pipeline: SourcePipeline, blocks: list[Block]) -> list[AudioItem]:
    return [item for each in blocks for item in pipeline.accept(each)]


def of(kind: type[Kind], items: list[AudioItem]) -> list[Kind]:
    return [item for item in items if isinstance(item, kind)]


QUIET = ConditionSettings.none()


def pipeline_of(frames_per_second: int = 20, conditions: ConditionSettings = QUIET) -> SourcePipeline:
    layout = MeterLayout(RATE, 2, (Programme("all", (0, 1), (1.0, 1.0)),), ((0, 1),), frames_per_second)
    return SourcePipeline("main", StreamFormat(RATE, 2), ChannelMap.identity(2), layout, conditions)


def test_a_second_of_audio_is_twenty_meter_frames() -> None:
    pipeline = pipeline_of()
    items = run(pipeline, [block(n * 480) for n in range(100)])
    meters = of(MeterMeasurement, items)
    assert [m.start for m in meters] == [n * 2400 for n in range(20)]
    assert [m.time_ns for m in meters] == [(n + 1) * 50_000_000 for n in range(20)]
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
    pipeline = pipeline_of()
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
    pipeline = pipeline_of()
    n = np.arange(48_000)
    loud = np.repeat(0.5 * np.sin(2 * np.pi * 997 * n / RATE)[:, np.newaxis], 2, axis=1).astype(np.float32)
    run(pipeline, [Block(loud, 0, 0, BlockFlag.NONE, 0)])
    items = run(pipeline, [block(96_000, 2400, level=0.0)])
    after = of(MeterMeasurement, items)[0]
    assert after.levels.programmes[0, 0] == METER_FLOOR_DB
    assert list(after.levels.true_peak) == [METER_FLOOR_DB, METER_FLOOR_DB]


def test_a_step_of_the_clock_breaks_nothing() -> None:
    pipeline = pipeline_of()
    items = run(
        pipeline,
        [block(n * 480, flags=BlockFlag.CLOCK_STEP if n == 3 else BlockFlag.NONE) for n in range(10)],
    )
    assert [(m.start, m.frames) for m in of(MeterMeasurement, items)] == [(0, 2400), (2400, 2400)]
    assert pipeline.counters.gaps == 0


@pytest.mark.parametrize("per_second", [1, 3, 7, 20, 30, 50])
def test_any_number_of_frames_a_second_covers_every_sample(per_second: int) -> None:
    pipeline = pipeline_of(per_second)
    meters = of(MeterMeasurement, run(pipeline, [block(n * 480) for n in range(200)]))
    assert len(meters) == 2 * per_second
    assert all(m.frames % 480 == 0 for m in meters)
    assert all(a.start + a.frames == b.start for a, b in pairwise(meters))
    assert max(m.frames for m in meters) - min(m.frames for m in meters) <= 480


def test_conditions_are_flags_in_the_frame_and_events_with_channel_names() -> None:
    pipeline = pipeline_of(conditions=ConditionSettings())
    quiet = [block(n * 480, level=0.0) for n in range(2000)]
    items = run(pipeline, quiet)
    [raised] = [event for event in of(SourceEvent, items) if event.name == "silence"]
    assert raised.detail["channels"] == ["1", "2"]
    last = of(MeterMeasurement, items)[-1]
    assert all(flag & Condition.SILENCE for flag in last.flags)


def test_integrated_loudness_starts_again_when_asked() -> None:
    pipeline = pipeline_of()
    n = np.arange(5 * RATE)
    tone = np.repeat(0.5 * np.sin(2 * np.pi * 997 * n / RATE)[:, np.newaxis], 2, axis=1).astype(np.float32)
    before = of(MeterMeasurement, run(pipeline, [Block(tone, 0, 0, BlockFlag.NONE, 0)]))[-1]
    pipeline.reset_loudness(None)
    quiet = Block(tone * np.float32(0.1), len(n), 0, BlockFlag.NONE, 0)
    after = of(MeterMeasurement, run(pipeline, [quiet]))[-1]
    assert after.levels.programmes[0, 2] == pytest.approx(before.levels.programmes[0, 2] - 20, abs=0.3)


def test_bad_samples_are_counted_reported_once_and_recovered() -> None:
    pipeline = pipeline_of()
    bad = block(480)
    bad.samples[3, 0] = np.nan
    bad.samples[4, 1] = np.inf
    bad.samples[5, 1] = -3e38  # finite, and no audio
    again = block(960)
    again.samples[0, 0] = np.nan
    items = run(pipeline, [block(0), bad, again, *(block(n * 480) for n in range(3, 120))])
    events = [(e.name, e.start, dict(e.detail)) for e in of(SourceEvent, items)]
    assert events == [
        ("nonfinite", 483, {"samples": 4}),
        ("nonfinite.recovered", 20 * 2400, {"samples": 4}),
    ]
    assert pipeline.counters.nonfinite_samples == 4
    for meter in of(MeterMeasurement, items):
        assert np.isfinite(meter.peak).all()
        bad_here = meter.start <= 480 + 5 < meter.start + meter.frames
        assert [bool(flag & Condition.NONFINITE) for flag in meter.flags] == [bad_here, bad_here]
        assert list(meter.peak) == pytest.approx([-20.0, -20.0], abs=0.01)
    assert np.isnan(bad.samples[3, 0])  # what was captured is left as it was


def test_the_last_short_frame_is_measured_at_the_end() -> None:
    pipeline = pipeline_of()
    run(pipeline, [block(0), block(480)])
    (last,) = list(pipeline.finish())
    assert isinstance(last, MeterMeasurement)
    assert last.frames == 960
    assert list(pipeline.finish()) == []


def test_an_index_that_goes_back_is_refused() -> None:
    pipeline = pipeline_of()
    run(pipeline, [block(480)])
    with pytest.raises(ValueError, match="went back from 960 to 500"):
        run(pipeline, [block(500)])


@settings(deadline=None, max_examples=40)
@given(steps=st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 3)), min_size=1, max_size=25))
def test_every_captured_frame_is_metered_once_and_every_missing_one_reported(
    steps: list[tuple[int, int]],
) -> None:
    pipeline, index, blocks = pipeline_of(), 0, []
    for frames, gap in steps:
        index += gap
        blocks.append(block(index, frames))
        index += frames
    items = [*run(pipeline, blocks), *pipeline.finish()]
    covered = [(m.start, m.start + m.frames) for m in of(MeterMeasurement, items)]
    missing = [(e.start, e.start + int(str(e.detail["frames"]))) for e in of(SourceEvent, items)]
    joined = sorted(covered + missing)
    assert joined[0][0] == blocks[0].index
    assert joined[-1][1] == index
    assert all(end == start for (_, end), (start, _) in pairwise(joined))
