"""A rack's journal as an outage leaves it: records of hours, appended as fast as the disk takes them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from stagebox import subjects
from stagebox_rack.limits import LIMITS, RackLimits
from stagebox_rack.state import RackIdentity, StatePaths
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.events import JournalEvent
from stagebox_rack.wal.wal import Wal
from support.frames import meter_frame

_AT_ONCE = 8192
_MOMENTS = 512
_SEQ, _START, _TIME = 1 << 16, 1 << 40, 1 << 60


async def fill_journal(
    directory: Path,
    identity: RackIdentity,
    *,
    seconds: float,
    rate: int,
    end_ns: int,
    limits: RackLimits = LIMITS,
    batch_s: float | None = None,
    disk: Disk | None = None,
) -> int:
    """Journal ``rate`` meter frames a second for the ``seconds`` before ``end_ns``; return the last sequence.

    ``batch_s`` seconds of them share a batch, as they do while a rack runs; else as many as fit.

    ``directory`` is the state directory of a rack that is not running; its journal is sealed as it fills.
    """
    rack, boot = identity.passport.name, os.urandom(16)
    subject, total, step_ns = subjects.meter(rack, "main"), int(seconds * rate), 1_000_000_000 // rate
    frames = meter_frames(boot, begin_ns=end_ns - total * step_ns, step_ns=step_ns)
    wal = await Wal.open(
        StatePaths(directory).wal,
        rack=rack,
        signing_key=identity.key,
        boot=boot,
        limits=limits,
        on_event=_must_be_quiet,
        disk=disk,
    )
    async with wal:
        left, most = total, _AT_ONCE if batch_s is None else max(1, int(rate * batch_s))
        while left:
            now = min(left, most)
            group = [
                wal.append("meter", *_named(subject, next(frames)), urgent=n == now - 1) for n in range(now)
            ]
            left -= now
            await asyncio.gather(*group)
        await wal.seal_now()
        return wal.committed


def _named(subject: str, frame: tuple[int, bytes]) -> tuple[int, str, bytes]:
    time_ns, data = frame
    return time_ns, subject, data


def meter_frames(boot: bytes, *, begin_ns: int, step_ns: int) -> Iterator[tuple[int, bytes]]:
    """Yield (capture time, frame) for ever, ``step_ns`` apart.

    Levels move as those of a programme do, so that nothing is stored for less than it costs. A frame is encoded
    once for each of some hundred moments; only its sequence, sample index and time are written anew, in place.
    """
    moments = []
    for number in range(_MOMENTS):
        peak = -20.0 - (number * 7919 % 1201) / 100
        frame = meter_frame(
            _SEQ, boot, time_ns=_TIME, start=_START, frames=480, peak=peak, momentary=peak - 3
        )
        moments.append(bytearray(frame.encode()))
    places = [
        (moments[0].index(b"\x1a" + _SEQ.to_bytes(4, "big")) + 1, 4, _SEQ, 1),
        (moments[0].index(b"\x1b" + _START.to_bytes(8, "big")) + 1, 8, _START, 480),
        (moments[0].index(b"\x1b" + _TIME.to_bytes(8, "big")) + 1, 8, begin_ns, step_ns),
    ]
    number = 0
    while True:
        data = moments[number % _MOMENTS]
        for place, width, first, step in places:
            data[place : place + width] = (first + number * step).to_bytes(width, "big")
        yield begin_ns + number * step_ns, bytes(data)
        number += 1


def _must_be_quiet(event: JournalEvent) -> None:
    if event.severity == "alert":
        raise AssertionError(f"the journal raised {event.name}: {event.detail}")
