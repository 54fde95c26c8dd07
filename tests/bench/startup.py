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
from bench.stage import Stage, stage
from bench.table import Row, median

RUNS = 5

# A Python process that imports nats-py, connects over wss with mTLS and gets one answer.
_RAW_CONNECT = """
import asyncio, ssl, sys, nats
async def main():
    context = ssl.create_default_context(cafile=sys.argv[2] + "/ca.pem")
    context.load_cert_chain(sys.argv[2] + "/client.crt", sys.argv[2] + "/client.key")
    client = await nats.connect(sys.argv[1], tls=context)
    await client.flush()
    await client.close()
asyncio.run(main())
"""


def _raw_server() -> float:
    """Spawn to ready of nats-server alone, without accounts, TLS or JetStream."""
    executable = str(Path(sys.executable).with_name("nats-server"))
    with tempfile.TemporaryDirectory() as directory:
        command = [executable, "--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", directory]
        started = time.perf_counter()
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                if not any("Server is ready" in line for line in process.stderr):
                    raise RuntimeError("nats-server did not start")
                return time.perf_counter() - started
            finally:
                process.terminate()


async def _raw_client(place: Stage) -> float:
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _RAW_CONNECT, place.mixer.snake, str(place.cluster.viewer)
    )
    if await process.wait():
        raise RuntimeError("the raw client failed")
    return time.perf_counter() - started


async def _first_frame(place: Stage, rack: str) -> float:
    """Seconds from spawning `admin enroll` to the rack's first meter frame at a subscriber.

    The rack runs before, as a service that was started at boot does, and waits for its identity.
    """
    await place.cluster.start_rack(rack, "tone:997@-23")
    ticket = await place.cluster.make_ticket(place.mixer, rack)
    async with (
        stagebox.connect(place.mixer.snake, place.cluster.viewer) as viewer,
        viewer.open_records(f"rack.{rack}.meter.>", verify="live") as records,
    ):
        enrolling = asyncio.create_task(place.cluster.enroll(place.mixer, rack, ticket))
        async for _record in records:
            arrived = asyncio.get_running_loop().time()
            break
        spawned, _ended = await enrolling
        elapsed = arrived - spawned
    await place.cluster.stop_racks()
    return elapsed


async def run(say: Callable[[str], None]) -> list[Row]:
    """Medians of a few whole-process runs."""
    frames: list[float] = []
    raw_clients: list[float] = []
    async with stage() as place:
        ready = [place.mixer.startup_ms]
        for index in range(RUNS):
            say(f"startup: rack {index + 1} of {RUNS}")
            frames.append(await _first_frame(place, f"bench-{index}"))
            raw_clients.append(await _raw_client(place))
        for index in range(RUNS):
            say(f"startup: mixer {index + 1} of {RUNS}")
            await place.cluster.stop_mixer()
            ready.append((await place.cluster.start_mixer()).startup_ms)
    raw_ready = [await asyncio.to_thread(_raw_server) for _ in range(RUNS)]
    return [
        Row("startup", "mixer, spawn → ready", "ms", median(ready), median(raw_ready) * 1e3,
            "nats-server alone", "< 2000"),
        Row("startup", "`admin enroll` spawned → first frame", "ms", median(frames) * 1e3,
            median(raw_clients) * 1e3, "Python + nats-py, connect and ping", "< 1000"),
    ]  # fmt: skip
