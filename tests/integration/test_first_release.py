"""A rack of this release beside what the first one left: its state directory, and a mixer that knows no requests."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from stagebox import subjects
from stagebox_mixer.requests import RequestDesk
from stagebox_rack.control import Control
from stagebox_rack.state import StatePaths
from support.cluster import RunningMixer
from support.racks import hear, relay, running_rack

RACK = "stage-left"


@pytest.fixture
def first_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the mixer give racks the rights of the first release, and answer none of their requests."""
    present = subjects._rack_subscriptions

    def earlier(rack: str) -> tuple[str, ...]:
        return tuple(pattern for pattern in present(rack) if pattern != subjects.DENY_LIST)

    async def deaf(_desk: RequestDesk) -> None:
        return

    start = Control.start

    async def connected_first(control: Control) -> None:
        await control._bus.wait_connected(5)  # then the server's refusal comes while the rack starts
        await start(control)

    monkeypatch.setattr(Control, "start", connected_first)
    monkeypatch.setattr(subjects, "_rack_subscriptions", earlier)
    monkeypatch.setattr(RequestDesk, "start", deaf)


async def test_it_captures_and_is_heard_though_the_mixer_knows_neither_deny_lists_nor_requests(
    first_release: None, mixer: RunningMixer, tmp_path: Path
) -> None:
    directory = tmp_path / "rack"
    await mixer.enroll(directory, RACK)
    paths = StatePaths(directory)
    snake = json.loads(paths.snake.read_bytes())
    paths.snake.write_text(json.dumps({"v": snake["v"], "servers": snake["servers"]}))
    with capture_logs() as logs:
        async with relay(mixer) as bus:
            meters = await hear(bus, subjects.meter(RACK, "main"))
            requests = await hear(bus, "rack.*.req.>")
            async with running_rack(directory) as rack:
                await meters.next(20)
                await asyncio.sleep(2)
                assert rack.healthy()
            assert len(requests.messages) <= 2
    assert [entry["event"] for entry in logs].count("sync_failed") <= 1
