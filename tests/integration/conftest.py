"""What integration tests stand on: a real mixer with one rack, or a plain nats-server with its own authority.

The plain server is for tests of the bus and of subscribers, which must not depend on the mixer.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stagebox.bus import BusClient, BusOptions
from stagebox_rack.state import RackIdentity
from support.cluster import Cluster, RunningMixer, running_mixer
from support.natsd import QUICK, Authority, NatsServer


@pytest.fixture
async def mixer(cluster: Cluster, tmp_path: Path) -> AsyncIterator[RunningMixer]:
    async with running_mixer(cluster, tmp_path / "data") as running:
        yield running


@pytest.fixture
async def rack(mixer: RunningMixer, tmp_path: Path) -> RackIdentity:
    return await mixer.enroll(tmp_path / "rack", "stage-left")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
async def server(tmp_path: Path, authority: Authority) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path, authority)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def identity(tmp_path: Path, authority: Authority) -> Path:
    """A viewer's identity directory."""
    issued = authority.issue("ops", uri="spiffe://flux/client/viewer/ops")
    directory = tmp_path / "ops"
    directory.mkdir()
    shutil.copy(issued.certificate_path, directory / "client.crt")
    shutil.copy(issued.key_path, directory / "client.key")
    (directory / "ca.pem").write_bytes(authority.pem)
    return directory


@pytest.fixture
async def publisher(server: NatsServer, authority: Authority) -> AsyncIterator[BusClient]:
    context = authority.context(authority.issue("publisher"))
    async with BusClient(BusOptions((server.wss,), "rack", context, limits=QUICK)) as bus:
        await bus.wait_connected(5)
        yield bus
