"""Modules that together want more memory than a host has: each has what it was granted, or waits and is told so."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.statement import PAGE_BYTES, ModuleLimits
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting import arrangement
from stagebox_rack.modules.hosting.chain import Chain
from stagebox_rack.modules.hosting.hosted import (
    Faulted,
    HostDied,
    InsertState,
    PlacedModule,
    Started,
    Stopped,
)
from support.hosting import BLOCK, RATE, Stage, dry, module_stage, module_wat, ones, placed, play, wet
from support.leaks import eventually

LARGEST = ModuleLimits(memory_bytes=FORMAT.memory_bytes)
PAGES = FORMAT.memory_bytes // PAGE_BYTES
MOST = LIMITS.module_host_room_bytes // (FORMAT.memory_bytes + LIMITS.module_instance_bytes)
"""How many of the largest modules a host has room for."""

GREEDY = module_wat(f"(drop (memory.grow (i32.const {PAGES - 5})))", memory=f"5 {PAGES}")
"""Takes all the memory that it may have with its first block, and halves."""
COUNTING = module_wat(
    "(drop (memory.grow (i32.const 1))) (global.set $gain (f32.convert_i32_u (memory.size)))", memory="5 256"
)
"""Takes a page with each block; its output is how many it has."""


def greedy(number: int, version: str = "1.0.0") -> PlacedModule:
    return placed(GREEDY, insert=f"greedy-{number}", version=version, limits=LARGEST)


def states(stage: Stage) -> list[tuple[InsertState, str]]:
    return [(status.state, status.code) for status in stage.hosts.status().values()]


async def settled(stage: Stage, chain: Chain) -> None:
    async with asyncio.timeout(20):
        await stage.hosts.settled(chain)


async def test_whatever_its_neighbours_take_a_module_has_the_memory_it_was_granted() -> None:
    async with module_stage() as stage:
        innocent = await stage.chain(placed(COUNTING), name="innocent")
        assert (await play(innocent, ones()))[-1, 0] == 6.0
        crowd = await stage.chain(*(greedy(n) for n in range(MOST + 5)), name="crowd")
        assert (await play(crowd, ones(BLOCK * 2)))[-1, 0] == 0.5 ** (MOST - 1), (
            "as many as have room beside it"
        )
        assert (await play(innocent, ones(BLOCK * 250)))[-1, 0] == 256.0, "all that it was granted"
        assert states(stage).count((InsertState.RUNNING, "")) == MOST
        assert states(stage).count((InsertState.WAITING, "no_room")) == 6
        assert [*stage.of(Stopped), *stage.of(Faulted), *stage.of(HostDied)] == []


async def test_a_full_host_still_swaps_versions() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(*(greedy(n) for n in range(MOST)))
        await play(chain, ones(BLOCK * 2))
        for number in range(MOST):
            versions = ["2.0.0" if n <= number else "1.0.0" for n in range(MOST)]
            await stage.hosts.arrange(chain, [greedy(n, version) for n, version in enumerate(versions)])
            await settled(stage, chain)
            heard = await play(chain, ones(BLOCK * 2))
            assert heard[-1, 0] == 0.5**MOST
        assert len(stage.of(Started)) == 2 * MOST
        assert [*stage.of(Stopped), *stage.of(Faulted)] == []


async def test_what_waits_for_room_is_brought_when_there_is_some() -> None:
    async with module_stage() as stage:
        crowd = await stage.chain(*(greedy(n) for n in range(MOST)), name="crowd")
        late = await stage.chain(placed(insert="late", limits=LARGEST), name="late")
        assert (stage.hosts.status()["late"].state, stage.codes()["late"]) == (InsertState.WAITING, "no_room")
        assert dry(await play(late, ones(BLOCK * 3)))
        await stage.hosts.arrange(crowd, [greedy(n) for n in range(1, MOST)])
        await stage.event(Started, MOST + 1)
        await settled(stage, late)
        assert wet((await play(late, ones(BLOCK * 3)))[-BLOCK:])
        # And what closes leaves room too.
        other = await stage.chain(*(placed(insert=f"o{n}", limits=LARGEST) for n in range(2)), name="other")
        assert states(stage).count((InsertState.WAITING, "no_room")) == 2
        await stage.hosts.close(crowd)
        await stage.event(Started, MOST + 3)
        await settled(stage, other)
        assert stage.codes() == {"late": "", "o0": "", "o1": ""}


async def test_what_was_withdrawn_while_it_waited_is_not_brought() -> None:
    async with module_stage() as stage:
        crowd = await stage.chain(*(greedy(n) for n in range(MOST)), name="crowd")
        revoked, good = placed(insert="revoked", limits=LARGEST), placed(insert="good", limits=LARGEST)
        late = await stage.chain(revoked, good, name="late")
        await stage.hosts.withdraw([revoked])
        await stage.hosts.close(crowd)
        await stage.event(Started, MOST + 1)
        await settled(stage, late)
        assert set(stage.hosts.status()) == {"good"}
        assert wet((await play(late, ones(BLOCK * 3)))[-BLOCK:])


async def test_what_is_there_keeps_its_room_whatever_comes_before_it() -> None:
    async with module_stage() as stage:
        there = [greedy(n) for n in range(MOST)]
        chain = await stage.chain(*there)
        await stage.hosts.arrange(chain, [placed(insert="first", limits=LARGEST), *there])
        await settled(stage, chain)
        assert stage.hosts.status()["first"].state is InsertState.WAITING
        assert states(stage).count((InsertState.RUNNING, "")) == MOST


async def test_what_still_fades_out_counts_and_what_comes_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No audio is played here, so nothing that was taken away fades out, and its host lets go of none of it.
    monkeypatch.setattr(arrangement, "LIMITS", replace(LIMITS, module_host_retry_max=0.05))
    async with module_stage() as stage:
        chain = await stage.chain(*(greedy(n) for n in range(MOST)))
        successors = [greedy(n) for n in range(MOST, 2 * MOST)]
        with capture_logs() as logs:
            await stage.hosts.arrange(chain, successors)
            await eventually(lambda: "modules_not_arranged" in {line["event"] for line in logs}, timeout=20)
        alive = LIMITS.module_host_room_bytes + LIMITS.module_host_swap_bytes
        assert len(stage.of(Started)) == alive // (FORMAT.memory_bytes + LIMITS.module_instance_bytes)
        assert stage.of(Stopped) == []
        await play(chain, ones(BLOCK * 3))
        await stage.event(Started, 2 * MOST)
        assert [*stage.of(Stopped), *stage.of(HostDied)] == []


async def test_what_has_no_room_could_move_to_a_host_that_has() -> None:
    async with module_stage(2) as stage:
        first = stage.hosts.open_chain("first", RATE, 1)
        second = stage.hosts.open_chain("second", RATE, 1)
        third = stage.hosts.open_chain("third", RATE, 1)
        await stage.hosts.arrange(first, [greedy(n) for n in range(MOST)])
        late = [placed(insert="late", limits=LARGEST)]
        await stage.hosts.arrange(third, late)
        assert stage.codes()["late"] == "no_room", "it shares a host with the first"
        assert [stage.hosts.could_move(chain) for chain in (first, second, third)] == [False, False, True]
        await stage.hosts.close(third)
        again = await stage.chain(*late, name="again")
        assert stage.codes()["late"] == ""
        assert wet((await play(again, ones(BLOCK * 3)))[-BLOCK:])
        # No host has room for all of these, so nothing is gained by moving.
        await stage.hosts.arrange(first, [greedy(n) for n in range(MOST + 1)])
        assert stage.codes()[f"greedy-{MOST}"] == "no_room"
        assert not stage.hosts.could_move(first)


def test_a_host_may_write_to_more_than_its_instances_can_take() -> None:
    room = LIMITS.module_host_room_bytes + LIMITS.module_host_swap_bytes
    assert LIMITS.module_host_data_bytes - room >= 512 << 20, "the interpreter, lanes and code being loaded"
