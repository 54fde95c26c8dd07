"""Modules at the places of a rack: seated, replaced and taken down while audio goes on, or does not."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from stagebox.errors import CaptureError
from stagebox.modules.capabilities import Capability
from stagebox.modules.compiling import compile_module
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.patch import Insert, Point
from stagebox.modules.statement import ModuleLimits
from stagebox_rack.audio.capture import StreamFormat
from stagebox_rack.audio.channel_map import ChannelMap
from stagebox_rack.audio.engine import Tap
from stagebox_rack.audio.insert import InsertPoint, InsertPoints
from stagebox_rack.audio.ring import Cursor, Ring
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.arranging import Placed
from stagebox_rack.modules.guard import Admitted
from stagebox_rack.modules.hosting import arrangement
from stagebox_rack.modules.hosting.chain import Chain
from stagebox_rack.modules.hosting.hosted import Started
from stagebox_rack.modules.hosting.lane import Lane
from stagebox_rack.modules.hosting.patience import Patience
from stagebox_rack.modules.patching import Patching
from stagebox_rack.modules.tap import TapRunner
from support.hosting import BLOCK, RATE, Stage, module_stage, module_wat, ones
from support.leaks import eventually
from support.modules import assemble

HALF = assemble(module_wat())


def placed(insert: str, source: str, *, version: str = "1.0.0", data: bytes = HALF) -> Placed:
    """A module before the meters of a source."""
    module = Admitted(
        name="half",
        version=version,
        digest=bytes(32),
        data=data,
        granted=frozenset({Capability.AUDIO}),
        limits=ModuleLimits(),
        params={},
        serial=1,
        vendor=bytes(16),
        vendor_digest=bytes(32),
        expires=1 << 62,
    )
    return Placed(Insert(insert, "half", version, bytes(32), len(data), Point.METERS, source), module)


class Scene:
    """Places with taps of sources that are captured at ``rates``; nothing else is needed of a rack."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.rates: dict[str, int] = {}
        self._taps: dict[str, Tap] = {}
        self.meters = InsertPoints()
        self.patching = Patching(
            hosts=stage.hosts, meters=self.meters, monitors=InsertPoints(), tap=self._tap, buses={}
        )

    def _tap(self, source: str) -> Tap:
        if source not in self.rates:
            raise CaptureError(f"{source} is not captured")
        if source not in self._taps:
            opened = StreamFormat(self.rates[source], 1)
            ring = Ring(opened.rate, 1, min_block=64)
            self._taps[source] = Tap(opened, ChannelMap.identity(1), ring)
        return self._taps[source]

    async def running(self, *inserts: str) -> None:
        """Wait until these run."""

        def all_run() -> bool:
            found = self.patching.running()
            return all(one in found and found[one].state == "running" for one in inserts)

        await eventually(all_run, timeout=20)


@asynccontextmanager
async def scene_of(*sources: str, rate: int = RATE) -> AsyncIterator[Scene]:
    async with module_stage() as stage:
        scene = Scene(stage)
        scene.rates = dict.fromkeys(sources, rate)
        yield scene
        await scene.patching.stop()


class Playing:
    """Plays ones through a point in real time, as a source's meters would, in a thread of its own."""

    def __init__(self, point: InsertPoint) -> None:
        self._point = point
        self._stopping = threading.Event()
        self.heard: list[np.ndarray] = []
        self._thread = threading.Thread(target=self._run, name="meters")

    async def __aenter__(self) -> Playing:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)

    async def until(self, level: float) -> None:
        """Wait until a block ends at ``level`` from now on."""
        have = len(self.heard)
        await eventually(lambda: any(one[-1, 0] == level for one in self.heard[have:]), timeout=20)

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            self.heard.append(self._point.process(ones(), start=0, time_ns=0).copy())


async def test_what_is_taken_down_fades_out_before_it_is_gone() -> None:
    async with scene_of("main") as scene:
        async with Playing(scene.meters.at("main")) as playing:
            await scene.patching.arrange((placed("eq", "main"),))
            await playing.until(0.5)
            await scene.patching.arrange(())
            await playing.until(1.0)
        steps = np.abs(np.diff(np.concatenate(playing.heard)[:, 0]))
        assert steps.max() < 2 / BLOCK, "both ways"


async def test_a_source_that_stopped_holds_up_nobody_who_takes_its_modules_away() -> None:
    sources = [f"source{number}" for number in range(6)]
    async with scene_of(*sources) as scene:
        await scene.patching.arrange(tuple(placed(source, source) for source in sources))
        await scene.running(*sources)
        for source in sources:
            scene.meters.at(source).process(ones(), start=0, time_ns=0)
        begun = time.monotonic()
        await scene.patching.arrange(())
        assert time.monotonic() - begun < LIMITS.module_fade_wait + 0.5


