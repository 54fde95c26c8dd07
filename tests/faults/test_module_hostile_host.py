"""A host that a guest has taken over: it can spoil the audio it was given, and nothing else of the rack."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stagebox.modules.capabilities import Capability
from stagebox.modules.statement import ModuleLimits
from stagebox_rack.audio.capture import StreamFormat
from stagebox_rack.audio.channel_map import ChannelMap
from stagebox_rack.audio.insert import InsertPoint
from stagebox_rack.audio.measurement import MeterMeasurement
from stagebox_rack.audio.pipeline import SourcePipeline
from stagebox_rack.audio.ring import Block, BlockFlag
from stagebox_rack.metering.conditions import ConditionSettings
from stagebox_rack.metering.layout import MeterLayout, Programme
from stagebox_rack.modules.hosting.hosted import Emitted, Faulted, HostDied, InsertState, Logged, Stopped
from stagebox_rack.modules.hosting.lane import ANSWERED, ASKED, FRAMES, FUEL, REPLY, STATUS, WET
from stagebox_rack.modules.hosting.stage import Stage as Page
from support.hostile_hosts import Captor, Taken, hosts_that
from support.hosting import BLOCK, RATE, dry, module_stage, ones, placed, play, play_until, wet


def steal(captor: Captor) -> None:
    """Try to take an answer back: whoever was told that it is there would wait for it."""
    captor.answer()
    os.set_blocking(captor.reply, True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(captor.reply, 8)


def lie(captor: Captor) -> None:
    """Say that everything but what was asked is answered."""
    asked = captor.lane.header[ASKED]
    captor.lane.header[ANSWERED] = asked
    for number in (-1, 0, asked - 1, asked + 1, (1 << 63) - 1):
        os.write(captor.reply, REPLY.pack(number))
    os.write(captor.reply, b"\xff")


def scribble(captor: Captor) -> None:
    """Change what is the rack's to say, and answer."""
    header = captor.lane.header
    asked = header[ASKED]
    for index in (FRAMES, STATUS, FUEL, ASKED):
        header[index] = -(1 << 63)
    header[ANSWERED], header[STATUS] = asked, WET
    os.write(captor.reply, REPLY.pack(asked))


@pytest.mark.parametrize("obey", [steal, lie, scribble])
async def test_whatever_a_host_says_audio_waits_no_longer_for_it(obey: Callable[[Captor], None]) -> None:
    async with Taken(obey) as taken:
        begun = time.monotonic()
        async with asyncio.timeout(10):
            for _ in range(30):
                heard = await asyncio.to_thread(taken.chain.process, ones(), start=0, time_ns=0)
                assert heard.shape == (BLOCK, 1)
                assert np.isfinite(heard).all()
        assert time.monotonic() - begun < 30 * 0.02 + 1.0


def giving(value: float) -> Callable[[Captor], None]:
    def obey(captor: Captor) -> None:
        captor.lane.outputs[:] = value
        captor.answer()

    return obey


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e19])
async def test_what_is_no_audio_reaches_no_meter(value: float) -> None:
    layout = MeterLayout(RATE, 1, (Programme("all", (0,), (1.0,)),), (), 20)
    insert = InsertPoint()
    pipeline = SourcePipeline(
        "main", StreamFormat(RATE, 1), ChannelMap.identity(1), layout, ConditionSettings.none(), insert
    )
    async with Taken(giving(value)) as taken:
        insert.use(taken.chain)
        measured = []
        for number in range(40):
            block = Block(0.1 * ones(), number * BLOCK, number * 20_000_000, BlockFlag.NONE, 0)
            measured += [one for one in pipeline.accept(block) if isinstance(one, MeterMeasurement)]
        assert taken.chain.counters.errors == len(measured) > 10
        for one in measured:
            assert one.levels.peak[0] == pytest.approx(-20.0, abs=0.01)
            assert one.levels.rms[0] == pytest.approx(-20.0, abs=0.1)


async def test_a_host_that_keeps_talking_and_owes_an_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    body = """
verb = ""
def _obey(self, verb, fields, descriptors):
    self.verb = verb
    super()._obey(verb, fields, descriptors)
def _answer(self, number, fault):
    if self.verb != "drop":
        super()._answer(number, fault)
def _do_one(self):
    tally = dict.fromkeys(("Blocks", "Bypassed", "Fuel", "FuelMost", "Time", "TimeMost"), 1)
    child.time.sleep(0.02)
    self._say({"Event": "tally", "Instance": 1, **tally})
    super()._do_one()
    return True
"""
    with hosts_that(body, monkeypatch):
        async with module_stage() as stage:
            chain = await stage.chain(placed())
            async with asyncio.timeout(8):
                await stage.hosts.close(chain)
            assert "did not answer" in (await stage.event(HostDied)).reason


