"""Hosts that are killed, stopped or left alone: audio goes on, they come back, and who was on stage is blamed."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from stagebox.modules.capabilities import Capability
from stagebox.modules.statement import ModuleLimits
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.chain import Chain, Mode
from stagebox_rack.modules.hosting.feed import Feed
from stagebox_rack.modules.hosting.hosted import Emitted, Faulted, HostDied, InsertState, Started, Stopped
from support.hosting import (
    BLOCK,
    FOREVER,
    Float32,
    Stage,
    descriptors_of,
    dry,
    module_stage,
    module_wat,
    ones,
    placed,
    play,
    play_until,
    wet,
)
from support.leaks import eventually

LONG = ModuleLimits(fuel_per_block=1_000_000_000, epoch_ms=10_000)


class AudioThread:
    """Plays ones through a chain in a thread of its own, as a rack does, and keeps how long each piece took."""

    def __init__(self, chain: Chain, pause: float = 0.002) -> None:
        self._chain = chain
        self._pause = pause
        self._stopping = threading.Event()
        self.failure: BaseException | None = None
        self.levels: list[float] = []
        self.times: list[float] = []
        self._thread = threading.Thread(target=self._run, name="audio")

    async def __aenter__(self) -> AudioThread:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)
        assert self.failure is None

    async def until(self, level: float) -> None:
        """Wait until ones come out at ``level``."""
        have = len(self.levels)
        await eventually(lambda: level in self.levels[have:], timeout=20)

    def _run(self) -> None:
        samples, start = ones(), 0
        try:
            while not self._stopping.wait(self._pause):
                begun = time.monotonic()
                heard: Float32 = self._chain.process(samples, start=start, time_ns=0)
                self.times.append(time.monotonic() - begun)
                assert heard.shape == samples.shape
                assert heard.dtype == np.float32
                assert np.isfinite(heard).all()
                self.levels.append(float(heard[-1, 0]))
                start += BLOCK
        except BaseException as error:
            self.failure = error


async def test_a_host_that_is_killed_costs_audio_nothing_and_comes_back() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed())
        async with AudioThread(chain) as audio:
            for death in range(1, 4):
                await audio.until(0.5)
                os.kill(stage.hosts.pids[0], signal.SIGKILL)
                died = await stage.event(HostDied, death)
                assert died.reason == "killed by SIGKILL"
                await audio.until(1.0)
                await stage.event(Started, death + 1)
            await audio.until(0.5)
        assert set(audio.levels) <= {0.5, 1.0}
        assert chain.counters.bypassed > 0
        assert chain.counters.errors == 0


async def test_a_host_that_hangs_is_waited_for_no_longer_than_audio_can_and_is_replaced() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed())
        async with AudioThread(chain) as audio:
            await audio.until(0.5)
            hung = stage.hosts.pids[0]
            os.kill(hung, signal.SIGSTOP)
            died = await stage.event(HostDied)
            assert "did not answer" in died.reason
            await audio.until(0.5)
            assert stage.hosts.pids != (hung,)
        assert not psutil.pid_exists(hung)
        assert chain.counters.late == 1, "one piece waited, the others knew"
        assert max(audio.times) < LIMITS.module_wait_credit + 0.1


async def test_who_is_on_stage_when_a_host_dies_gets_the_blame_and_strikes_out() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(
            placed(insert="good"), placed(module_wat(FOREVER), insert="bad", limits=LONG)
        )
        for death in range(1, 4):
            await stage.event(Started, 2 * death)
            chain.process(ones(), start=0, time_ns=0)
            await asyncio.sleep(0.05)
            os.kill(stage.hosts.pids[0], signal.SIGKILL)
            assert (await stage.event(HostDied, death)).insert == "bad"
        stopped = await stage.event(Stopped)
        assert (stopped.insert, stopped.code, stopped.reason) == ("bad", "host_died", "killed by SIGKILL")
        await play_until(chain, wet)
        assert stage.hosts.status()["good"].state is InsertState.RUNNING


async def test_strikes_outlive_a_host() -> None:
    trap = module_wat("(if (i32.eq (global.get $blocks) (i32.const 3)) (then (unreachable)))")
    async with module_stage() as stage:
        chain = await stage.chain(placed(trap))
        await play(chain, ones(BLOCK * 7), pause=0.02)
        assert (await stage.event(Faulted, 2)).strikes == 2
        os.kill(stage.hosts.pids[0], signal.SIGKILL)
        await stage.event(Started, 2)
        await play(chain, ones(BLOCK * 4), pause=0.02)
        await stage.event(Stopped)
        assert stage.hosts.status()["one"].faults == 3


async def test_a_host_that_dies_takes_no_other_host_with_it() -> None:
    async with module_stage(2) as stage:
        hall = await stage.chain(placed(insert="a"), name="hall")
        stage_left = await stage.chain(placed(insert="b"), name="stage-left")
        first, second = stage.hosts.pids
        async with AudioThread(hall) as one, AudioThread(stage_left) as two:
            await one.until(0.5)
            await two.until(0.5)
            seen = len(two.levels)
            os.kill(first, signal.SIGKILL)
            await stage.event(HostDied)
            await stage.event(Started, 3)
            await one.until(0.5)
            assert second in stage.hosts.pids
            assert set(two.levels[seen:]) == {0.5}
        assert stage_left.counters.bypassed == 0


async def test_a_hanging_guest_does_not_keep_a_module_from_being_taken_away() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(
            placed(module_wat(FOREVER), limits=ModuleLimits(1_000_000_000, epoch_ms=200))
        )
        chain.process(ones(), start=0, time_ns=0)
        begun = time.monotonic()
        await stage.hosts.arrange(chain, [])
        assert time.monotonic() - begun < 1.0
        await play_until(chain, lambda heard: dry(heard) and chain.mode is Mode.OFF)


async def test_a_module_that_may_hang_for_long_is_taken_away_within_a_second() -> None:
    good, bad = placed(insert="good", limits=LONG), placed(module_wat(FOREVER), insert="bad", limits=LONG)
    async with module_stage() as stage:
        chain = await stage.chain(good, bad)
        chain.process(ones(), start=0, time_ns=0)
        begun = time.monotonic()
        await stage.hosts.arrange(chain, [good])
        assert time.monotonic() - begun < 1.0
        await play_until(chain, wet)
        assert set(stage.hosts.status()) == {"good"}


async def test_hosts_are_started_only_when_there_is_something_to_run() -> None:
    async with module_stage(2) as stage:
        chain = stage.hosts.open_chain("hall", 48_000, 2)
        await stage.hosts.arrange(chain, [])
        assert dry(await play(chain, ones(BLOCK * 3, channels=2)))
        assert stage.hosts.pids == ()
        assert chain.counters.blocks == 0, "nothing is placed, so nothing is bypassed"


async def test_a_host_has_nothing_but_what_it_is_given() -> None:
    os.environ["STAGEBOX_TEST_SECRET"] = "x"
    secret = os.open(__file__, os.O_RDONLY)
    try:
        async with module_stage() as stage:
            chain = await stage.chain(placed())
            await play(chain, ones(BLOCK * 2))
            pid = stage.hosts.pids[0]
            process = psutil.Process(pid)
            assert "STAGEBOX_TEST_SECRET" not in process.environ()
            assert process.cwd() == "/"
            kinds = {target.split(":")[0] for target in descriptors_of(pid)}
            assert kinds <= {"/dev/null", "pipe", "socket", "/memfd", "anon_inode"}
            assert os.getsid(pid) == pid
            assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
            assert resource.prlimit(pid, resource.RLIMIT_FSIZE) == (0, 0)
            assert resource.prlimit(pid, resource.RLIMIT_DATA)[1] == LIMITS.module_host_data_bytes
            status = Path(f"/proc/{pid}/status").read_text()
            assert "NoNewPrivs:\t1" in status
            assert process.nice() == psutil.Process().nice() + LIMITS.module_host_nice
    finally:
        os.close(secret)
        del os.environ["STAGEBOX_TEST_SECRET"]


async def test_hosts_die_with_their_rack() -> None:
    script = """