async def test_taking_away_at_one_source_does_not_wait_for_what_starts_at_others() -> None:
    sources = [f"source{number}" for number in range(6)]
    async with scene_of(*sources) as scene:
        await scene.patching.arrange(tuple(placed(source, source) for source in sources))
        await scene.running(*sources)
        going_on = threading.Event()

        def slow(data: bytes) -> bytes:
            going_on.wait(20)
            return compile_module(data)

        scene.stage.hosts._codes._compile = slow
        other = assemble(module_wat("(nop)"))
        news = tuple(placed(source, source, version="2.0.0", data=other) for source in sources[:5])
        begun = time.monotonic()
        try:
            await scene.patching.arrange(news)
            assert time.monotonic() - begun < LIMITS.module_swap_wait + 1.0
        finally:
            going_on.set()
        assert sources[5] not in scene.patching.running()


async def test_a_place_that_lacks_memory_or_descriptors_keeps_no_other_one_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[int] = []

    def full(*shape: int) -> int:
        opened.append(1)
        if len(opened) == 1:
            raise OSError(12, "Cannot allocate memory")
        return create(*shape)

    create = Lane.create
    async with scene_of("a", "b") as scene:
        wanted = (placed("one", "a"), placed("two", "b"))
        monkeypatch.setattr(Lane, "create", full)
        with pytest.raises(OSError, match="allocate"):
            await scene.patching.arrange(wanted)
        assert scene.patching.running()["one"].code == "no_room"
        await scene.running("two")
        await scene.patching.arrange(wanted)
        await scene.running("one", "two")


@pytest.mark.parametrize("rate", [48_000, 44_100, 22_050, 8_000])
async def test_blocks_have_20_ms_at_every_rate_that_has_whole_ones(rate: int) -> None:
    async with scene_of("main", rate=rate) as scene:
        await scene.patching.arrange((placed("eq", "main"),))
        await scene.running("eq")
        for seat in scene.patching._seats.values():
            assert isinstance(seat.line, Chain)
            seat.line.patience = Patience(1.0, 5.0)
        point = scene.meters.at("main")
        point.process(ones(rate // 50), start=0, time_ns=0)
        for frames in (rate // 20, rate // 50, 1, rate // 50 + 1, rate):
            heard = point.process(ones(frames), start=0, time_ns=0)
            assert heard.shape == (frames, 1)
            assert np.all(heard == 0.5)


async def test_a_rate_without_whole_blocks_waits_and_says_so_and_its_audio_passes() -> None:
    async with scene_of("main", rate=11_025) as scene:
        await scene.patching.arrange((placed("eq", "main"),))
        assert scene.patching.running()["eq"].state == "waiting"
        samples = ones(551)
        assert scene.meters.at("main").process(samples, start=0, time_ns=0) is samples


async def test_a_compiler_that_cannot_be_run_now_is_run_later_and_the_module_is_not_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[bytes] = []

    def lacking(data: bytes) -> bytes:
        tried.append(data)
        if len(tried) == 1:
            raise OSError(24, "Too many open files")
        return compile_module(data)

    monkeypatch.setattr(arrangement, "LIMITS", dataclasses.replace(LIMITS, module_host_retry_max=0.1))
    async with scene_of("main") as scene:
        scene.stage.hosts._codes._compile = lacking
        await scene.patching.arrange((placed("eq", "main"),))
        await scene.stage.event(Started)
        assert scene.patching.running()["eq"].state == "running"
        assert len(tried) == 2


async def test_a_tap_whose_thread_cannot_be_started_reads_nothing_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[Cursor] = []

    class Watched(Tap):
        def close(self, cursor: Cursor) -> None:
            closed.append(cursor)
            super().close(cursor)

    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    tap = Watched(StreamFormat(RATE, 1), ChannelMap.identity(1), Ring(RATE, 1, min_block=64))
    monkeypatch.setattr(threading.Thread, "start", full)
    with pytest.raises(RuntimeError):
        TapRunner("main", tap, InsertPoint())
    assert len(closed) == 1


async def test_what_its_host_has_no_room_for_is_taken_to_another() -> None:
    def large(insert: str, source: str) -> Placed:
        one = placed(insert, source)
        limits = ModuleLimits(memory_bytes=FORMAT.memory_bytes)
        return dataclasses.replace(one, module=dataclasses.replace(one.module, limits=limits))

    most = LIMITS.module_host_room_bytes // (FORMAT.memory_bytes + LIMITS.module_instance_bytes)
    async with module_stage(2) as stage:
        scene = Scene(stage)
        scene.rates = dict.fromkeys(("a", "b", "c"), RATE)
        # The first and the third are opened on one host, which the first fills.
        wanted = (*(large(f"a{n}", "a") for n in range(most)), placed("b", "b"), large("c", "c"))
        await scene.patching.arrange(wanted)
        await scene.running(*(one.insert.id for one in wanted))
        async with Playing(scene.meters.at("c")) as playing:
            await playing.until(0.5)
        # Beyond both hosts' room it waits, and comes when there is some.
        more = tuple(large(f"b{n}", "b") for n in range(most - 1))
        await scene.patching.arrange((*wanted, *more))
        waiting = [
            one
            for one, found in scene.patching.running().items()
            if (found.state, found.code) == ("waiting", "no_room")
        ]
        assert waiting
        await scene.patching.arrange((*wanted[most:], *more))
        await scene.running(*waiting)
        await scene.patching.stop()
