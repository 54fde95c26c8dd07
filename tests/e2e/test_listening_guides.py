"""The guides to meters, listening and interfaces, run as written against a real mixer and rack. Ports differ."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from stagebox.identity import Role
from support.cluster import Cluster, running_mixer
from support.guide import Adapted, GuideRunner, parse
from support.racks import running_rack

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


@pytest.mark.parametrize("guide", ["meters.md", "choosing-latency.md", "usb-interface.md"])
async def test_a_guide_goes_as_written(cluster: Cluster, tmp_path: Path, guide: str) -> None:
    directory = tmp_path / "play"
    directory.mkdir()
    steps = parse((GUIDES / guide).read_text("utf-8"))
    assert any(step.verb == "run" for step in steps)
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        await mixer.enroll(tmp_path / "rack", "stage-left")
        (directory / "ops").symlink_to(mixer.cluster.client(Role.OPERATOR))
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(directory),
            "TERM": "dumb",
            "COLUMNS": "200",
            "STAGEBOX_CLIENT_MIXER": mixer.https,
            "STAGEBOX_CLIENT_SERVERS": mixer.snake,
            "STAGEBOX_CLIENT_IDENTITY": str(directory / "ops"),
        }
        adapted = Adapted(mixer.mixer.https_port, mixer.mixer.snake_port)
        runner = GuideRunner(directory, environment, adapted)
        try:
            async with running_rack(tmp_path / "rack") as rack:
                assert rack.mode == "running"
                for step in steps:
                    await asyncio.to_thread(runner.run, step)
        finally:
            runner.end()
