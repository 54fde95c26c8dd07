"""A whole rack in this process, and somebody on its bus who may do everything: what a hostile relay could do."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from stagebox.bus import BusClient, BusMessage, BusOptions
from stagebox.certificates import build_csr, to_pem
from stagebox.identity import RackId
from stagebox.keyfiles import load_ed25519, signing_key
from stagebox.records.status import Status
from stagebox_keys import nats_jwt
from stagebox_keys.nkey import Nkey, NkeyKind
from stagebox_rack.app import Rack
from stagebox_rack.identity.store import identity_store
from stagebox_rack.settings import RackSettings
from stagebox_rack.state import StatePaths
from support.cluster import MACHINE, Cluster, RunningMixer


@contextlib.asynccontextmanager
async def running_rack(directory: Path, *, machine: int = MACHINE, **settings: Any) -> AsyncIterator[Rack]:
    """Run the rack enrolled in ``directory`` on a tone, or other sources, as the process does, until the block ends."""
    chosen = RackSettings(
        state_dir=directory,
        machine_id=machine,
        **{
            "sources": ("tone:997@-23",),
            "heartbeat_interval": 1.0,
            "checkpoint_interval": 0.1,
            **settings,
        },
    )
    store = identity_store(chosen)
    rack = Rack(chosen, store, store.open())
    await rack.start()
    try:
        yield rack
    finally:
        await rack.stop()


@contextlib.asynccontextmanager
async def relay(mixer: RunningMixer) -> AsyncIterator[BusClient]:
    """Connect into the account of racks and clients with every right: to hear all, and to forge."""
    nats, keys = mixer.mixer.nats, mixer.cluster.keys.nats
    assert nats is not None
    key = Nkey.generate(NkeyKind.USER)
    token = nats_jwt.user_jwt(
        keys.stagebox.signing,
        keys.stagebox.id,
        key.public,
        "relay",
        nats_jwt.EVERYTHING,
        issued_s=int(time.time()),
    )
    signing = signing_key(key.private)
    options = BusOptions(
        (nats.loopback_url,), "relay", user_jwt=lambda: token, identity=lambda: signing, inbox_prefix="_RELAY"
    )
    async with BusClient(options) as bus:
        await bus.wait_connected(5)
        yield bus


class Heard:
    """What came on one pattern, in order, and a way to wait for it."""

    def __init__(self) -> None:
        self.messages: list[BusMessage] = []
        self._more = asyncio.Event()

    def take(self, message: BusMessage) -> None:
        """Remember one message."""
        self.messages.append(message)
        self._more.set()

    async def next(self, count: int = 1, timeout: float = 10.0) -> list[BusMessage]:
        """Wait for ``count`` messages from now on."""
        wanted = len(self.messages) + count
        async with asyncio.timeout(timeout):
            while len(self.messages) < wanted:
                self._more.clear()
                await self._more.wait()
        return self.messages[wanted - count :]

    async def status(self, state: str, timeout: float = 10.0) -> Status:
        """Wait for a status record that says ``state``; earlier ones count."""
        seen = 0
        async with asyncio.timeout(timeout):
            while True:
                for message in self.messages[seen:]:
                    record = Status.decode(message.payload)
                    if record.state == state:
                        return record
                seen = len(self.messages)
                self._more.clear()
                await self._more.wait()


async def hear(bus: BusClient, pattern: str) -> Heard:
    """Begin to listen on ``pattern``."""
    heard = Heard()
    await bus.subscribe(pattern, heard.take)
    return heard


def age_certificate(
    cluster: Cluster, directory: Path, rack: str, *, issued: datetime.timedelta, life: datetime.timedelta
) -> None:
    """Give an enrolled rack the certificate it would have had, had it been issued ``issued`` ago for ``life``."""
    paths = StatePaths(directory)
    csr = build_csr(load_ed25519(paths.identity_key), "stagebox-rack")
    leaf = cluster.keys.issuing.sign_rack(
        csr,
        RackId(cluster.name, "default", rack),
        now=datetime.datetime.now(datetime.UTC) - issued,
        days=life / datetime.timedelta(days=1),
    )
    paths.certificate.write_bytes(to_pem([leaf]) + cluster.keys.issuing.chain_pem)
