"""The same rack and subscriber twice: as stock nats-py (the raw limit) and as ours, over the same snake."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import nkeys
from nats.aio.client import Client

from bench.stage import Stage
from stagebox import subjects
from stagebox.bus import BusClient, BusOptions
from stagebox.tls import client_context
from stagebox_rack.state import RackIdentity


async def _fail(error: Exception) -> None:
    raise error


@contextlib.asynccontextmanager
async def raw_rack(stage: Stage, identity: RackIdentity) -> AsyncIterator[Client]:
    """A rack as a stock nats-py client with the three proofs."""
    seed = nkeys.encode_seed(bytes(identity.key), nkeys.PREFIX_BYTE_USER).decode()
    async with _connected(
        stage,
        tls=identity.tls_context(),
        nkeys_seed_str=seed,
        token=identity.passport.secret,
        inbox_prefix=subjects.inbox_prefix("rack", identity.passport.name).encode(),
    ) as client:
        yield client


@contextlib.asynccontextmanager
async def raw_viewer(stage: Stage) -> AsyncIterator[Client]:
    """A subscriber as a stock nats-py client with TLS alone."""
    directory: Path = stage.cluster.viewer
    context = client_context(
        (directory / "ca.pem").read_bytes(), directory / "client.crt", directory / "client.key"
    )
    async with _connected(stage, tls=context) as client:
        yield client


@contextlib.asynccontextmanager
async def _connected(stage: Stage, **options: Any) -> AsyncIterator[Client]:
    client = await nats.connect(stage.mixer.snake, allow_reconnect=False, error_cb=_fail, **options)
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def our_rack(identity: RackIdentity) -> AsyncIterator[BusClient]:
    """A rack's BusClient, as the rack process makes it."""
    options = BusOptions(
        servers=identity.servers,
        name="bench",
        ssl_context=identity.tls_context(),
        identity=lambda: identity.key,
        token=lambda: identity.passport.secret,
        inbox_prefix=subjects.inbox_prefix("rack", identity.passport.name),
    )
    async with BusClient(options) as bus:
        await bus.wait_connected(10)
        yield bus
