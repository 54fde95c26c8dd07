"""A new version that traps is taken back by itself: a real mixer, a real rack, and what an operator then sees."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from stagebox import subjects
from stagebox.identity import Role
from stagebox.modules.capabilities import Capability
from stagebox.records.event import Event
from stagebox.records.meter import MeterFrame
from support.cluster import Cluster, RunningMixer, running_mixer
from support.hosting import module_wat
from support.modules import assemble
from support.patched import signed_now, trust, vendor_now
from support.racks import Heard, hear, relay, running_rack
from support.terminal import run

TONE_DBFS = -23.0
HALF_DBFS = TONE_DBFS - 6.02
PLACE = ("--rack", "stage-left", "--point", "meters", "--source", "main", "--id", "eq")


async def wasm(mixer: RunningMixer, *arguments: str, role: Role = Role.ADMIN) -> str:
    """Run ``stagebox wasm …`` against the mixer and return what it prints."""
    who = ("--mixer", mixer.https, "--identity", str(mixer.cluster.client(role)))
    code, out, err = await run("wasm", *arguments, *who)
    assert code == 0, f"{arguments} exits {code}: {out}{err}"
    return out


async def level(meters: Heard, wanted: float, *, after_ns: int = 0) -> MeterFrame:
    """Wait for a meter frame from after that time whose peak is ``wanted`` dBFS on each channel."""
    async with asyncio.timeout(20):
        while True:
            [message] = await meters.next()
            frame = MeterFrame.decode(message.payload)
            if frame.time_ns > after_ns and all(abs(peak - wanted) < 0.1 for peak in frame.peak):
                return frame


async def happened(heard: Heard, name: str, **detail: Any) -> Event:
    """Wait for an event or alert with these details; earlier ones count."""
    seen = 0
    async with asyncio.timeout(20):
        while True:
            for message in heard.messages[seen:]:
                event = Event.decode(message.payload)
                if event.name == name and detail.items() <= event.detail.items():
                    return event
            seen = len(heard.messages)
            await heard.next()


async def test_a_version_that_traps_is_taken_back_and_the_former_one_is_heard_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    vendor, files = vendor_now(), {}
    for version, process in (("1.0.0", ""), ("2.0.0", "(unreachable)")):
        path = files[version] = tmp_path / f"half-{version}.wasm"
        path.write_bytes(
            signed_now(
                assemble(module_wat(process)), vendor=vendor, name="half", version=version,
                capabilities=(Capability.AUDIO,),
            )
        )  # fmt: skip
    async with running_mixer(cluster, tmp_path / "data") as mixer, relay(mixer) as bus:
        trust(mixer.settings.vendor_keys, vendor)
        await mixer.enroll(tmp_path / "rack", "stage-left")
        meters = await hear(bus, subjects.meter("stage-left", "main"))
        alerts = await hear(bus, subjects.alert("stage-left"))
        events = await hear(bus, subjects.event("stage-left"))
        async with running_rack(tmp_path / "rack") as rack:
            await wasm(mixer, "import", str(files["1.0.0"]))
            await wasm(mixer, "assign", "half@1.0.0", *PLACE)
            await level(meters, HALF_DBFS)
            await wasm(mixer, "import", str(files["2.0.0"]))
            await wasm(mixer, "assign", "half@2.0.0", *PLACE)
            stopped = await happened(alerts, "module.stopped", module="half", version="2.0.0")
            assert stopped.detail["code"] == "unreachable"
            row = await mixer.wait_audit(action="module_rollback")
            back = await level(meters, HALF_DBFS, after_ns=stopped.time_ns)
            assert back.time_ns > stopped.time_ns
            [insert] = rack.modules()
            assert (insert["state"], insert["version"]) == ("running", "1.0.0")
            started = await happened(events, "module.started", module="half", version="1.0.0")
            assert started.detail["insert"] == "eq"
        assert (row["actor"], row["subject"], row["result"], row["reason"]) == (
            "mixer", "eq", "ok", "unreachable",
        )  # fmt: skip
        assert (
            row["detail"] | {"rack": "stage-left", "version": "2.0.0", "previous": "1.0.0"} == row["detail"]
        )
        shown = await wasm(mixer, "show", "half", role=Role.VIEWER)
        assert "rolled back, back at 1.0.0: code unreachable on stage-left" in shown
        [made] = json.loads(await wasm(mixer, "show", "half", "--json", role=Role.VIEWER))["assignments"]
        assert (made["state"], made["previous"]) == ("rolled_back", "1.0.0")
        assert made["on"] == [{"rack": "stage-left", "version": "1.0.0"}]
