"""Buses that start with their first listener and stop with the last, on a real ring with real threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stagebox.errors import CaptureError, ConfigError
from stagebox_rack.audio.capture import StreamFormat
from stagebox_rack.audio.channel_map import ChannelMap
from stagebox_rack.audio.engine import Tap
from stagebox_rack.audio.measurement import OpusPacket
from stagebox_rack.audio.ring import BlockFlag, Ring
from stagebox_rack.monitor.bus import BusPlan
from stagebox_rack.monitor.service import MonitorService

RATE = 48_000
LEASE, OTHER = b"a" * 16, b"b" * 16


class Bench:
    """A captured source the test writes, and the service that sends it."""

    def __init__(self) -> None:
        self.ring = Ring(RATE, 2, min_block=64)
        self.index = 0
        self.packets: list[OpusPacket] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.now = 0.0
        self.capturing = True
        self._came = threading.Condition()
        self.service = MonitorService(
            [BusPlan("main", "main"), BusPlan("broken", "main", ("nope",))],
            tap=self._tap,
            emit=self._emit,
            event=lambda name, detail: self.events.append((name, detail)),
            now=lambda: self.now,
        )

    def _tap(self, source: str) -> Tap:
        if not self.capturing:
            raise CaptureError("nothing is captured now")
        assert source == "main"
        return Tap(StreamFormat(RATE, 2), ChannelMap.identity(2), self.ring)

    def _emit(self, packet: OpusPacket) -> None:
        with self._came:
            self.packets.append(packet)
            self._came.notify_all()

    def capture(self, blocks: int, *, gap: int = 0) -> None:
        self.index += gap
        for _ in range(blocks):
            samples = np.full((480, 2), 0.1, dtype=np.float32)
            self.ring.write(samples, self.index, self.index * 1_000_000_000 // RATE, BlockFlag.NONE)
            self.index += 480

    def wait(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.packets) >= count, 10)

    def threads(self) -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("monitor-")]


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a thread's end has no event on the loop
            await asyncio.sleep(0.005)


async def test_nothing_is_encoded_until_somebody_listens_and_after_the_last_one_left() -> None:
    bench = Bench()
    bench.capture(10)
    assert (bench.packets, bench.threads()) == ([], [])
    await bench.service.lease("main", LEASE, 30)
    await bench.service.lease("main", OTHER, 30)
    assert bench.threads() == ["monitor-main"]
    bench.capture(20)
    await asyncio.to_thread(bench.wait, 10)
    await bench.service.lease("main", LEASE, 0)
    assert bench.threads() == ["monitor-main"], "the other one still listens"
    await bench.service.lease("main", OTHER, 0)
    assert bench.threads() == []
    sent = len(bench.packets)
    bench.capture(20)
    assert len(bench.packets) == sent
    assert [name for name, _ in bench.events] == ["monitor_started", "monitor_stopped"]
    assert bench.events[1][1]["reason"] == "nobody listens"


async def test_packets_are_of_the_bus_and_continue_sample_for_sample() -> None:
    bench = Bench()
    await bench.service.lease("main", LEASE, 30)
    bench.capture(20)
    await asyncio.to_thread(bench.wait, 10)
    await bench.service.stop()
    assert {packet.bus for packet in bench.packets} == {"main"}
    assert [packet.start for packet in bench.packets] == [n * 960 for n in range(10)]
    assert [packet.time_ns for packet in bench.packets] == [(n + 1) * 20_000_000 for n in range(10)]


async def test_a_gap_in_the_capture_is_a_jump_in_the_packets() -> None:
    bench = Bench()
    await bench.service.lease("main", LEASE, 30)
    bench.capture(3)
    bench.capture(4, gap=10_007)
    await asyncio.to_thread(bench.wait, 3)
    await bench.service.stop()
    resumed = 3 * 480 + 10_007
    assert [packet.start for packet in bench.packets] == [0, resumed, resumed + 960]


async def test_a_lease_that_is_not_renewed_ends_the_bus() -> None:
    bench = Bench()
    await bench.service.lease("main", LEASE, 30)
    running = asyncio.create_task(bench.service.run())
    bench.now = 30.0
    await wait_until(lambda: not bench.threads())
    running.cancel()
    await asyncio.wait([running])
    assert bench.service.status()[0]["listening"] is False


async def test_what_cannot_be_sent_is_refused_and_leaves_no_lease() -> None:
    bench = Bench()
    with pytest.raises(ConfigError, match="there is no bus 'x'") as refused:
        await bench.service.lease("x", LEASE, 30)
    assert refused.value.remedy == "there are: main, broken"
    with pytest.raises(ConfigError, match=r"rack\.buses\.broken\.channels"):
        await bench.service.lease("broken", LEASE, 30)
    bench.capturing = False
    with pytest.raises(CaptureError):
        await bench.service.lease("main", LEASE, 30)
    assert [bus["leases"] for bus in bench.service.status()] == [0, 0]
    assert bench.threads() == []


async def test_when_capture_stops_every_bus_does_and_a_renewal_brings_it_back() -> None:
    bench = Bench()
    await bench.service.lease("main", LEASE, 30)
    await bench.service.stop()
    assert bench.threads() == []
    assert bench.events[-1][1]["reason"] == "capture stopped"
    await bench.service.lease("main", LEASE, 30)
    assert bench.threads() == ["monitor-main"]
    await bench.service.stop()


async def test_a_source_that_ends_is_said_and_does_not_stay_listening() -> None:
    bench = Bench()
    await bench.service.lease("main", LEASE, 3000)
    bench.ring.close()
    running = asyncio.create_task(bench.service.run())
    await wait_until(lambda: any(name == "monitor_stopped" for name, _ in bench.events))
    running.cancel()
    await asyncio.wait([running])
    assert bench.events[-1][1]["reason"] == "the source ended"


async def test_a_listener_that_is_slow_loses_counted_audio_and_capture_goes_on() -> None:
    bench = Bench()
    gate = threading.Event()
    emit = bench._emit

    def blocked(packet: OpusPacket) -> None:
        assert gate.wait(10)
        emit(packet)

    bench.service._emit = blocked
    await bench.service.lease("main", LEASE, 30)
    bench.capture(1000)  # ten seconds into a ring of one
    gate.set()
    await asyncio.to_thread(bench.wait, 5)
    await bench.service.stop()
    counted = bench.service.status()[0]
    assert counted["overruns"] >= 1
    assert counted["overrun_frames"] > 0
