"""A third party's module from its source to what a subscriber hears, and every way it is kept out when it is altered.

The vendor's side and the operator's are the ``stagebox`` command as separate processes; mixer, rack, its host
processes, the snake and the compiler are real.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from stagebox import subjects
from stagebox.identity import Role
from stagebox.records.event import Event
from stagebox.records.meter import MeterFrame
from stagebox_mixer.modules.files import ModuleFiles
from stagebox_mixer.streams import WASM_OBJECTS
from stagebox_rack.app import Rack
from support.cluster import MACHINE, Cluster, RunningMixer, running_mixer
from support.lake import lake_records
from support.racks import Heard, hear, relay, running_rack
from support.rackside import until
from support.terminal import run

NAME = "acme-gain"
TONE_DBFS = -23.0


@dataclass
class Scene:
    """A mixer that trusts a vendor, a rack that captures a tone, and that vendor's signed module."""

    mixer: RunningMixer
    rack: Rack
    directory: Path
    module: Path
    meters: Heard
    alerts: Heard
    events: Heard

    async def wasm(self, *arguments: str, role: Role = Role.ADMIN, code: int = 0) -> dict[str, Any]:
        """Run ``stagebox wasm …`` against the mixer; return what it says, or the error it prints."""
        who = ("--mixer", self.mixer.https, "--identity", str(self.mixer.cluster.client(role)))
        got, out, err = await run("wasm", *arguments, *who, *(("--json",) if code == 0 else ()))
        assert got == code, f"{arguments} exits {got}: {out}{err}"
        return dict(json.loads(out)) if code == 0 else {"error": err}

    async def level(self, wanted: float, *, within: float = 20.0) -> MeterFrame:
        """Wait for a meter frame whose peak is ``wanted`` dBFS on each channel."""
        return await metered(self.meters, wanted, within=within)

    async def happened(self, heard: Heard, name: str, *, within: float = 20.0) -> Event:
        """Wait for an event or alert of that name; earlier ones count."""
        seen = 0
        async with asyncio.timeout(within):
            while True:
                for message in heard.messages[seen:]:
                    event = Event.decode(message.payload)
                    if event.name == name:
                        return event
                seen = len(heard.messages)
                await heard.next()


def at(frame: MeterFrame, wanted: float) -> bool:
    """Whether the peak of each channel is ``wanted`` dBFS."""
    return all(abs(level - wanted) < 0.1 for level in frame.peak)


async def metered(meters: Heard, wanted: float, *, within: float = 20.0) -> MeterFrame:
    """Wait for a meter frame whose peak is ``wanted`` dBFS on each channel."""
    async with asyncio.timeout(within):
        while True:
            for message in await meters.next():
                frame = MeterFrame.decode(message.payload)
                if at(frame, wanted):
                    return frame


async def frames_until(meters: Heard, time_ns: int) -> list[MeterFrame]:
    """Return all that was heard once ten frames are from ``time_ns`` or later."""
    async with asyncio.timeout(20):
        while True:
            frames = [MeterFrame.decode(message.payload) for message in meters.messages]
            if sum(frame.time_ns >= time_ns for frame in frames) >= 10:
                return frames
            await meters.next()


async def vendor_module(directory: Path) -> Path:
    """The vendor's side, as its guide has it: a key, a module from a starter, built by zig and signed."""
    commands = (
        ("keys", "gen-vendor", "--owner", "acme", "--out", "vendor", "--module", "acme-*", "--no-passphrase"),
        ("wasm", "new", NAME, "--lang", "c"),
        ("wasm", "build", NAME),
        ("wasm", "sign", f"{NAME}/{NAME}.wasm", "--key", "vendor/vendor.key", "--out", f"{NAME}.signed.wasm"),
    )
    for command in commands:
        code, out, err = await run(*command, cwd=directory, within=120)
        assert code == 0, f"{command}: {out}{err}"
    return directory / f"{NAME}.signed.wasm"


def trust_vendor(directory: Path) -> None:
    """The operator's decision: the vendor's public file goes into the mixer's directory."""
    trusted = directory / "data" / "wasm" / "keys" / "acme.toml"
    trusted.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    trusted.write_bytes((directory / "vendor" / "vendor.toml").read_bytes())
    trusted.chmod(0o600)


async def all_are(rack: Rack, state: str, code: str = "") -> bool:
    """Whether every module of the rack, of which there are some, is in that state, for that reason."""
    return {(fact["state"], fact["code"]) for fact in rack.modules()} == {(state, code)}


def rejections(mixer: RunningMixer) -> list[Event]:
    """Return the committed alerts of rejected modules."""
    alerts = [Event.decode(data) for _, kind, data in lake_records(mixer, "stage-left") if kind == "alert"]
    return [alert for alert in alerts if alert.name == "module.rejected"]


async def rejected_in_the_lake(mixer: RunningMixer) -> bool:
    """Whether there are any."""
    return bool(await asyncio.to_thread(rejections, mixer))


