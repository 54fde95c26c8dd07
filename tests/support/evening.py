"""An hour of one rack in a lake, the same every time: what the guides ask questions about."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from nacl.signing import SigningKey

from stagebox.records.event import Event
from stagebox.records.walbatch import WalRecord
from stagebox_keys.storage import LAKE_LABEL
from stagebox_mixer.lake import keeping
from stagebox_mixer.lake.lake import Lake
from stagebox_mixer.lake.state import Position
from stagebox_mixer.lake.storage import LocalStorage
from stagebox_mixer.limits import LIMITS
from support.cluster import Cluster
from support.frames import meter_frame
from support.lake import commit
from support.rackside import Journal

RACK = "stage-left"
BEGIN = datetime.datetime(2026, 11, 20, 20, tzinfo=datetime.UTC)
MINUTES = 60
LOUD_MINUTE = 41
RATE = 4
"""Frames a second."""
_BOOT = bytes(range(16))
_SECOND_NS = 10**9


def _record(kind: str, time_ns: int, data: bytes) -> WalRecord:
    leaf = ".main" if kind == "meter" else ""
    return WalRecord(kind, time_ns, f"rack.{RACK}.{kind}{leaf}", data)


def _minute(minute: int) -> Iterator[WalRecord]:
    """Yield a minute of frames between -30 and -24 dBFS; one minute is 12 dB louder, and clips."""
    begin = int(BEGIN.timestamp()) * _SECOND_NS + minute * 60 * _SECOND_NS
    loud = minute == LOUD_MINUTE
    for number in range(60 * RATE):
        frame = minute * 60 * RATE + number
        time_ns = begin + number * _SECOND_NS // RATE
        level = -30.0 + minute % 7 + (12.0 if loud else 0.0)
        yield _record(
            "meter",
            time_ns,
            meter_frame(
                frame + 1,
                _BOOT,
                time_ns=time_ns,
                start=frame * 48_000 // RATE,
                frames=48_000 // RATE,
                peak=level,
                apart=3.0,
                momentary=level,
            ).encode(),
        )
        if loud and number in (10 * RATE, 12 * RATE):
            name = "clip" if number == 10 * RATE else "clip.recovered"
            detail = {"source": "main", "start": frame * 48_000 // RATE, "channels": ["1"], "value": 0.0}
            yield _record("event", time_ns, Event(1 + number, _BOOT, time_ns, name, detail).encode())


async def lay_down(cluster: Cluster, data: Path) -> None:
    """Commit the hour to the lake in a mixer's data directory and sort it, as a mixer has after some minutes."""
    data.mkdir(mode=0o700, exist_ok=True)
    key = cluster.keys.storage_key(LAKE_LABEL)
    lake = Lake(LocalStorage(data / "lake"), key, cluster=cluster.name, keep_days=0)
    await lake.open()
    try:
        journal = Journal(RACK, SigningKey(bytes(range(32))), journal=bytes(range(16, 32)))
        for minute in range(MINUTES):
            batch = commit(journal, *_minute(minute), seq=minute + 1)
            await lake.commit([batch], position=Position(1, minute + 1))
        old = dataclasses.replace(LIMITS, lake_sort_after_s=0.0, lake_sweep_after_s=0.0)
        with mock.patch.object(keeping, "LIMITS", old):
            await lake.tidy()
    finally:
        await lake.close()
