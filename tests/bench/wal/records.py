"""Records of a 2-channel rack as it makes them: meter frames whose levels wander, a checkpoint a second."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from nacl.signing import SigningKey

from stagebox.columns.meter import MeterColumns
from stagebox.records.header import BOOT_BYTES
from stagebox.records.walbatch import WalRecord
from stagebox_rack.checkpointing import CheckpointBuilder

RACK = "bench"
SUBJECT = f"rack.{RACK}.meter.main"
START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00Z
DIGESTS = 4096
_RATE = 48_000


def frames(count: int, *, interval_ns: int = 50_000_000, channels: int = 2, seed: int = 1) -> list[bytes]:
    """Return ``count`` encoded meter frames, no two alike, as the product encodes them."""
    numbers = np.random.default_rng(seed)
    boot = numbers.bytes(BOOT_BYTES)
    steps = np.arange(count, dtype=np.uint64)
    samples = interval_ns * _RATE // 10**9
    made: dict[str, Any] = {
        "boot": pa.array([boot] * count, pa.binary(BOOT_BYTES)),
        "meter_seq": steps + np.uint64(1 << 16),
        "captured_ns": steps * np.uint64(interval_ns) + np.uint64(START_NS),
        "start": steps * np.uint64(samples) + np.uint64(1 << 32),
        "frames": np.full(count, samples, np.uint32),
        "rate": np.full(count, _RATE, np.uint32),
        "flags": _lists(np.zeros((count, channels), np.uint8)),
        "correlation": _lists(numbers.integers(20, 90, (count, channels // 2)).astype(np.int8)),
    }
    columns = []
    for field in MeterColumns.type:
        if field.name in made:
            columns.append(pa.array(made[field.name], field.type))
        else:
            width = 1 if field.name.startswith("programme_") else channels
            columns.append(pa.array(_lists(_wandering(numbers, count, width)), field.type))
    table = pa.StructArray.from_arrays(columns, fields=list(MeterColumns.type))
    return MeterColumns().unpack(table, range(count))


def records(count: int, *, per_second: int, key: SigningKey, chain: bytes = b"") -> Iterator[WalRecord]:
    """Yield meter records and, after those of each second, the checkpoint that proves them."""
    boot = os.urandom(BOOT_BYTES)
    builder = CheckpointBuilder(rack=RACK, boot=boot, chain=(chain,), key=key, max_digests=DIGESTS)
    interval_ns = 10**9 // per_second
    for number, data in enumerate(frames(count, interval_ns=interval_ns), 1):
        now = START_NS + number * interval_ns
        yield WalRecord("meter", now, SUBJECT, data)
        builder.add(SUBJECT, number, data, now)
        if number % per_second == 0:
            yield WalRecord("checkpoint", now, f"rack.{RACK}.checkpoint", builder.sign(now) or b"")


def groups(made: Sequence[WalRecord], size: int) -> Iterator[Sequence[WalRecord]]:
    """Yield ``made`` in groups of ``size``."""
    for at in range(0, len(made), size):
        yield made[at : at + size]


def _wandering(numbers: np.random.Generator, count: int, width: int) -> npt.NDArray[np.int16]:
    """Return levels in hundredths of a decibel that wander as those of a programme do."""
    steps = numbers.normal(0, 80, (count, width)).cumsum(axis=0)
    around = 900 * np.sin(steps / 900) - 2300 + numbers.normal(0, 60, (count, width))
    return around.astype(np.int16)


def _lists(values: npt.NDArray[Any]) -> Any:
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))
