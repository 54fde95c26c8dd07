"""``python outage_viewer.py SNAKE IDENTITY RACK``: a subscriber of its own, as far from the rack as another machine.

Prints ``ready 0``, then ``- <milliseconds from its time to here>`` for a meter frame and ``<name> 0`` for an alert.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import stagebox
from stagebox import logs
from stagebox.records.event import Event
from stagebox.records.meter import MeterFrame
from stagebox.subscriber import RecordStream


async def main(snake: str, identity: Path, rack: str) -> None:
    """Print until killed: what a meter bridge listens to, and not the journal."""
    async with (
        stagebox.connect(snake, identity) as viewer,
        viewer.open_records(f"rack.{rack}.meter.>", verify="live") as meters,
        viewer.open_records(f"rack.{rack}.alert", verify="live") as alerts,
        asyncio.TaskGroup() as group,
    ):
        os.write(1, b"ready 0\n")
        group.create_task(_meters(meters))
        group.create_task(_alerts(alerts))


async def _meters(records: RecordStream) -> None:
    async for record in records:
        if isinstance(record.value, MeterFrame):
            os.write(1, f"- {(record.received_ns - record.value.time_ns) / 1e6:.3f}\n".encode())


async def _alerts(records: RecordStream) -> None:
    async for record in records:
        if isinstance(record.value, Event):
            os.write(1, f"{record.value.name} 0\n".encode())


if __name__ == "__main__":
    logs.setup("error", "console")
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
