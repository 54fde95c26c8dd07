"""The guides about a rack's life, run as written against a real mixer. Only the ports differ."""

from __future__ import annotations

import asyncio
import datetime
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stagebox.identity import Role
from stagebox_keys.cluster import generate_cluster
from stagebox_keys.mixer_keys import load_mixer_keys
from support.cluster import Cluster, RunningMixer, running_mixer
from support.guide import Adapted, GuideRunner, parse
from support.racks import age_certificate, running_rack

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
MACHINE = "4242"
DAY = datetime.timedelta(days=1)
STOLEN = 0x5701E2
MONTHS = datetime.timedelta(days=150)


@pytest.fixture(scope="module")
def old_cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A cluster that has existed for months, so that a certificate can have ended months ago."""
    directory = tmp_path_factory.mktemp("old-cluster") / "cluster"
    made = datetime.datetime.now(datetime.UTC) - MONTHS
    generate_cluster(directory, "flux-prod", None, made)
    return Cluster(directory, "flux-prod", load_mixer_keys(directory / "mixer", None, now=made))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "play"
    made.mkdir()
    return made


@pytest.fixture
def runners() -> Iterator[list[GuideRunner]]:
    made: list[GuideRunner] = []
    yield made
    for runner in made:
        runner.end()


def _runner(mixer: RunningMixer, directory: Path, runners: list[GuideRunner]) -> tuple[GuideRunner, Adapted]:
    adapted = Adapted(mixer.mixer.https_port, mixer.mixer.snake_port)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "TERM": "dumb",
        "COLUMNS": "200",
        "STAGEBOX_CLIENT_MIXER": mixer.https,
        "STAGEBOX_CLIENT_IDENTITY": str(mixer.cluster.client(Role.ADMIN)),
        "STAGEBOX_RACK_MACHINE_ID": str(int(MACHINE, 16)),
    }
    runners.append(GuideRunner(directory, environment, adapted))
    return runners[-1], adapted


async def _run(
    guide: str, mixer: RunningMixer, directory: Path, runners: list[GuideRunner], *, at_least: int = 5
) -> None:
    runner, adapted = _runner(mixer, directory, runners)
    steps = parse((GUIDES / guide).read_text("utf-8"))
    assert sum(step.verb == "run" for step in steps) >= at_least
    for step in steps:
        await asyncio.to_thread(runner.run, step)
        adapted.learn(runner.printed)


async def test_enrolling_a_rack_goes_as_the_guide_says(
    cluster: Cluster, tmp_path: Path, directory: Path, runners: list[GuideRunner]
) -> None:
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        await _run("enrolling-a-rack.md", mixer, directory, runners)


async def test_replacing_a_stolen_rack_goes_as_the_guide_says(
    cluster: Cluster, tmp_path: Path, directory: Path, runners: list[GuideRunner]
) -> None:
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        await mixer.enroll(tmp_path / "stolen", "stage-left", machine=STOLEN)
        async with running_rack(tmp_path / "stolen", machine=STOLEN):
            await _run("replacing-a-stolen-rack.md", mixer, directory, runners)


async def test_recovering_a_rack_off_for_months_goes_as_the_guide_says(
    old_cluster: Cluster, tmp_path: Path, directory: Path, runners: list[GuideRunner]
) -> None:
    async with running_mixer(old_cluster, tmp_path / "data") as mixer:
        await mixer.enroll(directory / "rack-state", "stage-left", machine=int(MACHINE, 16))
        # It was switched off a day after its last renewal, three months ago.
        age_certificate(old_cluster, directory / "rack-state", "stage-left", issued=90 * DAY, life=30 * DAY)
        await _run("recovering-a-rack.md", mixer, directory, runners)


async def test_sizing_the_disk_goes_as_the_guide_says(
    cluster: Cluster, tmp_path: Path, directory: Path, runners: list[GuideRunner]
) -> None:
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        await mixer.enroll(directory / "rack-state", "stage-left", machine=int(MACHINE, 16))
        async with running_rack(directory / "rack-state", machine=int(MACHINE, 16)):
            await _run("sizing-the-disk.md", mixer, directory, runners, at_least=2)
