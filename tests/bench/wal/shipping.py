"""From a rack's journal through a real stream into the lake: a backlog as fast as it goes, every check on."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from nacl.signing import SigningKey

from bench.table import Row
from bench.wal.appending import GROUP_S, ignore, open_wal, submit
from bench.wal.child import Result, measure
from bench.wal.questions import sort_all
from bench.wal.records import RACK, groups, records
from stagebox.bus import BusClient, BusOptions
from stagebox_mixer import streams
from stagebox_mixer.audit import Audit
from stagebox_mixer.ingest.consumer import Ingest
from stagebox_mixer.lake.lake import Lake
from stagebox_mixer.lake.storage import LocalStorage
from stagebox_mixer.registry.store import Registry
from stagebox_rack.wal.shipper import Shipper
from support.natsd import Authority, NatsServer
from support.registered import OneRack, StrictAudit

COUNTS = {100: 40_000, 2000: 300_000}
WAL_SUBJECT = f"rack.{RACK}.wal"
_KEY = SigningKey(bytes(32))
_DEADLINE_S = 120.0


async def job_fill(directory: str, rate: int) -> Result:
    """Fill a journal in the groups of ``rate``, with a checkpoint a second."""
    wal = await open_wal(Path(directory))
    made = list(records(COUNTS[rate], per_second=rate, key=_KEY))
    for group in groups(made, int(rate * GROUP_S)):
        await submit(wal, group, at_once=True)
    await wal.close()
    return {"records": wal.committed}


async def job_ship(directory: str, server: str) -> Result:
    """Ship a journal until the stream holds all of it."""
    async with _bus(server) as bus, await open_wal(Path(directory)) as wal:
        shipper = Shipper(wal, bus, WAL_SUBJECT, _KEY, on_event=ignore)
        shipper.connected()
        started, cpu = time.perf_counter(), time.process_time()
        task = asyncio.create_task(shipper.run())
        await wal.wait_acknowledged(wal.committed)
        result = {"s": time.perf_counter() - started, "cpu": time.process_time() - cpu}
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return {**result, "records": wal.acknowledged}


async def job_ingest(directory: str, server: str, expected: int) -> Result:
    """Ingest until the lake has ``expected`` records, then sort them; seconds of this process's CPU."""
    import stagebox.columns.table  # noqa: F401 - once in a mixer's life

    async with _bus(server) as bus:
        lake = Lake(LocalStorage(Path(directory) / "lake"), bytes(32), cluster=RACK)
        await lake.open()
        ingest = Ingest(
            bus=bus,
            registry=cast(Registry, OneRack(bytes(_KEY.verify_key))),
            lake=lake,
            audit=cast(Audit, StrictAudit()),
        )
        cpu = time.process_time()
        await ingest.start()
        async with asyncio.timeout(_DEADLINE_S):
            while sum(journal.last for journal in lake.all()) < expected:  # noqa: ASYNC110 - a commit tells nobody
                await asyncio.sleep(0.01)
        result = {"cpu": time.process_time() - cpu, "at": time.time()}
        await ingest.stop()
        (journal,) = lake.all()
        if journal.missing or journal.rejected or ingest.alarms:
            raise RuntimeError(f"the lake is not whole: {journal}")
        cpu = time.process_time()
        await sort_all(lake)
        files = [file for file in lake.state().files.values() if file.rack]
        result |= {"sort_cpu": time.process_time() - cpu, "bytes": sum(file.size for file in files)}
        result |= {"proved": journal.proved, "rows": sum(file.rows for file in files if file.kind == "meter")}
        await lake.close()
        return result


@asynccontextmanager
async def _bus(server: str) -> AsyncIterator[BusClient]:
    async with BusClient(BusOptions(servers=(server,), name="bench")) as bus:
        await bus.wait_connected(10)
        yield bus


async def _end_to_end(root: Path, rate: int) -> Result:
    """Ship and ingest one backlog at the same time, in two processes beside the server's."""
    journal, nats, lake = root / "journal", root / "nats", root / "lake"
    for directory in (journal, nats, lake):
        directory.mkdir(mode=0o700)
    filled = await measure("shipping", "fill", directory=str(journal), rate=rate)
    server = NatsServer(nats, Authority(root / "ca"), store="sync_interval: always")
    await server.start()
    try:
        async with _bus(server.tcp) as bus:
            await bus.js.add_stream(streams.wal_stream())
        held = int(filled["records"])
        began = time.time()
        shipped, ingested = await asyncio.gather(
            measure("shipping", "ship", directory=str(journal), server=server.tcp),
            measure("shipping", "ingest", directory=str(lake), server=server.tcp, expected=held),
        )
    finally:
        await server.stop()
    return {
        "held": held,
        "s": ingested["at"] - began,
        **{f"ship_{k}": v for k, v in shipped.items()},
        **ingested,
    }


def _rows(rate: int, found: Result) -> Sequence[Row]:
    held = found["held"]
    of = f"batches of {rate:,}/s"
    fast = rate == max(COUNTS)
    per_s = held / found["ship_s"]
    return [
        Row("wal", f"shipped, {of}", "records/s", per_s),
        Row("wal", f"shipped and committed, {of}", "records/s", held / found["s"]),
        Row("wal", f"catch-up of a rack at {rate:,}/s", "× real time", held / found["s"] / rate, None, "",
            "≥ 20"),
        Row("wal", f"ingested on one core: fetched, verified, committed, {of}", "records/s", held / found["cpu"],
            None, "", "≥ 50,000" if fast else ""),
        Row("wal", f"the same, and sorted into columns, {of}", "records/s",
            held / (found["cpu"] + found["sort_cpu"]), None, "", "≥ 50,000" if fast else ""),
    ]  # fmt: skip


async def rows(say: Callable[[str], None]) -> list[Row]:
    """Measure a backlog of small and of large batches."""
    made: list[Row] = []
    for rate, count in COUNTS.items():
        with tempfile.TemporaryDirectory(prefix="stagebox-bench-") as name:
            say(f"wal: {count} records shipped and ingested, in batches of {rate}/s")
            made += _rows(rate, await _end_to_end(Path(name), rate))
    return made
