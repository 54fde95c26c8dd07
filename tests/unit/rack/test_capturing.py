"""Capture turned on and off while the rack runs."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from typing import Any, ClassVar, cast

import pytest

from stagebox.errors import CaptureError
from stagebox_rack.audio.engine import AudioEngine
from stagebox_rack.audio.measurement import AudioItem
from stagebox_rack.capturing import Capturing
from stagebox_rack.handover import Handover
from stagebox_rack.limits import LIMITS


class Engine:
    """An engine that notes what is asked of it; it cannot start while ``broken`` is set."""

    made: ClassVar[list[Engine]] = []
    broken: ClassVar[threading.Event] = threading.Event()

    def __init__(self) -> None:
        self.calls: list[str] = []
        Engine.made.append(self)

    def open(self) -> None:
        self.calls.append("open")
        if Engine.broken.is_set():
            raise CaptureError("unplugged")

    def start(self) -> None:
        self.calls.append("start")
        if Engine.broken.is_set():
            raise CaptureError("unplugged")

    def stop(self) -> None:
        self.calls.append("stop")

    def status(self) -> tuple[()]:
        return ()


class Bench:
    def __init__(self) -> None:
        Engine.made, Engine.broken = [], threading.Event()
        self.taken: list[AudioItem] = []
        self.alerts: list[tuple[str, dict[str, Any]]] = []
        self.handover = Handover[AudioItem](asyncio.get_running_loop(), self.taken.append, max_items=9)
        self.capturing = Capturing(
            lambda: cast(AudioEngine, Engine()), self.handover, alert=lambda *alert: self.alerts.append(alert)
        )

    @property
    def calls(self) -> list[list[str]]:
        return [engine.calls for engine in Engine.made]


async def test_the_first_start_opens_then_starts_one_engine_and_a_stop_hands_over_what_waits() -> None:
    bench = Bench()
    await bench.capturing.open()
    await bench.capturing.start()
    assert bench.capturing.running
    item = cast(AudioItem, "captured")
    bench.handover.put(item)
    await bench.capturing.stop()
    assert bench.calls == [["open", "start", "stop"]]
    assert bench.taken == [item]
    assert not bench.capturing.running


async def test_a_source_that_cannot_be_captured_stops_the_first_start() -> None:
    bench = Bench()
    Engine.broken.set()
    with pytest.raises(CaptureError):
        await bench.capturing.open()
    await bench.capturing.stop()
    assert bench.calls == [["open"]]


async def test_after_an_activation_it_tries_until_the_source_is_there_and_tells_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stagebox_rack.capturing.LIMITS", dataclasses.replace(LIMITS, capture_retry=0.01))
    bench = Bench()
    Engine.broken.set()
    bench.capturing.start_soon()
    async with asyncio.timeout(5):
        while len(Engine.made) < 4:  # noqa: ASYNC110 - engines announce nothing
            await asyncio.sleep(0.005)
        Engine.broken.clear()
        while not bench.capturing.running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert bench.alerts == [("capture_not_started", {"reason": "unplugged"})]
    assert all(calls == ["start", "stop"] for calls in bench.calls[:-1])
    await bench.capturing.stop()
    assert bench.calls[-1] == ["start", "stop"]


async def test_an_error_nobody_foresaw_does_not_end_the_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagebox_rack.capturing.LIMITS", dataclasses.replace(LIMITS, capture_retry=0.01))
    bench = Bench()
    errors = iter([OSError("the sound server is gone"), RuntimeError("odd")])
    start = Engine.start

    def failing(engine: Engine) -> None:
        for error in errors:
            raise error
        start(engine)

    monkeypatch.setattr(Engine, "start", failing)
    bench.capturing.start_soon()
    async with asyncio.timeout(5):
        while not bench.capturing.running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert [name for name, _ in bench.alerts] == ["capture_not_started"] * 2
    await bench.capturing.stop()


async def test_a_suspension_while_it_still_tries_ends_the_tries_at_once() -> None:
    bench = Bench()
    Engine.broken.set()
    bench.capturing.start_soon()
    async with asyncio.timeout(5):
        while not bench.alerts:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await bench.capturing.stop()
    Engine.broken.clear()
    await asyncio.sleep(0.05)
    assert not bench.capturing.running
    assert bench.calls == [["start", "stop"]]


async def test_each_activation_has_an_engine_of_its_own() -> None:
    bench = Bench()
    for _ in range(2):
        await bench.capturing.start()
        await bench.capturing.start()
        await bench.capturing.stop()
        await bench.capturing.stop()
    assert bench.calls == [["start", "stop"]] * 2
