"""A day offline at 100 records a second, then catch-up while live goes on: latency, alerts, memory.

The mixer and the subscriber are processes of their own; the rack runs in this one, so that its journal can be asked
how far it is. Rack and subscriber have one half of the cores, mixer and server the other: they are not one machine in
the field either. Latency is from the time in a meter frame, the capture time of its last sample, to the subscriber.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench import outage_viewer
from bench.stage import Stage, stage
from bench.table import Row, median, quantile
from stagebox.identity import machine_id
from stagebox_rack import state
from stagebox_rack.app import Rack
from stagebox_rack.process import settle
from stagebox_rack.state import StatePaths
from stagebox_rack.wal.disk import Disk
from support.outage import fill_journal
from support.racks import running_rack

RACK = "bench"
OUTAGE_S = float(os.environ.get("STAGEBOX_BENCH_OUTAGE_S", 24 * 3600))
RATE = 100
BATCH_S = 0.05
BEFORE_S = 20.0
OFFLINE_S = 3.0
LONGEST_S = 1800.0


@dataclass
class Viewer:
    """What the subscriber said, and when, in seconds of ``time.perf_counter``."""

    latencies: list[float] = field(default_factory=list)
    alerts: dict[str, float] = field(default_factory=dict)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, lines: asyncio.StreamReader) -> None:
        """Take lines until the subscriber ends."""
        async for line in lines:
            name, late = line.split()
            if name == b"ready":
                self.ready.set()
            elif name == b"-":
                self.latencies.append(float(late))
            else:
                self.alerts[name.decode()] = time.perf_counter()


@contextlib.asynccontextmanager
async def _viewer(place: Stage) -> AsyncIterator[Viewer]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, outage_viewer.__file__, place.mixer.snake, str(place.cluster.viewer), RACK,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    viewer = Viewer()
    assert child.stdout is not None
    reading = asyncio.create_task(viewer.read(child.stdout))
    try:
        yield viewer
    finally:
        child.kill()
        await child.wait()
        await reading


def _server_of(place: Stage) -> int:
    mixer = place.cluster.mixer_pid
    (server,) = Path(f"/proc/{mixer}/task/{mixer}/children").read_text().split()
    return int(server)


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def _apart(mixer: int, server: int) -> None:
    """Give this process and its children the first half of the cores, the mixer and its server the second."""
    cores = sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)
    for pid in (mixer, server):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores[half:] or cores)
    os.sched_setaffinity(0, cores[:half])


class _Unsynced(Disk):
    """Makes a day in minutes: what is measured begins when it is on the disk."""

    def datasync(self, descriptor: int) -> None:
        """Leave it to the kernel, and to the one sync at the end."""


def _fill(directory: Path, cores: set[int]) -> int:
    os.sched_setaffinity(0, cores)
    identity = state.load(StatePaths(directory), machine_id=machine_id())
    filling = fill_journal(
        directory,
        identity,
        seconds=OUTAGE_S,
        rate=RATE,
        end_ns=time.time_ns(),
        batch_s=BATCH_S,
        disk=_Unsynced(),
    )
    last = asyncio.run(filling)
    os.sync()
    return last


async def _before(place: Stage, directory: Path) -> list[float]:
    async with _viewer(place) as viewer, running_rack(directory, machine=machine_id()):
        await asyncio.wait_for(viewer.ready.wait(), 30)
        while len(viewer.latencies) < BEFORE_S * 20:  # noqa: ASYNC110 - a child counts them
            await asyncio.sleep(0.1)
        return viewer.latencies[20:]  # a connection's first second is its own


@dataclass
class CatchUp:
    """What was measured while the backlog went."""

    seconds: float
    records: int
    latencies: list[float]
    alert_s: float
    ahead: float
    rack_mib: tuple[float, float]
    mixer_mib: tuple[float, float]


async def _catch_up(place: Stage, directory: Path, last: int, say: Callable[[str], None]) -> CatchUp:
    mixer, server = place.cluster.mixer_pid, _server_of(place)
    async with _viewer(place) as viewer:
        await asyncio.wait_for(viewer.ready.wait(), 30)
        # A server that stands still is a line that is down for the rack, and not yet for those who are connected.
        os.kill(server, signal.SIGSTOP)
        try:
            async with running_rack(directory, machine=machine_id()) as rack:
                settle()
                rack.alert("outage_alert", {"door": "rear"})
                await asyncio.sleep(OFFLINE_S)
                os.kill(server, signal.SIGCONT)
                return await _watch(rack, mixer, viewer, last, say)
        finally:
            os.kill(server, signal.SIGCONT)


async def _watch(rack: Rack, mixer: int, viewer: Viewer, last: int, say: Callable[[str], None]) -> CatchUp:
    racks, mixers = [_resident_mib(os.getpid())], [_resident_mib(mixer)]
    await rack._bus.wait_connected(60)
    began, behind_alert, said = time.perf_counter(), 0, 0
    start = rack._wal.acknowledged
    while rack._wal.acknowledged < last:
        if time.perf_counter() - began > LONGEST_S:
            raise RuntimeError(f"only {rack._wal.acknowledged} of {last} records in {LONGEST_S:.0f} s")
        if not viewer.alerts:
            behind_alert = rack._wal.acknowledged
        racks.append(_resident_mib(os.getpid()))
        mixers.append(_resident_mib(mixer))
        if int(10 * rack._wal.acknowledged / last) > said:
            said = int(10 * rack._wal.acknowledged / last)
            say(f"outage: {said * 10} % of {last:,} records")
        await asyncio.sleep(0.02)
    seconds = time.perf_counter() - began
    return CatchUp(
        seconds,
        last - start,
        viewer.latencies[20:],
        viewer.alerts["outage_alert"] - began,
        behind_alert / last,
        (racks[0], max(racks)),
        (mixers[0], max(mixers)),
    )


async def run(say: Callable[[str], None]) -> list[Row]:
    """Measure live before, fill the journal, then measure live while it is shipped."""
    async with stage() as place:
        await place.identity(RACK)
        cores = os.sched_getaffinity(0)
        _apart(place.cluster.mixer_pid, _server_of(place))
        directory = place.cluster.state_dir(RACK)
        say(f"outage: live for {BEFORE_S:.0f} s, nothing behind")
        before = await _before(place, directory)
        say(f"outage: a journal of {OUTAGE_S / 3600:g} hours at {RATE} records/s")
        with ProcessPoolExecutor(1) as other:
            last = await asyncio.get_running_loop().run_in_executor(other, _fill, directory, cores)
        found = await _catch_up(place, directory, last, say)
        os.sched_setaffinity(0, cores)
    hours, what = f"after {OUTAGE_S / 3600:g} h offline", "the same rack with nothing behind"
    rate = found.records / found.seconds
    return [
        Row("outage", "live meter latency while catching up, p50", "ms", median(found.latencies), median(before),
            what, "within noise"),
        Row("outage", "live meter latency while catching up, p99", "ms", quantile(found.latencies, 0.99),
            quantile(before, 0.99), what, "within noise"),
        Row("outage", f"catch-up {hours}, until the mixer holds all", "records/s", rate, float(RATE),
            "records/s made", "≥ 20 ×"),
        Row("outage", "an alert of the outage, from connecting to the subscriber", "s", found.alert_s),
        Row("outage", "the backlog held by the mixer by then", "% of it", 100 * found.ahead, None, "", "0"),
        Row("outage", "rack's memory at most, beside before it connected", "MiB", found.rack_mib[1],
            found.rack_mib[0], "resident before", "bounded"),
        Row("outage", "mixer's memory at most, beside before", "MiB", found.mixer_mib[1], found.mixer_mib[0],
            "resident before", "bounded"),
    ]  # fmt: skip
