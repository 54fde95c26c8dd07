"""A whole rack with hostile guests before its meters: no gap in capture, meters or recording, and the alert arrives.

Each guest sits at a source of its own. What is captured is recorded from the ring, as a recorder would; meters are
what a subscriber gets; the journal is asked whether it holds all of them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stagebox import subjects
from stagebox.identity import Role
from stagebox.modules.capabilities import Capability
from stagebox.records.event import Event
from stagebox.records.meter import MeterFrame
from stagebox_rack.app import Rack
from stagebox_rack.audio.ring import Block
from support.cluster import Cluster, RunningMixer, running_mixer
from support.hosting import FOREVER, module_wat
from support.modules import assemble
from support.patched import signed_now, trust, vendor_now
from support.racks import Heard, hear, relay, running_rack

pytestmark = pytest.mark.slow

TONE_DBFS = -23.0
TRAP_AT = 1000
_DEEP = "(func $deep (call $deep))"


@dataclass(frozen=True)
class Guest:
    """What a source's module does, and the alert that must come of it."""

    name: str
    wat: str
    alert: str
    code: str


LOOPS = (
    Guest("loop-start", module_wat(fields=f"(func $begin {FOREVER}) (start $begin)"), "module.stopped", "out_of_fuel"),
    Guest("loop-init", module_wat(init=f"{FOREVER} (i32.const 0)"), "module.stopped", "out_of_fuel"),
    Guest("loop-process", module_wat(FOREVER), "module.stopped", "out_of_fuel"),
)  # fmt: skip
GREEDY = (
    Guest(
        "grow-memory",
        module_wat("(if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (unreachable)))", memory="5 256"),
        "module.stopped",
        "unreachable",
    ),
    Guest(
        "grow-table",
        module_wat(
            "(if (i32.eq (table.grow $t (ref.null func) (i32.const 4096)) (i32.const -1)) (then (unreachable)))",
            fields="(table $t 8 funcref)",
        ),
        "module.stopped",
        "unreachable",
    ),
    Guest("recursion", module_wat("(call $deep)", fields=_DEEP), "module.stopped", "stack_overflow"),
)  # fmt: skip
WRONG = (
    Guest("not-finite", module_wat("(global.set $gain (f32.const nan))"), "module.stopped", "not_finite"),
    Guest("short", module_wat("(return (i32.const 0))"), "module.stopped", "short_output"),
    Guest(
        "thousandth",
        module_wat(f"(if (i32.eq (global.get $blocks) (i32.const {TRAP_AT})) (then (unreachable)))"),
        "module.fault",
        "unreachable",
    ),
)  # fmt: skip


