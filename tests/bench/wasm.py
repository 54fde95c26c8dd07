"""Modules: what a block costs through shared memory, guest and back, and what comes before a module runs at all.

A guest's own time is what its host measures around the call, copies in and out included; what is left of a round trip
is the overhead of hosting. CPU is that of the audio thread and of the whole host process, as the kernel counts it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import wasmtime
from scipy import signal

from bench.table import Row
from stagebox.modules.compiling import compile_module
from stagebox.modules.engine import make_engine
from stagebox.modules.statement import ModuleLimits
from stagebox.modules.verification import verify_countersigned
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.hosted import HostedModule, PlacedModule
from support.hosting import BLOCK, RATE, hosted, module_stage
from support.modules import (
    CLUSTER,
    CLUSTER_PUBLIC,
    NOW,
    assemble,
    countersigned_module,
    gain_wat,
    signed_module,
)

ROUNDS, WARM_UP, BLOCKS = 9, 100, 500
PACED_S = 5.0
INSTANCES = 100
SECTIONS = 4
METERED = RATE // LIMITS.meter_rate_hz  # frames that meters, as they are set by default, hand to a chain
MEGABYTE = 1 << 20
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cost:
    """Microseconds a 20 ms block: by the clock, CPU of both processes, and what the guests take of it."""

    wall: float
    cpu: float
    guest: float

    @property
    def overhead(self) -> float:
        """What hosting adds to the guests' own time."""
        return self.wall - self.guest


def noise(frames: int, channels: int = 1) -> Float32:
    """Something that takes no short cut for silence."""
    return np.float32(0.1) * np.random.default_rng(5).standard_normal((frames, channels), dtype=np.float32)


