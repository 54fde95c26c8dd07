"""What a rack's records take on its disk, hot and sealed, and in the lake."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from nacl.signing import SigningKey

from bench.table import Row
from bench.wal.appending import open_wal, submit
from bench.wal.child import Result, measure
from bench.wal.questions import CLUSTER, commits, sort_all
from bench.wal.records import DIGESTS, RACK, START_NS, SUBJECT, frames
from stagebox.records.walbatch import WalRecord
from stagebox_mixer.lake.lake import Lake
from stagebox_mixer.lake.state import Position
from stagebox_mixer.lake.storage import LocalStorage
from stagebox_rack.checkpointing import CheckpointBuilder
from stagebox_rack.limits import LIMITS

RATE = 20
FRAMES = 3000
CASES = ((2, 1), (16, 1), (64, 1), (2, 10))
"""(channels, frames a batch): one with the default wal_commit_ms of 50, ten with 500."""
_CERTIFICATES = (600, 500)
_DAY_MB = 86_400 / 1e6
_LATER = 1e6


def _batches(channels: int, together: int) -> Iterator[list[WalRecord]]:
    chain = tuple(os.urandom(size) for size in _CERTIFICATES)
    builder = CheckpointBuilder(
        rack=RACK, boot=bytes(16), chain=chain, key=SigningKey(bytes(32)), max_digests=DIGESTS
    )
    interval_ns = 10**9 // RATE
    batch: list[WalRecord] = []
    for number, data in enumerate(frames(FRAMES, interval_ns=interval_ns, channels=channels), 1):
        now = START_NS + number * interval_ns
        batch.append(WalRecord("meter", now, SUBJECT, data))
        builder.add(SUBJECT, number, data, now)
        if number % RATE == 0:
            batch.append(WalRecord("checkpoint", now, f"rack.{RACK}.checkpoint", builder.sign(now) or b""))
        if number % together == 0:
            yield batch
            batch = []


async def job_size(directory: str, channels: int, together: int) -> Result:
    """Journal and commit some minutes of a rack; bytes for each second of it."""
    limits = dataclasses.replace(LIMITS, wal_maintain_first=_LATER, wal_maintain=_LATER)
    wal = await open_wal(Path(directory) / "wal", limits)
    for batch in _batches(channels, together):
        await submit(wal, batch, at_once=True)
    hot = wal.stats().hot_bytes
    await wal.seal_now()
    sealed = wal.stats().segment_bytes
    await wal.close()
    lake = Lake(LocalStorage(Path(directory) / "lake"), bytes(32), cluster=CLUSTER)
    await lake.open()
    made = list(commits(RACK, _batches(channels, together), []))
    await lake.commit(made, position=Position(1, len(made)))
    await sort_all(lake)
    held = sum(file.size for file in lake.state().files.values())
    await lake.close()
    seconds = FRAMES / RATE
    return {"hot": hot / seconds, "sealed": sealed / seconds, "lake": held / seconds}


async def rows(say: Callable[[str], None]) -> list[Row]:
    """Sizes only: nothing here depends on the machine."""
    found: list[Row] = []
    for channels, together in CASES:
        say(f"wal: sizes, {channels} channels, {together} a batch")
        with tempfile.TemporaryDirectory(prefix="stagebox-bench-") as name:
            size = await measure("sizing", "size", directory=name, channels=channels, together=together)
        what = f"a day of {channels} channels, {RATE} frames/s, {together * 1000 // RATE} ms a batch"
        sealed = size["sealed"] * _DAY_MB
        found.append(
            Row("wal", f"{what}: sealed in the journal", "MB", sealed, size["hot"] * _DAY_MB, "in hot files")
        )
        found.append(
            Row("wal", f"{what}: in the lake", "MB", size["lake"] * _DAY_MB, sealed, "sealed in the journal")
        )
    return found
