"""Journal: durable appends beside the same bytes written and synced with plain system calls."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nacl.signing import SigningKey

from bench.table import Row
from stagebox_rack.wal.events import JournalEvent
from stagebox_rack.wal.wal import Wal

RECORD_BYTES = 256
RECORDS = 100_000
WINDOW = 8192
PACED_RATE = 2000
PACED_S = 10.0
GROUP_S = 0.05


def _ignore(_event: JournalEvent) -> None:
    """Journal events are of no interest to a measurement."""


async def _saturated(directory: Path) -> float:
    wal = await Wal.open(
        directory, rack="bench", signing_key=SigningKey.generate(), boot=os.urandom(16), on_event=_ignore
    )
    data = os.urandom(RECORD_BYTES)
    started = time.perf_counter()
    waiting: list[asyncio.Future[int]] = []
    for _ in range(RECORDS):
        waiting.append(wal.append("meter", time.time_ns(), "rack.bench.meter.main", data))
        if len(waiting) == WINDOW:
            await asyncio.gather(*waiting)
            waiting.clear()
    await asyncio.gather(*waiting)
    elapsed = time.perf_counter() - started
    await wal.close()
    return RECORDS / elapsed


def _raw_saturated(path: Path) -> float:
    data = os.urandom(RECORD_BYTES) * WINDOW
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    started = time.perf_counter()
    for _ in range(RECORDS // WINDOW):
        os.write(descriptor, data)
        os.fdatasync(descriptor)
    elapsed = time.perf_counter() - started
    os.close(descriptor)
    return (RECORDS // WINDOW) * WINDOW / elapsed


def _paced(groups: int) -> Iterator[None]:
    start = time.perf_counter()
    for group in range(groups):
        delay = start + group * GROUP_S - time.perf_counter()
        if delay > 0:
            time.sleep(delay)
        yield


async def _paced_cpu(directory: Path) -> float:
    wal = await Wal.open(
        directory, rack="bench", signing_key=SigningKey.generate(), boot=os.urandom(16), on_event=_ignore
    )
    data = os.urandom(RECORD_BYTES)
    started, cpu = time.perf_counter(), time.process_time()
    last: asyncio.Future[int] | None = None
    for group in range(int(PACED_S / GROUP_S)):
        await asyncio.sleep(max(0.0, started + group * GROUP_S - time.perf_counter()))
        for _ in range(int(PACED_RATE * GROUP_S)):
            last = wal.append("meter", time.time_ns(), "rack.bench.meter.main", data)
    if last is not None:
        await last
    share = (time.process_time() - cpu) / (time.perf_counter() - started)
    await wal.close()
    return share * 100


def _raw_paced_cpu(path: Path) -> float:
    data = os.urandom(RECORD_BYTES) * int(PACED_RATE * GROUP_S)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    started, cpu = time.perf_counter(), time.process_time()
    for _ in _paced(int(PACED_S / GROUP_S)):
        os.write(descriptor, data)
        os.fdatasync(descriptor)
    share = (time.process_time() - cpu) / (time.perf_counter() - started)
    os.close(descriptor)
    return share * 100


async def run(say: Callable[[str], None]) -> list[Row]:
    """Measure on the disk that holds the temporary directory."""
    with tempfile.TemporaryDirectory(prefix="stagebox-bench-") as name:
        directory = Path(name)
        say("journal: saturated")
        ours = await _saturated(directory / "a")
        raw = await asyncio.to_thread(_raw_saturated, directory / "raw-a")
        say("journal: paced")
        cpu = await _paced_cpu(directory / "b")
        raw_cpu = await asyncio.to_thread(_raw_paced_cpu, directory / "raw-b")
    return [
        Row("journal", f"durable appends, {RECORD_BYTES} B", "1/s", ours, raw, "write+fdatasync, no format"),
        Row("journal", f"CPU at {PACED_RATE}/s", "% of a core", cpu, raw_cpu, "write+fdatasync each 50 ms"),
    ]