def gain(channels: int) -> HostedModule:
    """A gain as a plain loop is compiled, without SIMD; buffers for as many channels."""
    buffers = -(-4 * channels * BLOCK // 65_536) * 65_536
    wat = gain_wat(pages=64).replace("131072", str(buffers)).replace("196608", str(65_536 + buffers))
    wat = wat.replace('(export "memory") 5 64', f'(export "memory") {1 + 2 * buffers // 65_536} 64')
    limits = ModuleLimits(memory_bytes=64 * 65_536)  # a host has room for a hundred of them
    return hosted(wat, name="gain", limits=limits, params={0: 0.5})


def sections() -> npt.NDArray[np.float64]:
    """Second-order sections, as many as a parametric equalizer has."""
    return np.asarray(signal.butter(SECTIONS, (100, 8_000), "bandpass", fs=RATE, output="sos"))


def equalizer() -> HostedModule:
    """The same sections in Wasm: transposed direct form II, mono, with the state in memory between blocks."""
    states = [
        (f"$s{n}{part}", 16 * n + 4 * index) for n in range(SECTIONS) for index, part in enumerate("ab")
    ]
    run = ""
    for n, (b0, b1, b2, _, a1, a2) in enumerate(sections()):
        one, two = f"$s{n}a", f"$s{n}b"
        run += f"""
          (local.set $y (f32.add (f32.mul (f32.const {b0}) (local.get $x)) (local.get {one})))
          (local.set {one} (f32.add (local.get {two}) (f32.sub
            (f32.mul (f32.const {b1}) (local.get $x)) (f32.mul (f32.const {a1}) (local.get $y)))))
          (local.set {two} (f32.sub
            (f32.mul (f32.const {b2}) (local.get $x)) (f32.mul (f32.const {a2}) (local.get $y))))
          (local.set $x (local.get $y))"""
    wat = f"""
    (module
      (memory (export "memory") 5 5)
      (func (export "init") (param i32 i32 i32) (result i32) (i32.const 0))
      (func (export "in_ptr") (result i32) (i32.const 65536))
      (func (export "out_ptr") (result i32) (i32.const 196608))
      (func (export "process") (param $frames i32) (result i32)
        (local $at i32) (local $x f32) (local $y f32) {"".join(f"(local {name} f32)" for name, _ in states)}
        {"".join(f"(local.set {name} (f32.load (i32.const {at})))" for name, at in states)}
        (loop $next
          (local.set $x (f32.load offset=65536 (local.get $at)))
          {run}
          (f32.store offset=196608 (local.get $at) (local.get $x))
          (local.set $at (i32.add (local.get $at) (i32.const 4)))
          (br_if $next (i32.lt_u (local.get $at) (i32.shl (local.get $frames) (i32.const 2)))))
        {"".join(f"(f32.store (i32.const {at}) (local.get {name}))" for name, at in states)}
        (local.get $frames)))
    """
    return hosted(wat, name="equalizer")


def process_ns(pid: int) -> int:
    """What all threads of a process have used of the CPUs."""
    return sum(
        int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()
    )


def best(call: Callable[[], object], times: int = BLOCKS, rounds: int = ROUNDS) -> float:
    """Microseconds a call, the best of the rounds: the others had company."""
    for _ in range(min(WARM_UP, times)):
        call()
    found = []
    for _ in range(rounds):
        begun = time.perf_counter_ns()
        for _ in range(times):
            call()
        found.append((time.perf_counter_ns() - begun) / 1000 / times)
    return min(found)


async def measure(module: HostedModule, channels: int = 1, blocks: int = 1, instances: int = 1) -> Cost:
    """Time round trips of ``blocks`` blocks, one after the other, through a chain of ``instances``."""
    async with module_stage() as stage:
        inserts = [PlacedModule(f"i{number}", module) for number in range(instances)]
        chain = await stage.chain(*inserts, channels=channels)
        samples, pid = noise(blocks * BLOCK, channels), stage.hosts.pids[0]

        def work() -> tuple[float, float]:
            walls, cpus = [], []
            for round_ in range(ROUNDS + 1):
                host, ours, begun = process_ns(pid), time.thread_time_ns(), time.perf_counter_ns()
                for _ in range(BLOCKS // blocks):
                    chain.process(samples, start=0, time_ns=0)
                count = 1000 * (BLOCKS // blocks) * blocks
                if round_:
                    walls.append((time.perf_counter_ns() - begun) / count)
                    cpus.append((process_ns(pid) - host + time.thread_time_ns() - ours) / count)
            return min(walls), min(cpus)

        wall, cpu = await asyncio.to_thread(work)
        if chain.counters.bypassed:
            raise RuntimeError(f"{chain.counters.bypassed} of {chain.counters.blocks} blocks were bypassed")
        await asyncio.sleep(1.1)  # hosts count once a second, when they have something to do
        chain.process(samples, start=0, time_ns=0)
        await asyncio.sleep(0.1)
        statuses = stage.hosts.status().values()
        return Cost(wall, cpu, sum(one.time_ns / one.blocks / 1000 for one in statuses))


def in_real_time(piece: Callable[[], object], used_ns: Callable[[], int], frames: int = BLOCK) -> float:
    """Percent of one core that something done every ``frames`` takes, as ``used_ns`` counts; a second to warm up."""
    used, begun, due = 0, 0.0, time.monotonic()
    for number in range(int(PACED_S * RATE / frames)):
        if number == RATE // frames:
            used, begun = used_ns(), time.monotonic()
        piece()
        due += frames / RATE
        time.sleep(max(0.0, due - time.monotonic()))
    return (used_ns() - used) / 1e9 / (time.monotonic() - begun) * 100


def plain_gains(frames: int) -> Callable[[], object]:
    """The same on as many pieces of ``frames``, in numpy."""
    samples = noise(frames)
    return lambda: [samples * np.float32(0.5) for _ in range(INSTANCES)]


async def paced(module: HostedModule, chains: int, each: int, frames: int = BLOCK) -> tuple[float, int]:
    """Percent of one core that modules take in real time, in pieces of ``frames``; how many blocks were bypassed."""
    async with module_stage() as stage:
        opened = []
        for number in range(chains):
            inserts = [PlacedModule(f"i{number}-{one}", module) for one in range(each)]
            opened.append(await stage.chain(*inserts, name=f"c{number}"))
        samples, pid = noise(frames), stage.hosts.pids[0]

        def piece() -> None:
            for chain in opened:
                chain.process(samples, start=0, time_ns=0)

        def used_ns() -> int:
            return process_ns(pid) + time.thread_time_ns()

        share = await asyncio.to_thread(in_real_time, piece, used_ns, frames)
        return share, sum(chain.counters.bypassed for chain in opened)


def _rows_of(
    what: str, cost: Cost, raw: float, raw_is: str, *, channels: int = 1, expected: str = ""
) -> list[Row]:
    rows = [Row("wasm", what, "µs a block", cost.wall, raw, raw_is)]
    if channels > 1:
        rows.append(Row("wasm", f"{what}, a channel", "µs", cost.wall / channels, raw / channels, raw_is))
    rows.append(Row("wasm", f"{what}: the guest", "µs", cost.guest, raw, raw_is))
    rows.append(Row("wasm", f"{what}: hosting", "µs", cost.overhead, expected=expected))
    rows.append(Row("wasm", f"{what}: CPU of both processes", "µs", cost.cpu, raw, raw_is))
    return rows


async def _round_trips() -> list[Row]:
    rows: list[Row] = []
    for channels in (1, 2, 16, 64):
        samples, raw_is = noise(BLOCK, channels), "numpy: samples * gain"
        raw = best(lambda samples=samples: samples * np.float32(0.5))  # type: ignore[misc]
        cost = await measure(gain(channels), channels)
        expected = "≤ 15" if channels == 1 else ""
        rows += _rows_of(f"gain, {channels} ch", cost, raw, raw_is, channels=channels, expected=expected)
        if channels == 1:
            cost = await measure(gain(1), 1, blocks=5)
            rows += _rows_of("gain, 1 ch, five blocks at once", cost, raw, raw_is, expected="≤ 15")
    flat, state = noise(BLOCK)[:, 0].copy(), np.zeros((SECTIONS, 2), np.float32)
    single = sections().astype(np.float32)
    raw = best(lambda: signal.sosfilt(single, flat, zi=state))
    rows += _rows_of(f"{SECTIONS} biquads, 1 ch", await measure(equalizer()), raw, "scipy: sosfilt")
    return rows


async def _many() -> list[Row]:
    samples = noise(BLOCK)
    raw = best(lambda: samples * np.float32(0.5))
    cost = await measure(gain(1), instances=INSTANCES)
    each = cost.cpu / INSTANCES
    rows = [
        Row("wasm", "a further gain in a chain, CPU", "µs a block", each, raw, "numpy: samples * gain"),
        Row("wasm", "gains of one channel a core runs in real time", "", 20_000 / each),
    ]
    for chains, frames in ((1, BLOCK), (10, BLOCK), (INSTANCES, BLOCK), (INSTANCES, METERED)):
        plain = await asyncio.to_thread(in_real_time, plain_gains(frames), time.thread_time_ns, frames)
        share, bypassed = await paced(gain(1), chains, INSTANCES // chains, frames)
        what = f"{INSTANCES} gains in real time, {chains} chain{'s' * (chains > 1)} of {INSTANCES // chains}"
        if frames == METERED:
            what += ", as meters ask"
        rows.append(Row("wasm", what, "% of a core", share, plain, "numpy, as often", "< 15"))
        if bypassed:
            rows.append(Row("wasm", f"{what}: bypassed", "blocks", bypassed, expected="0"))
    return rows


def _before() -> list[Row]:
    """What it takes until a module may run: verified, compiled."""
    small = assemble(gain_wat())
    ballast = MEGABYTE - len(small) - 16
    name = b"\x07ballast"
    size = len(name) + ballast
    content = bytes(0x80 * (index < 3) | size >> 7 * index & 0x7F for index in range(4))
    file = countersigned_module(signed_module(small + b"\0" + content + name + bytes(ballast)))

    def verify() -> object:
        return verify_countersigned(file, cluster=CLUSTER, cluster_public=CLUSTER_PUBLIC, now_ns=NOW)

    verified = best(verify, times=20) / 1000
    hashed = best(lambda: hashlib.sha256(file).digest(), times=20) / 1000
    many = assemble(_large_wat())
    rows = [Row("wasm", "1 MB verified, as at every start", "ms", verified, hashed, "SHA-256 of it", "< 3")]
    for what, wasm in (("gain", small), (f"{len(many) / 1000:.0f} kB of functions", many)):
        ours = best(lambda wasm=wasm: compile_module(wasm), times=1, rounds=5) / 1000  # type: ignore[misc]
        raw = best(lambda wasm=wasm: wasmtime.Module(make_engine(), wasm), times=1, rounds=5) / 1000  # type: ignore[misc]
        rows.append(
            Row("wasm", f"compiled in a process of its own: {what}", "ms", ours, raw, "wasmtime in ours")
        )
    return rows


def _large_wat() -> str:
    body = "(local.set 0 (i32.add (i32.mul (local.get 0) (i32.const 7)) (local.get 0)))" * 50
    return "(module " + f"(func (param i32) (result i32) {body} (local.get 0))" * 200 + ")"


async def run(say: Callable[[str], None]) -> list[Row]:
    """Run the suite."""
    say("modules: round trips of gain and biquads")
    rows = await _round_trips()
    say(f"modules: {INSTANCES} instances")
    rows += await _many()
    say("modules: verified and compiled")
    return rows + await asyncio.to_thread(_before)
