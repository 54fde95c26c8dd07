"""CPU of a whole rack process with a 2-channel source: meters, checkpoints, journal, snake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bench.clients import raw_rack
from bench.stage import Stage, cpu_seconds, pace, stage
from bench.table import Row
from stagebox_rack.state import RackIdentity

SETTLE_S = 4.0
SECONDS = 20.0
TICK_S = 0.05
METER_BYTES = 203


async def _ours(place: Stage) -> float:
    """The rack's own user and system time over a stretch after it settled, % of a core."""
    await place.cluster.start_rack("bench", "tone:997@-23")
    await place.identity("bench")
    await asyncio.sleep(SETTLE_S)
    pid = place.cluster.rack_pid("bench")
    before, started = cpu_seconds(pid), time.perf_counter()
    await asyncio.sleep(SECONDS)
    share = 100 * (cpu_seconds(pid) - before) / (time.perf_counter() - started)
    await place.cluster.stop_racks()
    return share


async def _raw(place: Stage, identity: RackIdentity) -> float:
    """The least a Python rack could do: the same messages of the same size, nothing measured or journalled."""
    name = identity.passport.name
    meter = bytes(METER_BYTES)
    async with raw_rack(place, identity) as client:
        cpu, start = time.process_time(), time.perf_counter()
        for tick in range(int(SECONDS / TICK_S)):
            await pace(start, tick, TICK_S)
            await client.publish(f"rack.{name}.meter.main", meter)
        return 100 * (time.process_time() - cpu) / (time.perf_counter() - start)


async def run(say: Callable[[str], None]) -> list[Row]:
    """Measure one after the other in the same run."""
    async with stage() as place:
        say(f"rack-cpu: a rack for {SECONDS:.0f} s")
        ours = await _ours(place)
        say("rack-cpu: stock nats-py publishing the same messages")
        raw = await _raw(place, await place.identity("raw"))
    return [
        Row("rack-cpu", "2-channel rack, nobody listening", "% of a core", ours, raw,
            "stock nats-py, same messages only", "< 10"),
    ]  # fmt: skip