@pytest.fixture
async def scene(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Scene]:
    module = await vendor_module(tmp_path)
    async with running_mixer(cluster, tmp_path / "data") as mixer, relay(mixer) as bus:
        trust_vendor(tmp_path)
        await mixer.enroll(tmp_path / "rack", "stage-left")
        meters = await hear(bus, subjects.meter("stage-left", "main"))
        alerts = await hear(bus, subjects.alert("stage-left"))
        events = await hear(bus, subjects.event("stage-left"))
        async with running_rack(tmp_path / "rack") as rack:
            yield Scene(mixer, rack, tmp_path, module, meters, alerts, events)


async def test_a_third_partys_module_is_signed_imported_assigned_and_heard(scene: Scene) -> None:
    await scene.level(TONE_DBFS)
    imported = await scene.wasm("import", str(scene.module))
    assert imported["module"]["name"] == NAME
    await scene.wasm(
        "assign", f"{NAME}@0.1.0", "--rack", "stage-left", "--point", "meters", "--source", "main",
        "--param", "gain=-12",
    )  # fmt: skip
    await scene.level(TONE_DBFS - 12)
    started = await scene.happened(scene.events, "module.started")
    assert started.detail["module"] == NAME
    [insert] = scene.rack.modules()
    assert (insert["state"], insert["version"]) == ("running", "0.1.0")
    # Unassigned, the audio is as it was captured.
    await scene.wasm("unassign", insert["insert"])
    await scene.level(TONE_DBFS)
    assert scene.rack.modules() == []
    assert scene.alerts.messages == []


