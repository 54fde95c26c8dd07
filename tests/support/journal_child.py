"""A rack's journal in a process of its own, to be killed: prints ``<number> <sequence>`` for what was acknowledged.

``python journal_child.py <directory> <first number>``; record ``n`` holds ``n`` in eight bytes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from pathlib import Path

from nacl.signing import SigningKey

from stagebox_rack.limits import LIMITS
from stagebox_rack.wal.events import JournalEvent
from stagebox_rack.wal.wal import Wal


def _tell(text: str) -> None:
    os.write(1, text.encode())


def _event(event: JournalEvent) -> None:
    if event.severity == "alert":
        _tell(f"alert {event.name} {event.detail}\n")


async def main(directory: Path, number: int) -> None:
    """Append until killed."""
    limits = dataclasses.replace(
        LIMITS,
        wal_commit_window=0.001,
        wal_hot_file_bytes=24 << 10,
        wal_maintain=0.02,
        wal_maintain_first=0.02,
    )
    key = SigningKey(bytes(range(32)))
    wal = await Wal.open(
        directory, rack="stage-left", signing_key=key, boot=os.urandom(16), limits=limits, on_event=_event
    )
    while True:
        burst = range(number, number + 8)
        futures = [
            wal.append("meter", n, "rack.stage-left.meter.main", n.to_bytes(8, "big") * 8) for n in burst
        ]
        for n, future in zip(burst, futures, strict=True):
            _tell(f"{n} {await future}\n")
        number += 8


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
