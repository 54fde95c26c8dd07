"""Real module hosts for tests: modules in WAT, a stage that plays audio through them, and the events they tell."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from stagebox.modules.capabilities import Capability
from stagebox.modules.statement import ModuleLimits
from stagebox_rack.modules.hosting.chain import Chain
from stagebox_rack.modules.hosting.hosted import HostedModule, HostEvent, InsertEvent, PlacedModule
from stagebox_rack.modules.hosting.hosts import ModuleHosts
from support.modules import assemble

RATE = 48_000
BLOCK = RATE // 50
Float32 = npt.NDArray[np.float32]
Event = TypeVar("Event", bound=HostEvent)


def module_wat(
    process: str = "",
    *,
    init: str = "(i32.const 0)",
    fields: str = "",
    imports: str = "",
    memory: str = "5 8",
    in_ptr: int = 65_536,
    out_ptr: int = 196_608,
) -> str:
    """Return an audio module whose output is half of its first channels' input, unless ``process`` says otherwise.

    ``process`` is put at the beginning of ``process``; it has the locals ``$i`` and ``$at``, and the global ``$blocks``
    counts blocks from 1. Parameter 0 sets the global ``$gain``.
    """
    return f"""
    (module
      {imports}
      (memory (export "memory") {memory})
      (global $gain (mut f32) (f32.const 0.5))
      (global $blocks (mut i32) (i32.const 0))
      (global $samples (mut i32) (i32.const 0))
      {fields}
      (func (export "init") (param $rate i32) (param $channels i32) (param $max i32) (result i32)
        (global.set $samples (i32.mul (local.get $channels) (local.get $max)))
        {init})
      (func (export "in_ptr") (result i32) (i32.const {in_ptr}))
      (func (export "out_ptr") (result i32) (i32.const {out_ptr}))
      (func (export "param") (param $id i32) (param $value f32) (result i32)
        (global.set $gain (local.get $value))
        (local.get $id))
      (func (export "process") (param $frames i32) (result i32)
        (local $i i32) (local $at i32)
        (global.set $blocks (i32.add (global.get $blocks) (i32.const 1)))
        {process}
        (call $scale)
        (local.get $frames))
      (func $scale (local $i i32)
        (loop $next
          (f32.store offset={out_ptr} (local.get $i)
            (f32.mul (f32.load offset={in_ptr} (local.get $i)) (global.get $gain)))
          (local.set $i (i32.add (local.get $i) (i32.const 4)))
          (br_if $next (i32.lt_u (local.get $i) (i32.shl (global.get $samples) (i32.const 2)))))))
    """


def emitting(data: str, size: int, out: str = "leq") -> str:
    """A module that emits the CBOR at 0 as ``out`` in every block, and puts the answer into its output."""
    return module_wat(
        f"(global.set $gain (f32.convert_i32_s (call $emit (i32.const 512) (i32.const {len(out)})"
        f" (i32.const 0) (i32.const {size}))))",
        imports='(import "stagebox" "emit" (func $emit (param i32 i32 i32 i32) (result i32)))',
        fields=f'(data (i32.const 0) "{data}") (data (i32.const 512) "{out}")',
    )


FOREVER = "(loop $forever (br $forever))"


def hosted(
    wat: str | bytes | None = None,
    *,
    name: str = "half",
    version: str = "1.0.0",
    granted: Collection[Capability] = (Capability.AUDIO,),
    limits: ModuleLimits | None = None,
    params: Mapping[int, float] | None = None,
) -> HostedModule:
    """Return a module as the guard hands it over; the one that halves if no other is given."""
    data = wat if isinstance(wat, bytes) else assemble(module_wat() if wat is None else wat)
    return HostedModule(
        name=name,
        version=version,
        data=data,
        granted=frozenset(granted),
        limits=limits or ModuleLimits(),
        params=params or {},
    )


def placed(wat: str | bytes | None = None, *, insert: str = "one", **how: object) -> PlacedModule:
    """Return :func:`hosted` as an insert."""
    return PlacedModule(insert, hosted(wat, **how))  # type: ignore[arg-type]


@dataclass
class Stage:
    """Running hosts; ``events`` are all they told so far."""

    hosts: ModuleHosts
    events: list[HostEvent] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, event: HostEvent) -> None:
        self.events.append(event)
        self.news.set()

    def of(self, kind: type[Event]) -> list[Event]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    async def event(self, kind: type[Event], count: int = 1, timeout: float = 15.0) -> Event:
        """Wait for the ``count``-th event of a kind."""
        async with asyncio.timeout(timeout):
            while len(found := self.of(kind)) < count:
                self.news.clear()
                await self.news.wait()
        return found[count - 1]

    async def chain(
        self, *inserts: PlacedModule, channels: int = 1, rate: int = RATE, name: str = "hall"
    ) -> Chain:
        """Open a chain and wait until every insert runs or is stopped."""
        chain = self.hosts.open_chain(name, rate, channels)
        await self.hosts.arrange(chain, inserts)
        async with asyncio.timeout(30):
            await self.hosts.settled(chain)
        return chain

    def codes(self) -> dict[str, str]:
        """Return why each insert does not run; empty for those that do."""
        return {insert: status.code for insert, status in self.hosts.status().items()}


@contextlib.asynccontextmanager
async def module_stage(count: int = 1) -> AsyncIterator[Stage]:
    """Run hosts for the time of the block; afterwards no process is left."""
    events: list[Callable[[HostEvent], None]] = []
    hosts = ModuleHosts(count, lambda event: events[0](event))
    stage = Stage(hosts)
    events.append(stage.take)
    await hosts.start()
    try:
        yield stage
    finally:
        await hosts.stop()


def sine(frames: int, channels: int = 1, frequency: float = 440.0, start: int = 0) -> Float32:
    """Return float32[frames, channels] of a sine of amplitude 0.5."""
    t = np.arange(start, start + frames) / RATE
    return np.repeat((0.5 * np.sin(2 * np.pi * frequency * t)).astype(np.float32)[:, None], channels, axis=1)


def ones(frames: int = BLOCK, channels: int = 1) -> Float32:
    """Return a constant signal."""
    return np.ones((frames, channels), np.float32)


async def play(
    chain: Chain, samples: Float32, *, block: int = BLOCK, start: int = 0, pause: float = 0.0
) -> Float32:
    """Play ``samples`` through ``chain`` block by block, and let the event loop work in between."""
    heard = []
    for at in range(0, len(samples), block):
        piece = samples[at : at + block]
        heard.append(chain.process(piece, start=start + at, time_ns=time.time_ns()))
        await asyncio.sleep(pause)
    return np.concatenate(heard)


async def play_until(chain: Chain, condition: Callable[[Float32], bool], timeout: float = 15.0) -> int:
    """Play ones in real time until a block comes out as ``condition`` wants it; return how many blocks that took."""
    blocks = 0
    async with asyncio.timeout(timeout):
        while True:
            blocks += 1
            if condition(chain.process(ones(channels=chain.channels), start=0, time_ns=0)):
                return blocks
            await asyncio.sleep(0.02)


def wet(samples: Float32) -> bool:
    """Whether ones came out halved."""
    return bool(np.all(samples == 0.5))


def dry(samples: Float32) -> bool:
    """Whether ones came out as they went in."""
    return bool(np.all(samples == 1.0))


def about(event: InsertEvent) -> tuple[str, str]:
    """Return the place and insert of an event."""
    return event.place, event.insert


def descriptors_of(pid: int) -> list[str]:
    """Return what a process has open."""
    return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
