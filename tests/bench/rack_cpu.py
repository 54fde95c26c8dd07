"""CPU of a whole rack process with a 2-channel source: meters, Opus, checkpoints, journal, snake."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.stage import Stage, cpu_seconds, stage, stop
from bench.table import Row

SETTLE_S = 4.0
SECONDS = 20.0

# The least any Python rack could do: the same messages of the same size, nothing measured, nothing journalled.
_RAW = """
import asyncio, sys, time
sys.path.insert(0, sys.argv[1])
from bench.clients import raw_rack
from bench.stage import Stage
from pathlib import Path
from stagebox.identity import machine_id
from stagebox_rack import state
async def main():
    place = Stage(Path(sys.argv[2]), 0, int(sys.argv[3]), 0.0)
    identity = state.load(state.StatePaths(place.state_dir("raw")), machine_id=machine_id())
    meter, audio = bytes(118), bytes(330)
    async with raw_rack(place, identity) as client:
        start = time.perf_counter()
        for tick in range(10_000_000):
            await asyncio.sleep(max(0.0, start + tick * 0.02 - time.perf_counter()))
            await client.publish("rack.raw.audio.main", audio)
            if tick % 5 < 2:
                await client.publish("rack.raw.meter.main", meter)
asyncio.run(main())
"""


def _share(command: list[str]) -> float:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(SETTLE_S)
        before, started = cpu_seconds(process.pid), time.perf_counter()
        time.sleep(SECONDS)
        if process.poll() is not None:
            raise RuntimeError(f"the process ended with {process.returncode}")
        return 100 * (cpu_seconds(process.pid) - before) / (time.perf_counter() - started)
    finally:
        stop(process)


def _raw_command(place: Stage) -> list[str]:
    return [
        sys.executable, "-c", _RAW, str(Path(__file__).parents[1]), str(place.directory), str(place.snake_port)
    ]  # fmt: skip


def run(say: Callable[[str], None]) -> list[Row]:
    """Measure the process's own user and system time over a fixed stretch after it settled."""
    with stage() as place:
        for rack in ("bench", "raw"):
            place.enroll(rack)
        say(f"rack-cpu: a rack for {SECONDS:.0f} s")
        ours = _share(place.rack_command("bench", "--source", "tone:997@-23", "--log-level", "warning"))
        say("rack-cpu: stock nats-py publishing the same messages")
        raw = _share(_raw_command(place))
    return [
        Row("rack-cpu", "2-channel rack, everything on", "% of a core", ours, raw,
            "stock nats-py, same messages only", "< 10 %"),
    ]  # fmt: skip
