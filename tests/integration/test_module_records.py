"""What modules say, from a rack to whoever listens and into the lake, over a real nats-server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import stagebox.lake
from stagebox import subscriber
from stagebox.errors import InputError
from stagebox.identity import Role
from stagebox.records.module import ModuleRecord
from stagebox.subscriber import Record, RecordStream, Verification
from stagebox_mixer.lake import query
from stagebox_mixer.lake.reading import Span
from stagebox_mixer.lake.verify import verify
from stagebox_rack.app import Rack
from support.cluster import RunningMixer
from support.lake import lake_records, open_lake
from support.racks import hear, relay, running_rack
from support.rackside import until

RACK = "stage-left"
LEQ = f"rack.{RACK}.module.spl.leq"


def say(rack: Rack, out: str, data: dict[str, Any], **fields: Any) -> None:
    """Have the module ``spl`` of ``rack`` say something."""
    assert rack._publisher is not None
    said = {"module": "spl", "version": "1.2.0", "insert": "spl-main", "source": "main", **fields}
    rack._publisher.module_record(out=out, data=data, **said)


async def settled(records: RecordStream, count: int) -> list[Record]:
    async with asyncio.timeout(15):
        return [await anext(aiter(records)) for _ in range(count)]


async def test_a_module_is_heard_and_proved_live_and_found_and_proved_in_the_lake(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    await mixer.enroll(tmp_path / "rack", RACK)
    viewer = mixer.cluster.client(Role.VIEWER)
    async with (
        subscriber.connect(mixer.snake, viewer) as bus,
        bus.open_records("rack.*.module.>", verify=True, on_bad="raise") as records,
        bus.open_records("rack.*.meter.>", verify=False) as meters,
        running_rack(tmp_path / "rack") as rack,
    ):
        await settled(meters, 1)  # the rack is on the bus
        for number in range(5):
            say(rack, "leq", {"laeq": -20.0 - number}, start=number * 48_000)
        say(rack, "lmax", {"lamax": -3.5}, source="")
        with pytest.raises(InputError):
            say(rack, "leq", {"laeq": "x" * (64 << 10)})
        heard = await settled(records, 6)
        assert {record.verification for record in heard} == {Verification.VERIFIED}
        leq = [record for record in heard if record.out == "leq"]
        values = [record.value for record in leq if isinstance(record.value, ModuleRecord)]
        assert [value.seq for value in values] == [1, 2, 3, 4, 5]
        assert [value.data["laeq"] for value in values] == [-20.0, -21.0, -22.0, -23.0, -24.0]
        assert (leq[0].subject, leq[0].kind, leq[0].leaf) == (LEQ, "module", "spl")
        assert bus.counters.lost == bus.counters.bad == bus.counters.skipped == 0

    async def committed() -> bool:
        found = await asyncio.to_thread(lake_records, mixer, RACK)
        return sum(kind == "module" for _, kind, _ in found) == 6

    await until(committed)
    kept = [data for _, kind, data in await asyncio.to_thread(lake_records, mixer, RACK) if kind == "module"]
    assert sorted(kept) == sorted(record.payload for record in heard)
    await in_the_lake(mixer, viewer)


async def in_the_lake(mixer: RunningMixer, viewer: Path) -> None:
    """Ask for the five levels of the test above over the API and in SQL, and verify them."""
    table = await asyncio.to_thread(stagebox.lake.table, mixer.https, viewer, "module", rack=RACK)
    rows = [row for row in table.to_pylist() if row["subject"] == LEQ]
    assert [json.loads(row["detail"])["laeq"] for row in rows] == [-20.0, -21.0, -22.0, -23.0, -24.0]
    assert [(row["module"], row["version"], row["insert"], row["source"]) for row in rows] == [
        ("spl", "1.2.0", "spl-main", "main")
    ] * 5
    assert [row["start"] for row in rows] == [number * 48_000 for number in range(5)]

    def look() -> tuple[list[dict[str, Any]], int]:
        reader = open_lake(mixer.cluster, mixer.settings.data)
        asked = "SELECT out, count(*)::int AS n FROM module GROUP BY out ORDER BY out"
        answer = query.run(query.connect(reader, Span()), asked).read_all().to_pylist()
        return answer, verify(reader, Span()).unproved

    answer, unproved = await asyncio.to_thread(look)
    assert answer == [{"out": "leq", "n": 5}, {"out": "lmax", "n": 1}]
    assert unproved == 0, "the rack's checkpoints list every live record, also those of modules"


async def test_a_kind_of_a_later_release_stops_nobody_who_listens_to_everything(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    await mixer.enroll(tmp_path / "rack", RACK)
    viewer = mixer.cluster.client(Role.VIEWER)
    async with (
        relay(mixer) as later,
        subscriber.connect(mixer.snake, viewer) as bus,
        bus.open_records(f"rack.{RACK}.>", verify=False, on_bad="raise") as records,
    ):
        meters = await hear(later, f"rack.{RACK}.meter.>")
        for subject in (f"rack.{RACK}.later", f"rack.{RACK}.later.a.b.c"):
            later.publish(subject, b"\xff")
        await later.flush()
        async with running_rack(tmp_path / "rack"):
            await meters.next(5)
            await settled(records, 5)
        assert bus.counters.skipped == 2
        assert bus.counters.bad == 0