@pytest.mark.parametrize(
    "said",
    [
        'b"\\xff" * 9',
        'child.pack({"Event": "tally", "Instance": 1, "Blocks": -1})',
        'child.pack({"Event": "dance", "Instance": 1})',
        'child.pack({"Event": "log", "Instance": "1"})',
        'child.pack({"Answer": 77})',
        'child.pack({"Event": "log", "Instance": 1, "Level": [0] * 4000, "Text": ""})',
    ],
)
async def test_a_host_that_talks_nonsense_is_ended_and_replaced(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"""
def _order(self, lane, pairs):
    super()._order(lane, pairs)
    child.send(self._control, {said})
"""
    async with module_stage() as stage:
        with hosts_that(body, monkeypatch):
            chain = stage.hosts.open_chain("hall", RATE, 1)
            await stage.hosts.arrange(chain, [placed()])
            died = await stage.event(HostDied)
            assert "nonsense" in died.reason
            assert died.reason.isprintable()
        await play_until(chain, wet)


async def test_faults_that_a_host_makes_up_are_told_until_the_module_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = """
def _order(self, lane, pairs):
    super()._order(lane, pairs)
    for number, _ in pairs:
        for _ in range(200):
            self._tell({"Event": "fault", "Instance": number, "Code": "x", "Reason": "y"})
            self._tell({"Event": "log", "Instance": number, "Level": 0, "Text": "z"})
"""
    with hosts_that(body, monkeypatch):
        async with module_stage() as stage:
            chain = await stage.chain(placed())
            await stage.event(Stopped)
            # The host answers this after all that it said before.
            await stage.hosts.arrange(chain, [placed(), placed(insert="two")])
            assert [event.strikes for event in stage.of(Faulted) if event.insert == "one"] == [1, 2, 3]
            assert [event.insert for event in stage.of(Stopped) if event.insert == "one"] == ["one"]
            assert stage.of(Logged) == []


async def test_records_that_a_host_makes_up_are_taken_at_twice_the_modules_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = """
def _order(self, lane, pairs):
    super()._order(lane, pairs)
    for number, _ in pairs:
        for _ in range(200):
            self._tell({
                "Event": "record", "Instance": number, "Out": "leq", "Data": b"\\xa0", "Start": 0, "Time": 0,
            })
"""
    granted, limits = (Capability.AUDIO, Capability.EMIT), ModuleLimits(records_per_s=5)
    with hosts_that(body, monkeypatch):
        async with module_stage() as stage:
            begun = time.monotonic()
            await stage.chain(placed(granted=granted, limits=limits))
            # Each host answers this after all that it said before.
            await stage.chain(placed(insert="silent"), name="silent")
            most = 2 * limits.records_per_s * (1 + time.monotonic() - begun)
            assert 2 * limits.records_per_s <= len(stage.of(Emitted)) <= most
            assert {event.insert for event in stage.of(Emitted)} == {"one"}, "what was granted"


async def test_counts_that_a_host_makes_up_stay_numbers_that_everybody_can_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = """
def _order(self, lane, pairs):
    super()._order(lane, pairs)
    most = (1 << 64) - 1
    for number, _ in pairs:
        tally = dict.fromkeys(("Blocks", "Bypassed", "Fuel", "FuelMost", "Time", "TimeMost"), most)
        self._tell({"Event": "tally", "Instance": number, **tally})
    child.os._exit(1)
"""
    async with module_stage() as stage:
        with hosts_that(body, monkeypatch):
            chain = stage.hosts.open_chain("hall", RATE, 1)
            await stage.hosts.arrange(chain, [placed()])
            await stage.event(HostDied, 2)
        await stage.hosts.settled(chain)
        status = stage.hosts.status()["one"]
        assert 0 < status.bypassed < 1 << 63
        assert max(status.blocks, status.fuel, status.fuel_most, status.time_ns) < 1 << 63


async def test_what_a_host_left_in_the_bell_does_not_trip_the_next_one() -> None:
    async with module_stage() as stage:
        chain = stage.hosts.open_chain("hall", RATE, 1)
        os.write(stage.hosts._hosts[0].bell, b"\x00")  # half of a ring
        await stage.hosts.arrange(chain, [placed()])
        await play_until(chain, wet)
        assert stage.of(HostDied) == []


async def test_a_host_that_cannot_be_started_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(24, "Too many open files")

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with module_stage() as stage:
        chain = stage.hosts.open_chain("hall", RATE, 1)
        before = descriptors()
        with monkeypatch.context() as patched:
            patched.setattr(Page, "create", fail)
            await stage.hosts.arrange(chain, [placed()])
            died = await stage.event(HostDied, 2)
            assert "cannot be started" in died.reason
            assert dry(await play(chain, ones(BLOCK * 3)))
            assert descriptors() == before
        await play_until(chain, wet)
        assert stage.hosts.status()["one"].state is InsertState.RUNNING
