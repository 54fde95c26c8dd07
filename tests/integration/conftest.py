"""A plain nats-server with its own authority, for tests of the bus and of subscribers without a mixer."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stagebox.bus import BusClient, BusOptions
from support.natsd import QUICK, Authority, NatsServer


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
