"""Start-up: the mixer, and a rack from `admin enroll` to its first meter frame at a subscriber."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import stagebox
from bench.stage import Stage, running_mixer, stage, stop
from bench.table import Row, median

RUNS = 5
WARM_S = 3.0

_RAW_CONNECT = """
import asyncio, sys
from pathlib import Path
from bench.clients import raw_viewer
from bench.stage import Stage
async def main():
    async with raw_viewer(Stage(Path(sys.argv[1]), 0, int(sys.argv[2]), 0.0)) as client:
        await client.flush()
asyncio.run(main())
"""


def _raw_server() -> float:
    """Spawn to ready of nats-server alone, without accounts, TLS or JetStream."""
    executable = Path(sys.executable).with_name("nats-server")
    with tempfile.TemporaryDirectory() as directory:
        command = [str(executable), "--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", directory]
        started = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "Server is ready" in line:
                    return time.perf_counter() - started
            raise RuntimeError("nats-server did not start")
        finally:
            stop(process)
            if process.stderr is not None:
                process.stderr.close()


def _raw_client(place: Stage) -> float:
    """A Python process that imports nats-py, connects over wss with mTLS and gets one answer."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", _RAW_CONNECT, str(place.directory), str(place.snake_port)],
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    return time.perf_counter() - started


async def _first_frame(place: Stage, rack: str) -> float:
    """Seconds from spawning `admin enroll` to the rack's first meter frame at a subscriber."""
    command = place.enroll_command(rack)
    process = subprocess.Popen(  # noqa: ASYNC220 - before the clock starts
        place.rack_command(rack, "--wait-for-enrollment", "--source", "tone:997@-23"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with (
            stagebox.connect(place.snake, place.viewer) as viewer,
            viewer.open_records(f"rack.{rack}.meter.>", verify="live") as records,
        ):
            await asyncio.sleep(WARM_S)  # a service that was started at boot
            started = time.perf_counter()
            enroll = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
            async for _record in records:
                elapsed = time.perf_counter() - started
                break
            await enroll.wait()
            return elapsed
    finally:
        await asyncio.to_thread(stop, process)


def run(say: Callable[[str], None]) -> list[Row]:
    """Medians of a few whole-process runs."""
    ready: list[float] = []
    frames: list[float] = []
    raw_clients: list[float] = []
    with stage() as place:
        for index in range(RUNS):
            say(f"startup: run {index + 1} of {RUNS}")
            frames.append(asyncio.run(_first_frame(place, f"bench-{index}")))
            raw_clients.append(_raw_client(place))
        mixer_dir = place.directory / "cluster" / "mixer"
        for index in range(RUNS):
            data = place.directory / f"data-{index}"
            data.mkdir()
            with running_mixer(mixer_dir, place.directory / "again.log", data) as (seconds, _, _):
                ready.append(seconds)
    raw_ready = [_raw_server() for _ in range(RUNS)]
    return [
        Row("startup", "mixer, spawn → ready", "ms", median(ready) * 1e3, median(raw_ready) * 1e3,
            "nats-server alone", "< 2000"),
        Row("startup", "`admin enroll` spawned → first frame", "ms", median(frames) * 1e3,
            median(raw_clients) * 1e3, "Python + nats-py, connect and ping", "< 1000"),
    ]  # fmt: skip
