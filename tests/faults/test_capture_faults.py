"""Capture under faults: it keeps its cadence, and everything lost is counted."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stagebox.passport import PassportStatus
from stagebox.records.meter import MeterFrame
from stagebox_rack.app import Rack
from stagebox_rack.audio.capture import CaptureClock
from stagebox_rack.audio.engine import AudioEngine
from stagebox_rack.audio.measurement import AudioItem, MeterMeasurement, SourceEvent, SourceStatus
from stagebox_rack.audio.ring import Cursor
from stagebox_rack.audio.source_uri import parse_sources
from stagebox_rack.limits import LIMITS
from stagebox_rack.state import RackIdentity, StatePaths
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.export import export
from support.cluster import Cluster, running_mixer
from support.racks import running_rack

RATE = 48_000
FRAME = RATE // 20


def main_source(rack: Rack) -> SourceStatus:
    (status,) = rack._capturing.status()
    return status


async def captured(rack: Rack, seconds: float) -> SourceStatus:
    """Wait until so much more was captured; fails if that takes much longer than it lasts."""
    wanted = main_source(rack).frames + int(seconds * RATE)
    async with asyncio.timeout(seconds + 5):
        while main_source(rack).frames < wanted:  # noqa: ASYNC110 - threads count it, no event says so
            await asyncio.sleep(0.02)
    return main_source(rack)


def journalled(directory: Path, identity: RackIdentity, out: Path) -> list[MeterFrame]:
    """Every meter frame in a stopped rack's journal, each record verified."""
    report = export(StatePaths(directory).wal, out, "jsonl", identity.public)
    assert report.problems == []
    records = [json.loads(line) for line in out.read_text().splitlines()]
    frames = [MeterFrame.decode(base64.b64decode(r["data"])) for r in records if r["kind"] == "meter"]
    return sorted(frames, key=lambda frame: frame.start)


def assert_even(frames: list[MeterFrame], status: SourceStatus) -> None:
    """One frame follows the other by sample index and by capture time, and none is missing."""
    assert (status.gaps, status.overruns, status.nonfinite_samples) == (0, 0, 0)
    assert [frame.start for frame in frames] == [n * FRAME for n in range(len(frames))]
    assert abs(len(frames) - status.meter_frames) <= 1
    apart = np.diff([frame.time_ns for frame in frames[:-1]]) / 1e6  # the last is cut short by the end
    assert np.all(np.abs(apart - 50.0) < 1.0), apart