class Recorder:
    """Reads a source's ring to the end, as a recorder does, in a thread of its own."""

    def __init__(self, rack: Rack, source: str) -> None:
        self._tap = rack._capturing.tap(source)
        self._cursor = self._tap.open()
        self._stopping = threading.Event()
        self.blocks: list[Block] = []
        self._thread = threading.Thread(target=self._run, name=f"recorder-{source}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)
        self._tap.close(self._cursor)

    def _run(self) -> None:
        while not self._stopping.is_set():
            block = self._cursor.read(0.2)
            if block is not None:
                self.blocks.append(block)

    def check(self) -> None:
        """Every frame is there, and as it was captured: no module has touched it."""
        assert len(self.blocks) > 10
        for before, after in pairwise(self.blocks):
            assert after.index == before.index + len(before.samples)
        peak = 20 * np.log10(max(float(np.abs(block.samples).max()) for block in self.blocks))
        assert peak == pytest.approx(TONE_DBFS, abs=0.1)


class Watched:
    """One rack with recorders at its sources, and what a subscriber hears of it."""

    def __init__(self, rack: Rack, meters: Heard, alerts: Heard, sources: Collection[str]) -> None:
        self.rack = rack
        self._meters = meters
        self._alerts = alerts
        self._recorders = {source: Recorder(rack, source) for source in sources}

    async def alert(self, name: str, *, within: float = 40.0, **detail: str) -> Event:
        """Wait for an alert with these details; earlier ones count."""
        seen = 0
        async with asyncio.timeout(within):
            while True:
                for message in self._alerts.messages[seen:]:
                    event = Event.decode(message.payload)
                    if event.name == name and detail.items() <= event.detail.items():
                        return event
                seen = len(self._alerts.messages)
                await self._alerts.next(timeout=within)

    def frames(self, source: str) -> list[MeterFrame]:
        """The meter frames of one source that a subscriber got."""
        subject = subjects.meter("stage-left", source)
        return [MeterFrame.decode(m.payload) for m in self._meters.messages if m.subject == subject]

    async def measured(self, source: str, wanted: float, *, within: float = 20.0) -> None:
        """Wait until the source measures ``wanted`` dBFS."""
        async with asyncio.timeout(within):
            while not (frames := self.frames(source)) or abs(frames[-1].peak[0] - wanted) > 0.1:
                await self._meters.next()

    async def heard(self, source: str, count: int, *, within: float = 20.0) -> None:
        """Wait until so many meter frames of the source have come in all."""
        async with asyncio.timeout(within):
            while len(self.frames(source)) < count:
                await self._meters.next()

    def stop(self) -> None:
        for recorder in self._recorders.values():
            recorder.stop()

    def check_no_gap(self) -> None:
        """No gap in capture, in meters, in what was recorded, and all of it in the journal."""
        for status in self.rack._capturing.status():
            assert (status.gaps, status.overruns, status.xruns, status.losses) == (0, 0, 0, 0), status
        for source, recorder in self._recorders.items():
            recorder.check()
            frames = self.frames(source)
            assert len(frames) > 10
            for before, after in pairwise(frames):
                assert after.seq == before.seq + 1
                assert after.start == before.start + before.frames
        assert self.rack._publisher is not None
        assert self.rack._publisher.not_journalled == 0


async def put(mixer: RunningMixer, name: str, wat: str, source: str) -> None:
    """Sign, import and assign a module before the meters of ``source``."""
    vendor = vendor_now()
    trust(mixer.settings.data / "wasm" / "keys", vendor)
    data = signed_now(
        assemble(wat), vendor=vendor, name=name, capabilities=(Capability.AUDIO,), version="1.0.0"
    )
    wanted: dict[str, Any] = {
        "module": name, "version": "1.0.0", "racks": ["stage-left"], "point": "meters", "source": source,
    }  # fmt: skip
    async with mixer.api(Role.ADMIN) as api:
        answer = await api.post("/api/v1/modules", content=data, timeout=60)
        assert answer.status_code == 200, answer.text
        answer = await api.post("/api/v1/assignments", json=wanted)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("guests", [LOOPS, GREEDY, WRONG], ids=["loops", "greedy", "wrong"])
async def test_hostile_guests_leave_no_gap_in_capture_meters_or_recording_and_each_is_an_alert(
    cluster: Cluster, tmp_path: Path, guests: tuple[Guest, ...]
) -> None:
    names = [guest.name for guest in guests]
    sources = tuple(f"{name}=tone:997@{TONE_DBFS:g}" for name in names)
    async with running_mixer(cluster, tmp_path / "data") as mixer, relay(mixer) as bus:
        await mixer.enroll(tmp_path / "rack", "stage-left")
        meters = await hear(bus, "rack.stage-left.meter.>")
        alerts = await hear(bus, subjects.alert("stage-left"))
        async with running_rack(tmp_path / "rack", sources=sources) as rack:
            watched = Watched(rack, meters, alerts, names)
            try:
                for guest in guests:
                    await put(mixer, guest.name, guest.wat, guest.name)
                for guest in guests:
                    alert = await watched.alert(guest.alert, module=guest.name)
                    assert guest.code in alert.detail["code"], (guest, alert.detail)
            finally:
                watched.stop()
            watched.check_no_gap()


async def test_a_host_killed_with_9_leaves_no_gap_anywhere_and_its_modules_come_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with running_mixer(cluster, tmp_path / "data") as mixer, relay(mixer) as bus:
        await mixer.enroll(tmp_path / "rack", "stage-left")
        meters = await hear(bus, "rack.stage-left.meter.>")
        alerts = await hear(bus, subjects.alert("stage-left"))
        async with running_rack(tmp_path / "rack") as rack:
            watched = Watched(rack, meters, alerts, ["main"])
            try:
                await put(mixer, "half", module_wat(), "main")
                await watched.measured("main", TONE_DBFS - 6.02)
                assert rack._modules is not None
                [pid] = rack._modules.hosts
                os.kill(pid, signal.SIGKILL)
                await watched.alert("module.host_died")
                await watched.measured("main", TONE_DBFS - 6.02)
                assert rack._modules.hosts != (pid,)
                await watched.heard("main", 30)
            finally:
                watched.stop()
            watched.check_no_gap()
