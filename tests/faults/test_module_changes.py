"""What is heard while modules come, change, go and are late: no click, nothing of before, audio always whole."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import numpy as np
import pytest

from stagebox.modules.capabilities import Capability
from stagebox.modules.statement import ModuleLimits
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting import arrangement
from stagebox_rack.modules.hosting.chain import Chain, Mode
from stagebox_rack.modules.hosting.hosted import (
    Emitted,
    Faulted,
    OverBudget,
    PlacedModule,
    Stopped,
)
from stagebox_rack.modules.hosting.patience import Patience
from support.hosting import (
    BLOCK,
    Float32,
    Stage,
    dry,
    emitting,
    module_stage,
    module_wat,
    ones,
    placed,
    play,
    play_until,
    sine,
    wet,
)
from support.leaks import eventually

ALL = tuple(Capability)


def largest_step(heard: Float32) -> float:
    return float(np.abs(np.diff(heard[:, 0])).max())


TONE = 37.0
"""Hz: no multiple of 50, so that a block's edge is no zero crossing; and so low that a step is not its own."""


async def heard_through(
    stage: Stage, chain: Chain, orders: list[list[PlacedModule]], *, block: int = BLOCK
) -> tuple[Float32, list[float]]:
    """Play a tone through ``chain`` while one order after the other is arranged; return it, and the gain after each."""
    chain.patience = Patience(1.0, 5.0)  # what is late is another test's matter
    heard: list[Float32] = []
    gains = []

    async def go_on() -> None:
        start = len(heard) * block
        heard.append(chain.process(sine(block, frequency=TONE, start=start), start=start, time_ns=0))
        await asyncio.sleep(0.001)  # a compiler may want the machine

    async def arrange(wanted: list[PlacedModule]) -> None:
        await stage.hosts.arrange(chain, wanted)
        await stage.hosts.settled(chain)

    for wanted in orders:
        arranging = asyncio.create_task(arrange(wanted))
        while not arranging.done():
            await go_on()
        await arranging
        for _ in range(4 * BLOCK // block):
            await go_on()
        after = np.concatenate(heard)[-BLOCK:, 0]
        tone = sine(BLOCK, frequency=TONE, start=len(heard) * block - BLOCK)[:, 0]
        gains.append(float(np.dot(after, tone) / np.dot(tone, tone)))
    return np.concatenate(heard), gains


def allowed_step(gain: float, change: float) -> float:
    """The tone's steepest step at ``gain``, and what a fade that changes it by ``change`` in 20 ms adds."""
    return gain * largest_step(sine(4 * BLOCK, frequency=TONE)) + change * 0.5 / BLOCK + 1e-4


@pytest.fixture
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a version wait for its successor, however long that takes to compile on a busy machine."""
    monkeypatch.setattr(arrangement, "LIMITS", dataclasses.replace(LIMITS, module_swap_wait=60.0))


@pytest.mark.usefixtures("_unhurried")
async def test_modules_come_change_and_go_without_a_click() -> None:
    loud = module_wat("(global.set $gain (f32.const 2))")
    off = module_wat("(global.set $gain (f32.const -1))")
    orders = [
        [],
        [placed(version="1.0.0")],
        [placed(loud, version="2.0.0")],
        [placed(loud, version="2.0.0"), placed(off, insert="two")],
        [placed(off, insert="two")],
        [],
    ]
    async with module_stage() as stage:
        chain = await stage.chain()
        heard, gains = await heard_through(stage, chain, orders)
        assert chain.counters.late == 0
        assert gains == pytest.approx([1.0, 0.5, 2.0, -2.0, -1.0, 1.0], rel=1e-3)
        assert largest_step(heard) < allowed_step(2, 3)
        assert np.array_equal(heard[-BLOCK:], sine(len(heard), frequency=TONE)[-BLOCK:])
        assert stage.of(Faulted) == []


@pytest.mark.usefixtures("_unhurried")
async def test_a_swap_in_small_blocks_has_no_click_either() -> None:
    async with module_stage() as stage:
        chain = await stage.chain()
        orders = [[placed()], [placed(version="2.0.0", params={0: 2.0})], []]
        heard, gains = await heard_through(stage, chain, orders, block=32)
        assert gains == pytest.approx([0.5, 2.0, 1.0], rel=1e-3)
        assert largest_step(heard) < allowed_step(2, 2)


async def test_what_a_revocation_takes_out_fades_as_well() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed(insert="good"), placed(insert="bad"))
        before, gains = await heard_through(stage, chain, [[placed(insert="good"), placed(insert="bad")]])
        assert gains == pytest.approx([0.25], rel=1e-3)
        await stage.hosts.withdraw([placed(insert="bad")])
        piece = sine(4 * BLOCK, frequency=TONE, start=len(before))
        after = chain.process(piece, start=len(before), time_ns=0)
        assert np.allclose(after[-BLOCK:], piece[-BLOCK:] / 2)
        assert largest_step(np.concatenate((before[-BLOCK:], after))) < allowed_step(0.5, 0.25)


async def test_a_chain_that_missed_an_answer_fades_back_in() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed())
        assert (await play(chain, ones(4 * BLOCK)))[-1, 0] == 0.5
        patient, chain.patience = chain.patience, Patience(0.0, 0.0)
        assert dry(chain.process(ones(), start=0, time_ns=0)), (
            "nothing was there in time, so it passed at once"
        )
        assert chain.counters.late == 1
        chain.patience = patient
        await eventually(lambda: chain.silent_for(time.monotonic()) == 0.0)
        heard = np.concatenate((ones(1), chain.process(ones(2 * BLOCK), start=0, time_ns=0)))
        assert heard[-1, 0] == 0.5
        assert largest_step(heard) <= 0.5 / BLOCK + 1e-6


async def test_a_version_that_does_not_start_leaves_nothing_of_the_one_before() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed())
        assert wet((await play(chain, ones(BLOCK * 3)))[-BLOCK:])
        await stage.hosts.arrange(chain, [placed(module_wat(init="(i32.const 1)"), version="2.0.0")])
        assert (await stage.event(Stopped)).version == "2.0.0"
        assert dry((await play(chain, ones(BLOCK * 4)))[-BLOCK:])


async def test_what_is_taken_away_is_not_heard_any_more_when_that_returns() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed(emitting("\\a1\\61\\61\\01", 4), granted=ALL))
        await play(chain, ones())
        await stage.hosts.arrange(chain, [])
        records = len(stage.of(Emitted))
        await play(chain, ones(BLOCK * 3))
        # In the same host, so what this one says comes after whatever the other would still have said.
        after = await stage.chain(
            placed(emitting("\\a1\\61\\61\\01", 4), insert="after", granted=ALL), name="after"
        )
        await play(after, ones())
        await stage.event(Emitted, records + 1)
        assert {record.insert for record in stage.of(Emitted)[records:]} == {"after"}
        await play_until(chain, lambda _: chain.mode is Mode.OFF)


async def test_a_late_answer_is_never_taken_for_another_ones() -> None:
    # The fifth block takes far longer than audio waits; its answer comes while others are bypassed.
    late = "(if (i32.eq (global.get $blocks) (i32.const 5)) (then (call $spin)))"
    spin = "(func $spin (local $n i32) (loop $on (local.set $n (i32.add (local.get $n) (i32.const 1)))"
    spin += " (br_if $on (i32.lt_u (local.get $n) (i32.const 100000000)))))"
    async with module_stage() as stage:
        limits = ModuleLimits(fuel_per_block=1_000_000_000, epoch_ms=5_000)
        chain = await stage.chain(placed(module_wat(late, fields=spin), limits=limits))
        seen = []
        for number in range(1, 60):
            heard = chain.process(np.float32(number) * ones(), start=0, time_ns=0)
            seen.append((number, float(heard[-1, 0])))
            await asyncio.sleep(0.01)
        assert chain.counters.late == 1
        assert all(value in (number, number / 2) for number, value in seen)
        assert seen[4][1] == 5.0
        assert seen[-1][1] == 29.5
        assert stage.of(OverBudget) == []


async def test_more_audio_than_a_lane_holds_comes_back_whole() -> None:
    samples = sine(BLOCK * 13 + 77, channels=3)
    async with module_stage() as stage:
        chain = await stage.chain(placed(), channels=3)
        await play(chain, ones(BLOCK * 2, channels=3))
        heard = chain.process(samples, start=0, time_ns=0)
        assert np.array_equal(heard, samples / 2)
        assert np.array_equal(chain.process(samples[:1], start=0, time_ns=0), samples[:1] / 2)


@pytest.mark.parametrize(
    "samples", [np.zeros((0, 1), np.float32), np.zeros((4, 5), np.float32), np.zeros(7, np.float32)]
)
async def test_audio_of_another_shape_comes_back_as_it_is(samples: Float32) -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed())
        assert chain.process(samples, start=0, time_ns=0) is samples
        assert (await play(chain, ones(BLOCK * 2)))[-1, 0] == 0.5