async def test_a_bus_that_is_down_costs_capture_nothing_and_the_journal_has_every_frame(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        identity = await mixer.enroll(tmp_path / "rack", "left")
        settings, ports = mixer.settings, (mixer.mixer.https_port, mixer.mixer.snake_port)
    assert settings
    assert all(ports)
    # The mixer is gone before the rack starts, and stays away.
    async with running_rack(tmp_path / "rack") as rack:
        began = time.monotonic()
        await captured(rack, 3)
        assert time.monotonic() - began < 4, "slower than real time"
        assert not rack._bus.connected
        assert rack._publisher is not None
        assert rack._publisher.dropped["rack.left.meter.main"] > 50, "what was not sent live is counted"
    assert_even(journalled(tmp_path / "rack", identity, tmp_path / "out.jsonl"), main_source(rack))


async def test_a_bus_that_goes_away_and_comes_back_leaves_no_hole(cluster: Cluster, tmp_path: Path) -> None:
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        identity = await mixer.enroll(tmp_path / "rack", "left")
        ports = {"https_port": mixer.mixer.https_port, "snake_port": mixer.mixer.snake_port}
    async with running_mixer(cluster, tmp_path / "data", **ports):
        rack_runs = running_rack(tmp_path / "rack")
        rack = await rack_runs.__aenter__()
        try:
            await captured(rack, 1)
        except BaseException:
            await rack_runs.__aexit__(None, None, None)
            raise
    try:
        await captured(rack, 2)
        async with running_mixer(cluster, tmp_path / "data", **ports):
            await captured(rack, 1)
    finally:
        await rack_runs.__aexit__(None, None, None)
    assert_even(journalled(tmp_path / "rack", identity, tmp_path / "out.jsonl"), main_source(rack))


async def test_a_suspended_rack_captures_nothing_although_a_module_does_not_end(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        await mixer.enroll(tmp_path / "rack", "left")
    async with running_rack(tmp_path / "rack") as rack:
        await captured(rack, 0.2)
        modules, ended = rack._modules, asyncio.Event()
        assert modules is not None

        async def hang(*, active: bool) -> None:
            await ended.wait()

        modules.obey = hang  # type: ignore[method-assign]
        obeying = asyncio.create_task(rack.obey(PassportStatus.SUSPENDED))
        async with asyncio.timeout(5):
            while rack._capturing.running or rack._publisher is None or not rack._publisher.limited:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not obeying.done()
        ended.set()
        await obeying


async def test_a_disk_that_takes_half_a_second_a_sync_does_not_slow_capture(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = 0
    sync = Disk.datasync

    def slow(self: Disk, descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        time.sleep(0.5)
        sync(self, descriptor)

    async with running_mixer(cluster, tmp_path / "data") as mixer:
        identity = await mixer.enroll(tmp_path / "rack", "left")
        async with running_rack(tmp_path / "rack") as rack:
            monkeypatch.setattr(Disk, "datasync", slow)
            began = time.monotonic()
            await captured(rack, 4)
            assert time.monotonic() - began < 5, "slower than real time"
            assert syncs >= 4, "the fault was not there"
            monkeypatch.setattr(Disk, "datasync", sync)
            assert rack._publisher is not None
            await rack._publisher.journalled()
            assert rack._publisher.not_journalled == 0
    assert_even(journalled(tmp_path / "rack", identity, tmp_path / "out.jsonl"), main_source(rack))


class Collected:
    """What an engine said, and a way to wait for it from the test's thread."""

    def __init__(self) -> None:
        self.items: list[AudioItem] = []
        self._changed = threading.Condition()

    def emit(self, item: AudioItem) -> None:
        with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    def wait(self, enough: Callable[[], bool], timeout: float = 15) -> None:
        with self._changed:
            assert self._changed.wait_for(enough, timeout), [
                i for i in self.items if isinstance(i, SourceEvent)
            ]

    @property
    def meters(self) -> list[MeterMeasurement]:
        return [item for item in self.items if isinstance(item, MeterMeasurement)]

    def events(self, name: str) -> list[SourceEvent]:
        return [item for item in self.items if isinstance(item, SourceEvent) and item.name == name]


def test_a_consumer_that_sleeps_loses_its_own_audio_by_the_sample_and_nobody_elses() -> None:
    collected = Collected()
    engine = AudioEngine(parse_sources(["tone:997@-23"]), collected.emit)
    engine.open()
    tap = engine.tap("main")
    sleeper: Cursor = tap.open()
    engine.start()
    try:
        long = int((LIMITS.audio_ring_seconds + 1) * 20)
        collected.wait(lambda: len(collected.meters) >= long)
        read, first = 0, None
        while (block := sleeper.read(0.0, 1)) is not None:
            first = block.index if first is None else first
            read += len(block.samples)
            if read > 2 * RATE:
                break
        assert first is not None
        assert first == sleeper.lost_frames > RATE // 2, "what was overwritten is counted to the sample"
        assert sleeper.overruns == 1
        tap.close(sleeper)
    finally:
        engine.stop()
    (status,) = engine.status()
    assert (status.overruns, status.gaps) == (0, 0)
    assert [m.start for m in collected.meters[:long]] == [n * FRAME for n in range(long)]


def test_nan_and_infinite_samples_are_counted_one_by_one_and_reach_no_meter(tmp_path: Path) -> None:
    signal = np.full((RATE, 2), 0.1, dtype=np.float32) * np.array([1, -1], dtype=np.float32)
    signal[5_000:5_100, 0] = np.nan
    signal[20_000, 1] = np.inf
    signal[30_000, 0] = -np.inf
    soundfile.write(tmp_path / "bad.wav", signal, RATE, subtype="FLOAT")
    collected = Collected()
    engine = AudioEngine(parse_sources([f"file:{tmp_path}/bad.wav"]), collected.emit)
    engine.start()
    try:
        collected.wait(lambda: bool(collected.events("source_ended")))
    finally:
        engine.stop()
    (status,) = engine.status()
    assert status.nonfinite_samples == 102
    assert (status.gaps, status.overruns) == (0, 0)
    assert [m.start for m in collected.meters] == [n * FRAME for n in range(20)]
    for measured in collected.meters:
        levels = measured.levels
        for values in (levels.peak, levels.rms, levels.true_peak, levels.ppm1, levels.vu):
            assert not np.isnan(values).any()
            assert not np.isposinf(values).any()
    assert [event.start for event in collected.events("nonfinite")][:1] == [5_000]


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_step_of_the_clock_is_said_and_dated_and_moves_no_sample(step_s: int) -> None:
    offset = 0
    clock = CaptureClock(wall=lambda: time.time_ns() + offset)
    collected = Collected()
    engine = AudioEngine(parse_sources(["tone:997@-23"]), collected.emit, clock=clock)
    engine.start()
    try:
        collected.wait(lambda: len(collected.meters) >= 20)
        offset = step_s * 1_000_000_000
        before = len(collected.meters)
        collected.wait(lambda: len(collected.meters) >= before + 20)
    finally:
        engine.stop()
    (status,) = engine.status()
    assert (status.clock_steps, status.gaps, status.overruns) == (1, 0, 0)
    assert [m.start for m in collected.meters] == [n * FRAME for n in range(len(collected.meters))]
    apart = np.diff([m.time_ns for m in collected.meters[:-1]]) / 1e6  # the last is cut short by the end
    stepped = np.abs(apart - 50.0) > 10
    assert stepped.sum() == 1
    assert apart[stepped][0] == pytest.approx(50 + step_s * 1000, abs=20)
    (event,) = collected.events("clock_stepped")
    assert event.detail["step_ms"] == pytest.approx(step_s * 1000, abs=20)
