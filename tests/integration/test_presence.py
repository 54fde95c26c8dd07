"""Who is there, by a real rack's heartbeats at a real mixer."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stagebox.identity import Role
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.presence.roll import Roll
from support.cluster import RunningMixer, make_cluster, running_mixer
from support.racks import running_rack
from support.rackside import until


@pytest.fixture
async def mixer(tmp_path: Path) -> AsyncIterator[RunningMixer]:
    cluster = make_cluster(tmp_path, "flux-test", datetime.now(UTC))
    async with running_mixer(cluster, tmp_path / "data") as running:
        yield running


async def shown(mixer: RunningMixer, rack: str = "left") -> dict[str, Any]:
    async with mixer.api(Role.VIEWER) as api:
        answer = await api.get(f"/api/v1/racks/{rack}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_rack_is_online_with_all_it_says_of_itself_and_offline_when_it_stops(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    await mixer.enroll(tmp_path / "rack", "left")
    assert (await shown(mixer))["presence"]["state"] == "unknown"
    async with running_rack(tmp_path / "rack"):

        async def online() -> bool:
            found = await shown(mixer)
            heartbeat = found["heartbeat"] or {}
            return found["presence"]["state"] == "online" and "cpu_percent" in heartbeat.get("host", {})

        await until(online)
        found = await shown(mixer)
        heartbeat = found["heartbeat"]
        assert found["presence"]["age_s"] < 5
        assert heartbeat["state"] == "running"
        assert heartbeat["sources"][0]["channel_names"] == ["1", "2"]
        assert heartbeat["buses"][0]["listening"] is False
        assert heartbeat["host"]["disk_free"] > 0
        assert "synchronised" in heartbeat["clock"]
        assert heartbeat["wal"]["lag_records"] >= 0
        json.dumps(found)

    async def offline() -> bool:
        return bool((await shown(mixer))["presence"]["state"] == "offline")

    await until(offline)
    assert (await shown(mixer))["heartbeat"]["state"] == "stopping"


async def test_a_rack_that_falls_silent_is_stale_and_then_offline(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    service = mixer.mixer._membership.presence  # type: ignore[union-attr]
    service._roll = Roll(0.0, dataclasses.replace(LIMITS, presence_stale_s=0.5, presence_offline_s=1.0))
    await mixer.enroll(tmp_path / "rack", "left")
    seen: list[str] = []
    async with running_rack(tmp_path / "rack", heartbeat_interval=2.5):

        async def silent() -> bool:
            state = (await shown(mixer))["presence"]["state"]
            if not seen or seen[-1] != state:
                seen.append(state)
            return seen[-3:] == ["online", "stale", "offline"]

        await until(silent)
    async with mixer.api(Role.VIEWER) as api:
        listed = (await api.get("/api/v1/racks")).json()["racks"]
        metrics = (await api.get("/metrics")).text
    assert listed[0]["presence"]["state"] == "offline"
    assert 'stagebox_rack_presence{rack="left",state="offline"} 1.0' in metrics
    assert 'stagebox_rack_xruns{rack="left"} 0.0' in metrics


async def test_a_mixer_that_starts_again_knows_of_nobody_until_they_are_heard(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path, "flux-test", datetime.now(UTC))
    async with running_mixer(cluster, tmp_path / "data") as first:
        await first.enroll(tmp_path / "rack", "left")
    async with running_mixer(cluster, tmp_path / "data") as again:
        assert (await shown(again))["presence"] == {"state": "unknown", "age_s": None, "last_seen_ns": None}
        assert (await shown(again))["heartbeat"] is None
        await asyncio.sleep(0)
