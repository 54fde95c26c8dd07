"""What was revoked is out of all audio well within a second, whatever its host or the rest of the rack is about."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Iterator

import pytest

from stagebox.modules.compiling import compile_module
from stagebox.modules.statement import ModuleLimits
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting import arrangement
from stagebox_rack.modules.hosting.chain import Chain, Mode
from stagebox_rack.modules.hosting.hosted import HostDied, Started, Stopped
from support.hostile_hosts import hosts_that
from support.hosting import FOREVER, Stage, module_stage, module_wat, ones, placed, play_until, wet
from support.leaks import eventually

LONG = ModuleLimits(fuel_per_block=1_000_000_000, epoch_ms=10_000)
SECOND = placed(module_wat("(nop)"), version="2.0.0")
BOUND = 0.6
"""Seconds from the word to silence: what a host is given to obey, and a fade; the rest of a second is the snake's."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing else than a revocation end what is heard in these tests."""
    slow = dataclasses.replace(LIMITS, module_swap_wait=60.0, module_take_away=60.0)
    monkeypatch.setattr(arrangement, "LIMITS", slow)


class Listening:
    """Plays ones through a chain in real time, in a thread of its own; ``heard`` has when each piece came, and how."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._stopping = threading.Event()
        self.heard: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._run, name="audio")

    async def until(self, level: float) -> None:
        """Wait until ones come out at ``level``."""
        have = len(self.heard)
        await eventually(lambda: any(one == level for _, one in self.heard[have:]), timeout=20)

    async def dry_since(self, said: float) -> None:
        """Hear half a second more, and see that from the bound on all of it was dry."""
        await eventually(lambda: self.heard[-1][0] > said + BOUND + 0.5, timeout=20)
        late = {level for at, level in self.heard if at > said + BOUND}
        assert late == {1.0}

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            level = float(self._chain.process(ones(), start=0, time_ns=0)[-1, 0])
            self.heard.append((time.monotonic(), level))

    async def __aenter__(self) -> Listening:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)


@pytest.fixture
def slow_compiler() -> Iterator[threading.Event]:
    """What lets a compiler go on that waits for it."""
    going_on = threading.Event()
    yield going_on
    going_on.set()


async def swap(stage: Stage, chain: Chain, going_on: threading.Event) -> None:
    """Have version 2 of ``one`` take its time; return when nobody waits for it any more."""

    def slow(data: bytes) -> bytes:
        going_on.wait(20)
        return compile_module(data)

    stage.hosts._codes._compile = slow
    await stage.hosts.arrange(chain, [SECOND])


async def test_a_version_that_is_heard_until_its_successor_runs_is_not_if_it_is_revoked(
    slow_compiler: threading.Event,
) -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed())
        async with Listening(chain) as listening:
            await listening.until(0.5)
            swapping = asyncio.create_task(swap(stage, chain, slow_compiler))
            await listening.until(0.5)
            assert not swapping.done()
            said = time.monotonic()
            await stage.hosts.withdraw([placed()])
            await listening.dry_since(said)
            slow_compiler.set()
            await listening.until(0.5)
            await swapping
        assert stage.hosts.status()["one"].version == "2.0.0"
        assert stage.of(HostDied) == [], "it obeyed"


async def test_a_version_that_is_revoked_before_it_runs_never_does(slow_compiler: threading.Event) -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed())
        async with Listening(chain) as listening:
            await listening.until(0.5)
            swapping = asyncio.create_task(swap(stage, chain, slow_compiler))
            await eventually(lambda: stage.hosts.status()["one"].version == "2.0.0")
            said = time.monotonic()
            await stage.hosts.withdraw([SECOND])
            await swapping
            slow_compiler.set()
            await listening.dry_since(said)
        assert len(stage.of(Started)) == 1
        assert stage.hosts.status() == {}


@pytest.mark.parametrize("leaving", [False, True], ids=["in-use", "just-taken-away"])
async def test_a_guest_that_hogs_its_host_keeps_nothing_revoked_in_the_way_of_audio(leaving: bool) -> None:
    hog = module_wat(f"(if (i32.eq (global.get $blocks) (i32.const 2)) (then {FOREVER}))")
    async with module_stage() as stage:
        chain = await stage.chain(placed())
        other = await stage.chain(placed(hog, insert="hog", limits=LONG), name="other")
        async with Listening(chain) as listening:
            await listening.until(0.5)
            for _ in range(2):
                other.process(ones(), start=0, time_ns=0)
            taking = asyncio.create_task(stage.hosts.arrange(chain, [] if leaving else [placed()]))
            await asyncio.sleep(0)
            said = time.monotonic()
            await stage.hosts.withdraw([placed()])
            assert time.monotonic() - said < BOUND
            assert chain.mode in (Mode.OFF, Mode.DOWN), "whatever the host does now, nobody listens"
            await listening.dry_since(said)
            await taking
        assert "held on" in (await stage.event(HostDied)).reason
        await stage.event(Started, 3)
        assert set(stage.hosts.status()) == {"hog"}


async def test_a_host_that_says_it_obeyed_and_did_not_is_not_listened_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deaf = """
def _order(self, lane, pairs):
    if pairs:
        super()._order(lane, pairs)
"""
    with hosts_that(deaf, monkeypatch):
        async with module_stage() as stage:
            chain = await stage.chain(placed())
            async with Listening(chain) as listening:
                await listening.until(0.5)
                said = time.monotonic()
                await stage.hosts.withdraw([placed()])
                await listening.dry_since(said)


async def test_what_sits_beside_what_is_revoked_goes_on() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed(insert="bad"), placed(insert="good"))
        async with Listening(chain) as listening:
            await listening.until(0.25)
            await stage.hosts.withdraw([placed(insert="bad")])
            await listening.until(0.5)
            levels = [level for _, level in listening.heard]
        assert 1.0 not in levels[levels.index(0.25) :], "it was never bypassed"
        await play_until(chain, wet)
        assert stage.of(Stopped) == []
        assert len(stage.of(Started)) == 2