import asyncio, sys
from support.hosting import module_stage, placed
async def main():
    async with module_stage() as stage:
        await stage.chain(placed())
        print(stage.hosts.pids[0], flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    rack = subprocess.Popen(  # noqa: ASYNC220 - it is killed, not awaited
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert rack.stdout is not None
    host = int(await asyncio.to_thread(rack.stdout.readline))
    rack.kill()
    rack.wait()
    rack.stdout.close()
    await eventually(lambda: not psutil.pid_exists(host) or psutil.Process(host).status() == "zombie")


async def test_a_chain_can_be_closed_while_its_audio_thread_is_inside() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed())
        async with AudioThread(chain, pause=0.0) as audio:
            await audio.until(0.5)
            await stage.hosts.close(chain)
            await audio.until(1.0)
        assert chain.counters.errors == 0


async def test_what_has_settled_is_in_the_way_of_the_next_block() -> None:
    async with module_stage() as stage:
        for name in ("hall", "stage-left"):
            chain = await stage.chain(*(placed(insert=f"{name}-{n}") for n in range(4)), name=name)
            chain.process(ones(), start=0, time_ns=0)
            assert np.all(chain.process(ones(), start=0, time_ns=0) == 0.5**4)
        assert len(stage.of(Started)) == 8


async def test_many_arrangements_in_a_row_end_with_the_last() -> None:
    async with module_stage() as stage:
        chain = await stage.chain()
        async with AudioThread(chain) as audio:
            for number in range(12):
                wanted = [
                    placed(insert=name, version=f"1.0.{number}") for name in ("a", "b", "c")[: number % 4]
                ]
                await stage.hosts.arrange(chain, wanted)
            await stage.hosts.arrange(chain, [placed(insert="b"), placed(insert="a")])
            await stage.hosts.settled(chain)
            await audio.until(0.25)
            await audio.until(0.25)
        assert set(stage.hosts.status()) == {"a", "b"}
        assert stage.of(HostDied) == []
        assert stage.of(Faulted) == []


LISTENING = """
(module
  (import "stagebox" "emit" (func $emit (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2 2)
  (data (i32.const 0) "\\a2\\61k\\00\\61n\\18\\00")
  (data (i32.const 64) "heard")
  (func (export "init") (param i32 i32 i32) (result i32)
    (i32.or (local.get 0) (i32.or (local.get 1) (local.get 2))))
  (func (export "record_ptr") (result i32) (i32.const 1024))
  (func (export "record_capacity") (result i32) (i32.const 200))
  (func (export "record") (param $kind i32) (param $subject i32) (param $size i32) (result i32)
    (if (i32.eq (i32.load8_u (i32.add (i32.const 1024) (local.get $subject))) (i32.const 0xff))
      (then (unreachable)))
    (i32.store8 (i32.const 3) (local.get $kind))
    (i32.store8 (i32.const 7) (local.get $size))
    (drop (call $emit (i32.const 64) (i32.const 5) (i32.const 0) (i32.const 8)))
    (i32.const 0)))
"""


async def feed_of(stage: Stage) -> Feed:
    feed = stage.hosts.open_feed("records")
    granted = (Capability.TELEMETRY, Capability.EMIT)
    await stage.hosts.arrange(
        feed, [placed(LISTENING, granted=granted, limits=ModuleLimits(records_per_s=1000))]
    )
    await stage.hosts.settled(feed)
    return feed


async def test_records_reach_a_telemetry_module_in_order() -> None:
    async with module_stage() as stage:
        feed = await feed_of(stage)
        for size in range(30, 60):
            assert feed.offer(2, "rack.a.event.b", bytes(size))
        await stage.event(Emitted, 30)
        assert [event.data for event in stage.of(Emitted)] == [{"k": 2, "n": size} for size in range(30, 60)]
        assert all(event.start == 0 and event.time_ns > 0 for event in stage.of(Emitted))


async def test_a_record_that_a_module_has_no_room_for_passes_it() -> None:
    async with module_stage() as stage:
        feed = await feed_of(stage)
        assert feed.offer(1, "s", bytes(200))
        assert feed.offer(1, "s", bytes(24))
        assert (await stage.event(Emitted)).data == {"k": 1, "n": 24}
        assert not feed.offer(1, "s", bytes(LIMITS.module_feed_record_bytes))
        assert (feed.counters.offered, feed.counters.dropped) == (3, 1)


async def test_a_record_that_trips_a_module_costs_that_record() -> None:
    async with module_stage() as stage:
        feed = await feed_of(stage)
        assert feed.offer(1, "s", b"\xff")
        assert feed.offer(1, "s", bytes(24))
        assert (await stage.event(Faulted)).code == "unreachable"
        await stage.event(Emitted)
        for _ in range(2):
            assert feed.offer(1, "s", b"\xff")
        await stage.event(Stopped)
        await eventually(lambda: not feed.offer(1, "s", bytes(24)))


async def test_a_feed_never_waits_for_a_host_that_hangs() -> None:
    async with module_stage() as stage:
        feed = await feed_of(stage)
        os.kill(stage.hosts.pids[0], signal.SIGSTOP)
        begun = time.monotonic()
        for _ in range(3_000):
            feed.offer(1, "s", bytes(1000))
        assert time.monotonic() - begun < 1.0
        assert feed.counters.dropped > 0
        os.kill(stage.hosts.pids[0], signal.SIGKILL)
        await stage.event(Started, 2)
        assert feed.offer(1, "s", bytes(24))
        await stage.event(Emitted)
