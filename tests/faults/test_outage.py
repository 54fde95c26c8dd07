"""After a long outage: alerts first, live as before, the backlog behind them, and all of it once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

import stagebox
from stagebox.identity import Role
from stagebox.records.event import Event
from stagebox.records.meter import MeterFrame
from stagebox.subscriber import RecordStream, Verification
from stagebox_rack.app import Rack
from support.cluster import Cluster, running_mixer
from support.fault_proxy import FaultProxy
from support.lake import journals, lake_records
from support.outage import fill_journal
from support.racks import running_rack
from support.rackside import until

RACK = "left"
OUTAGE_S = 300.0
RATE = 100


@dataclass
class Heard:
    """What a verifying subscriber got since it stood, and how far the backlog was when it got it."""

    rack: Rack
    frames: list[int] = field(default_factory=list)
    alerts: dict[str, int] = field(default_factory=dict)
    unproved: list[str] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self, records: RecordStream) -> None:
        """Take records until cancelled."""
        async for record in records:
            if record.verification is not Verification.VERIFIED:
                self.unproved.append(f"{record.subject}: {record.reason}")
            elif isinstance(record.value, MeterFrame):
                self.frames.append(record.value.seq)
                self.came.set()
            elif isinstance(record.value, Event) and record.kind.value == "alert":
                self.alerts[record.value.name] = self.rack._wal.acknowledged

    async def more(self, count: int) -> None:
        """Wait for ``count`` more meter frames."""
        wanted = len(self.frames) + count
        while len(self.frames) < wanted:
            self.came.clear()
            await self.came.wait()


async def test_alerts_of_an_outage_come_first_and_live_goes_on_while_the_backlog_follows(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        identity = await mixer.enroll(tmp_path / "rack", RACK)
        port = mixer.mixer.snake_port
    last = await fill_journal(tmp_path / "rack", identity, seconds=OUTAGE_S, rate=RATE, end_ns=time.time_ns())
    async with (
        running_mixer(cluster, tmp_path / "data") as mixer,
        FaultProxy(mixer.mixer.snake_port, port) as proxy,
        stagebox.connect(mixer.snake, cluster.client(Role.VIEWER)) as viewer,
        viewer.open_records(f"rack.{RACK}.>", on_bad="raise") as records,
    ):
        proxy.refuse()
        async with running_rack(tmp_path / "rack", checkpoint_interval=0.2) as rack:
            rack.alert("door_open", {"door": "rear"})
            heard = Heard(rack)
            listening = asyncio.create_task(heard.listen(records))
            await asyncio.sleep(0.5)  # the checkpoint that lists the alert is signed offline too
            assert not rack._bus.connected
            proxy.clear()
            rack._bus.retry_now()
            async with asyncio.timeout(60):
                await rack._wal.wait_acknowledged(last)
                await heard.more(20)
            listening.cancel()
            acknowledged = rack._wal.acknowledged

        async def in_the_lake() -> bool:
            (journal,) = await asyncio.to_thread(journals, mixer, RACK)
            return journal.last >= acknowledged

        await until(in_the_lake, 60)
        rows = await asyncio.to_thread(lake_records, mixer, RACK)
    assert heard.unproved == []
    assert heard.alerts["door_open"] < last / 2, "the alert waited for the backlog"
    assert heard.frames == list(range(heard.frames[0], heard.frames[0] + len(heard.frames)))
    assert [sequence for sequence, _, _ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= acknowledged
