"""kill -9 at named points, of the rack, the mixer and the server, 200 times each, on a bad network all the while.

The ledger is outside: what a rack's process said was promised before it died. In the end the lake holds all of it,
once, under its sequence, without a hole, and proves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stagebox.bus import BusClient, BusOptions
from stagebox_mixer import streams
from stagebox_mixer.lake.reading import Span, open_reader
from stagebox_mixer.lake.storage import LocalStorage
from stagebox_mixer.lake.verify import verify as verify_lake
from stagebox_rack.wal.inspect import verify as verify_journal
from support.fault_proxy import FaultProxy
from support.journal import RACK
from support.lake import records_in
from support.lives import CLUSTER, KEY, LAKE_KEY
from support.natsd import Authority, NatsServer
from support.zygote import Zygote

KILLS = 200
PLENTY, LITTLE = 1 << 30, 1 << 20
LONGEST_LIFE_S = 10.0
"""A life that does not come to its point by then is ended at a moment that nobody named: 1.4 s was the longest seen."""
MORE_LIVES = 60
"""On a slow machine some points may not be come to by then: they have so many lives more, in good weather."""

RACK_POINTS = [
    "before create spare", "half pwrite spare", "before rename spare", "after rename spare",
    "before rename hot", "after rename hot", "after sync_dir hot",
    "half pwrite hot", "after pwrite hot", "after datasync hot",
    "half pwrite mark", "after pwrite mark", "after datasync mark",
    "half pwrite parquet", "before rename parquet", "after rename parquet", "before rename key", "after rename key",
    "half pwrite seal", "before rename seal", "after rename seal", "after sync_dir segments",
    "before publish window", "after publish window", "before rename cursor", "after rename cursor",
    "half pwrite tombstone", "before rename tombstone", "after rename tombstone", "after unlink seal",
    "before unlink parquet", "after unlink parquet", "before unlink tombstone",
]  # fmt: skip
MIXER_POINTS = [
    f"{when} {what}"
    for when in ("before write", "half write", "after write")
    for what in ("arrivals", "sorted", "cbor", "snapshot")
] + [f"{when} delete {what}" for when in ("before", "after") for what in ("arrivals", "sorted", "cbor")]
SERVER_MOMENTS = ["connected", "sent", "sent, and on its way", "held", "committed"]


@dataclass
class World:
    """A server behind a bad network, and what was promised by whoever lived here."""

    root: Path
    server: NatsServer
    proxy: FaultProxy
    tls: dict[str, str]
    promised: dict[int, int] = field(default_factory=dict)
    named: Counter[str] = field(default_factory=Counter)
    alerts: list[str] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(0, 1_000_000))
    calm: bool = False
    """Whether the network is left alone."""

    @property
    def place(self) -> dict[str, Any]:
        return {"server": f"wss://127.0.0.1:{self.proxy.port}", "tls": self.tls}

    def rack(
        self, zygote: Zygote, *, number: int, quota_bytes: int = PLENTY, **point: Any
    ) -> AsyncIterator[list[str]]:
        where = {"directory": str(self.root / "wal"), **self.place}
        return zygote.live("rack", number=number, quota_bytes=quota_bytes, **where, **point)

    def mixer(self, zygote: Zygote, **more: Any) -> AsyncIterator[list[str]]:
        return zygote.live("mixer", directory=str(self.root / "lake"), **self.place, **more)

    def hear(self, words: list[str]) -> None:
        if words[0] == "kept":
            assert self.promised.setdefault(int(words[1]), int(words[2])) == int(words[2])
        elif words[0] == "alert":
            self.alerts.append(" ".join(words))

    async def bad_network(self, source: random.Random) -> None:
        """Change the weather for ever; no more once it is to be calm."""
        proxy = self.proxy

        def slow() -> None:
            proxy.latency_s = source.uniform(0.002, 0.02)

        def sliced() -> None:
            proxy.slice_bytes = source.choice([100, 1000, 5000])

        while True:
            if not self.calm:
                source.choice([slow, sliced, slow, sliced, proxy.black_hole, proxy.reset, proxy.refuse])()
            await asyncio.sleep(source.uniform(0.02, 0.15))
            proxy.clear()
            await asyncio.sleep(source.uniform(0.05, 0.4))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "nats").mkdir()
    authority = Authority(tmp_path / "ca")
    client = authority.issue("client")
    tls = {"ca": authority.path, "certificate": client.certificate_path, "key": client.key_path}
    server = NatsServer(tmp_path / "nats", authority, store="sync_interval: always")
    await server.start()
    async with BusClient(BusOptions(servers=(server.tcp,), name="operator")) as bus:
        await bus.wait_connected(10)
        await bus.js.add_stream(streams.wal_stream())
    async with FaultProxy(server.websocket_port) as proxy:
        yield World(tmp_path, server, proxy, {name: str(path) for name, path in tls.items()})
    await server.stop()


@contextlib.asynccontextmanager
async def beside(*work: Awaitable[None]) -> AsyncIterator[None]:
    """Run what goes on for ever beside the block; a failure of it is ours."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def lives(
    zygote: Zygote,
    start: Callable[..., AsyncIterator[list[str]]],
    points: list[str],
    world: World,
    source: random.Random,
) -> None:
    """Let one life follow another, each to its named point, until so many have ended there, and some at each."""
    for point in itertools.islice(itertools.cycle(points), 3 * KILLS):
        if world.named.total() >= KILLS:
            break
        await one_life(zygote, start, point, world, nth=source.choice([1, 1, 2, 3]))
    world.calm = True
    for _ in range(MORE_LIVES):
        missing = [point for point in points if point not in world.named]
        if not missing:
            return
        await one_life(zygote, start, source.choice(missing), world, nth=1)


