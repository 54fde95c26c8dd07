"""The engine: threads that start together, stop together, and fail one at a time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stagebox.errors import ConfigError, InputError
from stagebox_rack.audio.capture import Capture, CaptureClock, Notify, StreamFormat
from stagebox_rack.audio.engine import AudioEngine
from stagebox_rack.audio.measurement import (
    AudioItem,
    MeterMeasurement,
    SourceEvent,
    SourceState,
)
from stagebox_rack.audio.ring import BlockFlag, Ring
from stagebox_rack.audio.source_uri import SourceSpec, parse_sources


class Collector:
    def __init__(self) -> None:
        self.items: list[AudioItem] = []
        self._changed = threading.Condition()

    def emit(self, item: AudioItem) -> None:
        with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    def wait_for(self, kind: type[AudioItem], count: int, source: str = "main") -> None:
        def enough() -> bool:
            found = [i for i in self.items if isinstance(i, kind) and getattr(i, "source", "") == source]
            return len(found) >= count

        with self._changed:
            assert self._changed.wait_for(enough, 10), f"fewer than {count} {kind.__name__} of {source}"

    def events(self, source: str = "main") -> list[str]:
        return [i.name for i in self.items if isinstance(i, SourceEvent) and i.source == source]


def audio_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("meters-", "capture-"))]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> object:
    yield
    assert audio_threads() == []


def test_a_tone_is_metered_in_real_time() -> None:
    collector = Collector()
    engine = AudioEngine(parse_sources(["tone:997@-23"]), collector.emit)
    engine.start()
    began = time.monotonic()
    assert sorted(audio_threads()) == ["capture-main", "meters-main"]
    collector.wait_for(MeterMeasurement, 20)
    assert 0.9 < time.monotonic() - began < 3
    assert engine.status()[0].state is SourceState.RUNNING
    engine.stop()
    meters = [i for i in collector.items if isinstance(i, MeterMeasurement)]
    assert meters[10].levels.programmes[0, 0] == pytest.approx(-23.0, abs=0.05)
    assert [m.start for m in meters] == [n * 2400 for n in range(len(meters))]
    status = engine.status()[0]
    assert status.state is SourceState.STOPPED
    assert status.frames == sum(m.frames for m in meters)
    assert (status.overruns, status.gaps, status.nonfinite_samples) == (0, 0, 0)
    assert status.meter_frames == len(meters)
    assert (status.channel_names, status.programmes, status.pairs) == (("1", "2"), ("all",), ((0, 1),))
    assert abs(time.time_ns() - meters[-1].time_ns) < 10_000_000_000


def test_the_end_of_a_file_ends_its_source_and_not_the_others(tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    samples = np.zeros((5000, 1), dtype=np.float32)
    samples[100] = np.nan
    soundfile.write(path, samples, 48_000, subtype="FLOAT")
    collector = Collector()
    engine = AudioEngine(parse_sources([f"clip=file:{path}", "tone:440@-20?rate=44100"]), collector.emit)
    engine.start()
    collector.wait_for(MeterMeasurement, 3, "clip")
    collector.wait_for(MeterMeasurement, 10, "main")
    clip, main = engine.status()
    assert (clip.state, clip.frames, clip.nonfinite_samples) == (SourceState.ENDED, 5000, 1)
    assert main.state is SourceState.RUNNING
    engine.stop()
    assert collector.events("clip") == ["source_started", "nonfinite", "source_ended"]
    assert [i.frames for i in collector.items if isinstance(i, MeterMeasurement) and i.source == "clip"] == [
        2400,
        2400,
        200,
    ]


def test_if_one_source_is_refused_none_runs(tmp_path: Path) -> None:
    engine = AudioEngine(parse_sources(["tone:997@-23", f"x=file:{tmp_path}/absent.wav"]), lambda item: None)
    with pytest.raises(InputError, match=r"absent\.wav"):
        engine.start()
    assert engine.status() == ()


class Scripted(Capture):
    """A capture that writes what the test says, at once."""

    def __init__(self, spec: SourceSpec, notify: Notify, clock: CaptureClock) -> None:
        super().__init__(spec.name, notify, clock)
        self.ring: Ring | None = None

    def open(self) -> StreamFormat:
        return StreamFormat(48_000, 1)

    def start(self, ring: Ring) -> None:
        self.ring = ring
        self._become(SourceState.RUNNING)

    def stop(self) -> None:
        if self.ring is not None:
            self.ring.close()

    def write(self, index: int, frames: int = 480) -> None:
        assert self.ring is not None
        self.ring.write(np.zeros((frames, 1), dtype=np.float32), index, index, BlockFlag.NONE)


def scripted_engine(collector: Collector) -> tuple[AudioEngine, Scripted]:
    made: list[Scripted] = []

    def capturer(spec: SourceSpec, notify: Notify, clock: CaptureClock) -> Capture:
        made.append(Scripted(spec, notify, clock))
        return made[-1]

    engine = AudioEngine(parse_sources(["tone:997@-23"]), collector.emit, capturer=capturer)
    engine.start()
    return engine, made[0]


def test_a_consumer_that_stalls_loses_counted_frames_and_capture_goes_on() -> None:
    collector = Collector()
    gate, stalled = threading.Event(), threading.Event()
    emit = collector.emit

    def blocking(item: AudioItem) -> None:
        if isinstance(item, MeterMeasurement) and not gate.is_set():
            stalled.set()
            assert gate.wait(10)
        emit(item)

    collector.emit = blocking  # type: ignore[method-assign]
    engine, capture = scripted_engine(collector)
    for n in range(10):
        capture.write(n * 480)
    assert stalled.wait(10)
    began = time.monotonic()
    for n in range(10, 1000):
        capture.write(n * 480)
    assert time.monotonic() - began < 2  # ten seconds of audio; the producer did not wait
    gate.set()
    engine.stop()
    status = engine.status()[0]
    assert status.overruns == 1
    assert status.frames + status.overrun_frames == 480_000
    assert status.gap_frames == status.overrun_frames
    gaps = [i for i in collector.items if isinstance(i, SourceEvent) and i.name == "gap"]
    assert [gap.detail["cause"] for gap in gaps] == ["overrun"]
    assert sum(int(str(gap.detail["frames"])) for gap in gaps) == status.overrun_frames


def test_a_processing_fault_is_an_event_and_a_state() -> None:
    collector = Collector()
    engine, capture = scripted_engine(collector)
    capture.write(4800)
    capture.write(0)  # an index that goes back can only be a fault
    deadline = time.monotonic() + 10
    while "source_error" not in collector.events():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    status = engine.status()[0]
    assert status.state is SourceState.ERROR
    assert "went back" in status.reason
    engine.stop()


def test_a_tap_hears_what_the_meters_hear_and_neither_waits_for_the_other() -> None:
    collector = Collector()
    engine, capture = scripted_engine(collector)
    tap = engine.tap("main")
    cursor = tap.open()
    for n in range(10):
        capture.write(n * 480)
    heard = [cursor.read(5) for _ in range(10)]
    assert [block.index for block in heard if block is not None] == [n * 480 for n in range(10)]
    tap.close(cursor)
    for n in range(10, 1000):
        capture.write(n * 480)
    engine.stop()
    assert cursor.overruns == 0
    with pytest.raises(ConfigError, match="there is no source 'x'") as refused:
        engine.tap("x")
    assert refused.value.remedy == "there are: main"


def test_loudness_is_reset_by_name_or_refused() -> None:
    engine, _ = scripted_engine(Collector())
    engine.reset_loudness()
    engine.reset_loudness("main", "all")
    for source, programme in (("x", None), ("main", "x"), (None, "x")):
        with pytest.raises(ConfigError, match="'x'"):
            engine.reset_loudness(source, programme)
    engine.stop()


def test_an_engine_starts_once() -> None:
    engine, _ = scripted_engine(Collector())
    with pytest.raises(RuntimeError, match="started before"):
        engine.start()
    engine.stop()
    engine.stop()