async def test_a_module_on_a_monitor_bus_is_heard_and_not_measured(scene: Scene) -> None:
    await scene.wasm("import", str(scene.module))
    await scene.wasm(
        "assign", f"{NAME}@0.1.0", "--rack", "stage-left", "--point", "monitor", "--source", "main",
        "--bus", "main", "--param", "gain=-12",
    )  # fmt: skip
    await scene.happened(scene.events, "module.started")
    wav = scene.directory / "heard.wav"
    viewer = str(scene.mixer.cluster.client(Role.VIEWER))
    code, _, err = await run(
        "listen", "stage-left", "--wav", str(wav), "--seconds", "2", "--server", scene.mixer.snake,
        "--mixer", scene.mixer.https, "--identity", viewer,
    )  # fmt: skip
    assert code == 0, err
    samples, rate = soundfile.read(wav, dtype="float32")
    level = 20 * np.log10(np.sqrt(2 * np.mean(samples[rate // 2 : 3 * rate // 2] ** 2, axis=0)))
    assert level == pytest.approx([TONE_DBFS - 12, TONE_DBFS - 12], abs=0.3)
    await scene.level(TONE_DBFS)


async def test_the_same_module_with_one_flipped_byte_is_refused_at_import(scene: Scene) -> None:
    before = await bucket_state(scene.mixer)
    data = bytearray(scene.module.read_bytes())
    data[len(data) // 2] ^= 0x01
    flipped = scene.directory / "flipped.wasm"
    flipped.write_bytes(data)
    said = await scene.wasm("import", str(flipped), code=77)
    row = await scene.mixer.wait_audit(action="module_import", result="refused")
    assert row["reason"] in said["error"]
    assert row["reason"] == "wrong_digest"
    assert await bucket_state(scene.mixer) == before


async def test_one_flipped_byte_planted_in_the_object_store_is_refused_at_the_rack(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mixer's own check of what it reads is taken out: a rack does not rely on it."""
    imported = await scene.wasm("import", str(scene.module))
    digest = bytes.fromhex(imported["module"]["digest"])
    files = ModuleFiles(lambda: scene.mixer.bus.js)
    planted = bytearray(await files.get(digest))
    planted[len(planted) // 2] ^= 0x01
    store = await scene.mixer.bus.js.object_store(WASM_OBJECTS)
    await store.put(digest.hex(), bytes(planted))

    async def unchecked(self: ModuleFiles, wanted: bytes) -> bytes:
        return await self._fetch(wanted.hex())

    monkeypatch.setattr(ModuleFiles, "get", unchecked)
    await scene.wasm(
        "assign", f"{NAME}@0.1.0", "--rack", "stage-left", "--point", "meters", "--source", "main",
        "--param", "gain=-12",
    )  # fmt: skip
    alert = await scene.happened(scene.alerts, "module.rejected")
    assert alert.detail["module"] == NAME
    assert alert.detail["code"] == "wrong_digest"
    [insert] = scene.rack.modules()
    assert (insert["state"], insert["code"]) == ("rejected", "wrong_digest")
    await scene.level(TONE_DBFS)
    assert not list((scene.directory / "rack" / "modules").glob("*.wasm"))


async def test_a_store_that_was_altered_serves_nobody(scene: Scene) -> None:
    imported = await scene.wasm("import", str(scene.module))
    digest = bytes.fromhex(imported["module"]["digest"])
    store = await scene.mixer.bus.js.object_store(WASM_OBJECTS)
    await store.put(digest.hex(), b"\0asm\x01\0\0\0")
    await scene.wasm(
        "assign", f"{NAME}@0.1.0", "--rack", "stage-left", "--point", "meters", "--source", "main"
    )
    event = await scene.happened(scene.events, "module.not_fetched")
    assert event.detail["code"] == "wrong_digest"


async def test_a_file_altered_on_the_racks_disk_is_refused_at_its_next_start(
    cluster: Cluster, scene: Scene
) -> None:
    await scene.wasm("import", str(scene.module))
    await scene.wasm(
        "assign", f"{NAME}@0.1.0", "--rack", "stage-left", "--point", "meters", "--source", "main",
        "--param", "gain=-12",
    )  # fmt: skip
    await scene.level(TONE_DBFS - 12)
    await scene.rack.stop()
    [kept] = (scene.directory / "rack" / "modules").glob("*.wasm")
    data = bytearray(kept.read_bytes())
    data[-1] ^= 0x80
    kept.write_bytes(data)
    async with running_rack(scene.directory / "rack"):
        alert = await scene.happened(scene.alerts, "module.rejected")
        assert alert.detail["code"] == "wrong_digest"
        # It is fetched again, and is whole then.
        await scene.level(TONE_DBFS - 12)
        assert hashlib.sha256(kept.read_bytes()).hexdigest() == kept.stem


async def test_the_alert_of_a_refused_module_reaches_the_lake_although_nobody_was_there_to_hear_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The rack starts, refuses and says so while its mixer is away; nothing of that is lost."""
    module = await vendor_module(tmp_path)
    where = ("--rack", "stage-left", "--point", "meters", "--source", "main")
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        trust_vendor(tmp_path)
        await mixer.enroll(tmp_path / "rack", "stage-left")
        who = ("--mixer", mixer.https, "--identity", str(mixer.cluster.client(Role.ADMIN)))
        for command in (("import", str(module)), ("assign", f"{NAME}@0.1.0", *where)):
            code, out, err = await run("wasm", *command, *who)
            assert code == 0, out + err
        async with running_rack(tmp_path / "rack") as rack:
            await until(lambda: all_are(rack, "running"))
        ports = {"https_port": mixer.mixer.https_port, "snake_port": mixer.mixer.snake_port}
    [kept] = (tmp_path / "rack" / "modules").glob("*.wasm")
    kept.write_bytes(kept.read_bytes()[:-1] + b"\0")
    async with running_rack(tmp_path / "rack") as rack:
        await until(lambda: all_are(rack, "waiting", "wrong_digest"))
        back_ns = time.time_ns()
        async with running_mixer(cluster, tmp_path / "data", **ports) as mixer:
            await until(lambda: rejected_in_the_lake(mixer), timeout=40)
            [alert] = await asyncio.to_thread(rejections, mixer)
    assert alert.time_ns < back_ns
    assert (alert.detail["module"], alert.detail["code"]) == (NAME, "wrong_digest")


async def test_a_revoked_module_is_heard_nowhere_a_second_later(scene: Scene) -> None:
    names = ("stage-left", "stage-right")
    await scene.mixer.enroll(scene.directory / "right", "stage-right", machine=MACHINE + 1)
    async with relay(scene.mixer) as bus, running_rack(scene.directory / "right", machine=MACHINE + 1):
        meters = [await hear(bus, subjects.meter(name, "main")) for name in names]
        alerts = [await hear(bus, subjects.alert(name)) for name in names]
        await scene.wasm("import", str(scene.module))
        await scene.wasm(
            "assign", f"{NAME}@0.1.0", "--rack", "*", "--point", "meters", "--source", "main",
            "--param", "gain=-12",
        )  # fmt: skip
        for heard in meters:
            await metered(heard, TONE_DBFS - 12)
        revoked = await scene.wasm("revoke", f"{NAME}@0.1.0", "--reason", "found to leak", "--yes")
        assert revoked["modules"][0]["name"] == NAME
        row = await scene.mixer.wait_audit(action="module_revoke", result="ok")
        said_ns = row["time_ns"] if "time_ns" in row else row["t"]
        late_ns = said_ns + 1_000_000_000
        for heard, told in zip(meters, alerts, strict=True):
            frames = await frames_until(heard, late_ns)
            assert any(at(frame, TONE_DBFS) for frame in frames if said_ns < frame.time_ns < late_ns)
            assert all(at(frame, TONE_DBFS) for frame in frames if frame.time_ns >= late_ns)
            alert = await scene.happened(told, "module.stopped")
            assert alert.detail["code"] == "denied"
            assert said_ns < alert.time_ns < late_ns


async def bucket_state(mixer: RunningMixer) -> dict[str, int]:
    """How many messages every stream of the mixer's holds, but for the audit."""
    streams = await mixer.bus.js.streams_info()
    return {
        str(one.config.name): one.state.messages for one in streams if one.config.name not in ("AUDIT", "WAL")
    }