async def one_life(
    zygote: Zygote,
    start: Callable[..., AsyncIterator[list[str]]],
    point: str,
    world: World,
    *,
    nth: int,
) -> None:
    """Let a life go on until it comes to ``point`` for the ``nth`` time, or for ``LONGEST_LIFE_S``."""
    timer = asyncio.get_running_loop().call_later(LONGEST_LIFE_S, zygote.kill)
    killed = False
    async for words in start(zygote, point=point, nth=nth):
        world.hear(words)
        if words[0] == "ended":
            killed = words[1] == "-9"
    if asyncio.get_running_loop().time() < timer.when():
        world.named[point] += 1
    timer.cancel()
    assert killed, "\n".join(zygote.noise)


async def one_long_life(words_of: AsyncIterator[list[str]], world: World, zygote: Zygote) -> None:
    async for words in words_of:
        world.hear(words)
        assert words[0] != "ended", "\n".join(zygote.noise)


async def everything_is_there_once(world: World, racks: Zygote, mixers: Zygote) -> None:
    """Let the rack ship and the mixer commit what is left; compare the lake with what was promised."""
    world.proxy.clear()
    last, ended = 0, False
    async with asyncio.timeout(300):
        async for words in world.rack(racks, number=-1):
            world.hear(words)
            last = int(words[1]) if words[0] == "whole" else last
        assert last, f"the last rack {' '.join(words)}: " + "\n".join(racks.noise)
        async for words in world.mixer(mixers, last=last):
            ended = words == ["ended", "0"]
        assert ended, "\n".join(mixers.noise)
    reader = open_reader(LocalStorage(world.root / "lake"), LAKE_KEY, cluster=CLUSTER)
    records = await asyncio.to_thread(records_in, reader, RACK)
    assert [seq for seq, _, _ in records] == list(range(1, last + 1)), "a hole, or a record twice"
    numbers = {int.from_bytes(data[:8], "big"): seq for seq, kind, data in records if kind == "meter"}
    assert len(numbers) == sum(kind == "meter" for _, kind, _ in records), "a record under two sequences"
    assert {number: numbers.get(number) for number in world.promised} == world.promised
    await asyncio.to_thread(verify_lake, reader, Span())
    await asyncio.to_thread(verify_journal, world.root / "wal", bytes(KEY.verify_key))
    assert not world.alerts


def enough(world: World, points: list[str]) -> None:
    assert world.named.total() >= KILLS
    assert sorted(world.named) == sorted(points), "nobody came to some point"
    assert len(world.promised) > KILLS


async def test_a_rack_killed_at_any_point_loses_and_repeats_nothing(world: World) -> None:
    source = random.Random(5)

    def life(zygote: Zygote, **point: Any) -> AsyncIterator[list[str]]:
        return world.rack(zygote, number=next(world.numbers), quota_bytes=LITTLE, **point)

    async with Zygote("support.lives") as racks, Zygote("support.lives") as mixers:
        mixer = one_long_life(world.mixer(mixers), world, mixers)
        async with beside(world.bad_network(source), mixer):
            await lives(racks, life, RACK_POINTS, world, source)
        await mixers.bury()
        await everything_is_there_once(world, racks, mixers)
    enough(world, RACK_POINTS)


async def test_a_mixer_killed_at_any_point_loses_and_repeats_nothing(world: World) -> None:
    source = random.Random(6)
    async with Zygote("support.lives") as racks, Zygote("support.lives") as mixers:
        rack = one_long_life(world.rack(racks, number=0), world, racks)
        async with beside(world.bad_network(source), rack):
            await lives(mixers, world.mixer, MIXER_POINTS, world, source)
        await racks.bury()
        await everything_is_there_once(world, racks, mixers)
    enough(world, MIXER_POINTS)


async def test_a_server_killed_at_any_moment_loses_and_repeats_nothing(world: World) -> None:
    source = random.Random(7)
    async with Zygote("support.lives") as racks, Zygote("support.lives") as mixers:
        moments: asyncio.Queue[str] = asyncio.Queue()

        async def listened(words_of: AsyncIterator[list[str]], zygote: Zygote) -> None:
            async for words in words_of:
                world.hear(words)
                assert words[0] != "ended", "\n".join(zygote.noise)
                moments.put_nowait(words[0])

        async def come(moment: str) -> None:
            while not moment.startswith(await moments.get()):
                pass

        async def killed_at(moment: str) -> None:
            while not moments.empty():
                moments.get_nowait()
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                group.create_task(come(moment))
                await world.server.start()
            if moment.endswith("on its way"):
                await asyncio.sleep(source.uniform(0.0005, 0.003))
            await world.server.stop(kill=True)
            world.named[moment] += 1

        living = [listened(world.rack(racks, number=0), racks), listened(world.mixer(mixers), mixers)]
        await world.server.stop(kill=True)
        async with beside(world.bad_network(source), *living):
            for moment in itertools.islice(itertools.cycle(SERVER_MOMENTS), KILLS):
                await killed_at(moment)
            await world.server.start()
        await racks.bury()
        await mixers.bury()
        await everything_is_there_once(world, racks, mixers)
    enough(world, SERVER_MOMENTS)
