"""The guides to the lake and to what verify says, run as written beside a real mixer. Only the ports differ."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from stagebox import subjects
from stagebox.bus import BusMessage
from stagebox.identity import Role
from stagebox.records.status import Status
from support.cluster import MACHINE, Cluster, RunningMixer, running_mixer
from support.evening import lay_down
from support.frames import meter_frame
from support.guide import Adapted, GuideRunner, parse
from support.lake import journals
from support.racks import relay, running_rack
from support.rackside import until

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def environment(mixer: RunningMixer, directory: Path) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "TERM": "dumb",
        "COLUMNS": "200",
        "STAGEBOX_CLIENT_MIXER": mixer.https,
        "STAGEBOX_CLIENT_SERVERS": mixer.snake,
        "STAGEBOX_RACK_MACHINE_ID": str(MACHINE),
    }


async def run(guide: str, mixer: RunningMixer, directory: Path, *, at_least: int) -> None:
    (directory / "ops").symlink_to(mixer.cluster.client(Role.ADMIN))
    steps = parse((GUIDES / guide).read_text("utf-8"))
    assert sum(step.verb == "run" for step in steps) >= at_least
    runner = GuideRunner(
        directory,
        environment(mixer, directory),
        Adapted(mixer.mixer.https_port, mixer.mixer.snake_port),
    )
    try:
        for step in steps:
            await asyncio.to_thread(runner.run, step)
    finally:
        runner.end()


def play_in(tmp_path: Path, cluster: Cluster) -> Path:
    directory = tmp_path / "play"
    directory.mkdir()
    (directory / "cluster").symlink_to(cluster.directory)
    return directory


async def lose_power(mixer: RunningMixer, directory: Path) -> None:
    """Run the rack enrolled in ``directory`` twice to an orderly end, and once until it is killed."""
    state = directory / "rack-state"

    def held() -> int:
        return max((journal.last for journal in journals(mixer, "stage-centre")), default=0)

    for _ in range(2):
        before = held()

        async def more() -> bool:
            return held() > before + 20  # noqa: B023 - waited for within the turn

        async with running_rack(state):
            await until(more, 30)
    process = await asyncio.create_subprocess_exec(
        "stagebox", "rack", "run", "--state-dir", str(state), "--source", "tone:997@-23",
        env=environment(mixer, directory), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:

        async def far_enough() -> bool:
            hot = list((state / "wal" / "hot").glob("0*.hot"))
            return any(
                path.read_bytes()[60_000:60_100].strip(b"\0") and held() > int(path.stem) + 60 for path in hot
            )

        await until(far_enough, 30)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


@contextlib.asynccontextmanager
async def forging(mixer: RunningMixer, rack: str) -> AsyncIterator[None]:
    """Be somebody who took over the bus: alter each heartbeat of ``rack``, and make up a rack 'ghost'."""
    async with relay(mixer) as bus:

        def alter(message: BusMessage) -> None:
            genuine = Status.decode(message.payload)
            if genuine.body:
                bus.publish(message.subject, replace(genuine, state="suspended", body={}).encode())

        await bus.subscribe(subjects.status(rack), alter)

        async def haunt() -> None:
            for seq in range(1, 10_000):
                bus.publish("rack.ghost.meter.main", meter_frame(seq, bytes(16)).encode())
                await asyncio.sleep(0.05)

        ghost = asyncio.create_task(haunt())
        try:
            yield
        finally:
            ghost.cancel()
            await asyncio.gather(ghost, return_exceptions=True)


async def test_reading_the_lake_goes_as_the_guide_says(cluster: Cluster, tmp_path: Path) -> None:
    directory = play_in(tmp_path, cluster)
    await lay_down(cluster, directory / "mixer-data")
    async with running_mixer(cluster, directory / "mixer-data") as mixer:
        await run("reading-the-lake.md", mixer, directory, at_least=7)


@pytest.mark.slow
async def test_what_verify_says_is_what_the_guide_says(cluster: Cluster, tmp_path: Path) -> None:
    directory = play_in(tmp_path, cluster)
    await lay_down(cluster, directory / "mixer-data")
    async with running_mixer(cluster, directory / "mixer-data") as mixer:
        await mixer.enroll(directory / "rack-state", "stage-centre")
        await mixer.enroll(tmp_path / "right", "stage-right")
        await lose_power(mixer, directory)
        async with running_rack(tmp_path / "right"), forging(mixer, "stage-right"):
            await run("when-verify-complains.md", mixer, directory, at_least=6)
