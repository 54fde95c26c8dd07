"""The example modules and a telemetry starter on one whole rack: built from source, signed, imported, assigned.

What they say is taken from the bus by a verifying subscriber.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import stagebox
from stagebox.cli.wasm.scaffold import Starter, starter_files, write_starter
from stagebox.identity import Role
from stagebox.modules.manifest import Language
from stagebox.records.meter import MeterFrame
from stagebox.records.module import ModuleRecord
from stagebox.subscriber import Verification
from support.cluster import Cluster, RunningMixer, running_mixer
from support.module_builds import Built, build, build_example
from support.patched import signed_now, trust, vendor_now
from support.racks import running_rack

RATE = 48_000
TONE_DBFS = -23.0
SINE_RMS_DB = -3.01


def bursts(path: Path) -> Path:
    """Write four seconds of quiet noise with a click at 2 s and a burst of 1 kHz at 3 s."""
    made = 1e-3 * np.random.default_rng(1).standard_normal(4 * RATE)
    n = np.arange(RATE // 4)
    made[3 * RATE : 3 * RATE + len(n)] += 0.1 * np.sin(2 * np.pi * 1000 * n / RATE)
    hit = np.arange(round(0.03 * RATE))
    noise = np.random.default_rng(7).standard_normal(len(hit)) * np.exp(-hit / (0.004 * RATE))
    made[2 * RATE : 2 * RATE + len(hit)] += 0.4 * noise
    soundfile.write(path, made.astype(np.float32), RATE, subtype="FLOAT")
    return path


async def ship(mixer: RunningMixer, made: Built, **where: Any) -> None:
    """Sign, import and assign a built module."""
    vendor = vendor_now()
    trust(mixer.settings.data / "wasm" / "keys", vendor)
    manifest = made.manifest
    data = signed_now(
        made.data,
        vendor=vendor,
        name=manifest.name,
        version=manifest.version,
        capabilities=manifest.capabilities,
    )
    wanted = {"module": manifest.name, "version": manifest.version, "racks": ["stage-left"], **where}
    async with mixer.api(Role.ADMIN) as api:
        for path, body in (("modules", {"content": data}), ("assignments", {"json": wanted})):
            answer = await api.post(f"/api/v1/{path}", timeout=60, **body)
            assert answer.status_code == 200, answer.text


async def said(
    mixer: RunningMixer, module: str, out: str, enough: Callable[[list[ModuleRecord]], bool]
) -> list[ModuleRecord]:
    """The next records of a module until they are ``enough``, each proved by the rack's signed checkpoints."""
    pattern = f"rack.stage-left.module.{module}.{out}"
    viewer = mixer.cluster.client(Role.VIEWER)
    async with (
        stagebox.connect(mixer.snake, viewer) as bus,
        bus.open_records(pattern, verify=True, on_bad="raise") as records,
        asyncio.timeout(40),
    ):
        heard: list[ModuleRecord] = []
        while not enough(heard):
            record = await anext(aiter(records))
            assert record.verification is Verification.VERIFIED
            assert isinstance(record.value, ModuleRecord)
            heard.append(record.value)
    return heard


def classes(events: list[ModuleRecord]) -> set[str]:
    """What a noise-event classifier heard."""
    return {event.data["class"] for event in events}


async def measured(mixer: RunningMixer, source: str, wanted: float) -> None:
    """Wait until a source measures ``wanted`` dBFS."""
    viewer = mixer.cluster.client(Role.VIEWER)
    async with (
        stagebox.connect(mixer.snake, viewer) as bus,
        bus.open_records(f"rack.stage-left.meter.{source}", verify=False) as meters,
        asyncio.timeout(40),
    ):
        async for record in meters:
            if isinstance(record.value, MeterFrame) and abs(record.value.peak[0] - wanted) < 0.1:
                return


async def test_the_examples_do_on_a_rack_what_they_say(cluster: Cluster, tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.mkdir()
    write_starter(tmp_path / "watch", starter_files("watch", Language.C, Starter.TELEMETRY))
    made = {
        name: await asyncio.to_thread(build_example, name, built)
        for name in ("parametric-eq-limiter", "spl-logger", "noise-event-classifier")
    }
    watch = await asyncio.to_thread(build, tmp_path / "watch", built)
    sources = (f"main=tone:997@{TONE_DBFS:g}", f"street=file:{bursts(tmp_path / 'bursts.wav')}?loop=1")
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        await mixer.enroll(tmp_path / "rack", "stage-left")
        async with running_rack(tmp_path / "rack", sources=sources) as rack:
            equaliser = {"band1-type": 1, "band1-frequency": 997, "band1-gain": -12, "band1-q": 1}
            await ship(mixer, made["parametric-eq-limiter"], point="meters", source="main", params=equaliser)
            await ship(mixer, made["spl-logger"], point="tap", source="main", params={"calibration": 94})
            await ship(mixer, made["noise-event-classifier"], point="tap", source="street")
            await ship(mixer, watch, point="telemetry", source="main")

            await measured(mixer, "main", TONE_DBFS - 12)
            # Beside the source the audio is as it was captured, whatever sits before the meters.
            levels = await said(mixer, "spl-logger", "leq", lambda heard: len(heard) == 3)
            for level in levels[1:]:
                assert level.data["LAeq"] == pytest.approx(TONE_DBFS + SINE_RMS_DB + 94, abs=0.05)
                assert level.data["frames"] == RATE
                assert (level.source, level.version) == ("main", made["spl-logger"].manifest.version)
            assert levels[2].start - levels[1].start == RATE
            # A busy machine may pass a burst by, which comes again four seconds later.
            events = await said(
                mixer, "noise-event-classifier", "event", lambda heard: len(classes(heard)) > 1
            )
            assert classes(events) == {"impulsive", "tonal"}
            for event in events:
                second = 2 if event.data["class"] == "impulsive" else 3
                onset = (event.start - event.data["onset_before"]) % (4 * RATE)
                assert onset == pytest.approx(second * RATE, abs=RATE // 100)
            loudest = await said(mixer, "watch", "loudest", lambda heard: len(heard) == 2)
            # It hears the meter frames, and they are behind the equaliser.
            assert loudest[1].data["peak_dbfs"] == pytest.approx(TONE_DBFS - 12, abs=0.1)
            assert {fact["state"] for fact in rack.modules()} == {"running"}
            assert {fact["faults"] for fact in rack.modules()} == {0}
