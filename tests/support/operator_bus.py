"""The product's nats-server in operator mode without a mixer around it: users of every account, made here and now.

Racks come in by a token of account STAGEBOX with exactly the rights that admission would give them, so what the
mixer's and the racks' parts may do to each other can be tried before anything is wired together.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from stagebox import subjects
from stagebox.bus import BusClient, BusOptions
from stagebox.identity import MixerId
from stagebox.keyfiles import signing_key
from stagebox_keys import nats_jwt
from stagebox_keys.nkey import Nkey, NkeyKind
from stagebox_keys.storage import JETSTREAM_LABEL
from stagebox_mixer import streams
from stagebox_mixer.nats import credentials
from stagebox_mixer.nats.config import Listener, NatsServerConfig
from stagebox_mixer.nats.credentials import BusUser
from stagebox_mixer.nats.server import NatsServer, find_executable
from stagebox_mixer.server_certificate import ServerCertificate
from support.cluster import HOST, Cluster
from support.natsd import QUICK
from support.ports import free_port


class OperatorBus:
    """A running server; ``connect`` and its kin give connected clients, closed at the end."""

    def __init__(self, cluster: Cluster, server: NatsServer, exit_stack: contextlib.AsyncExitStack) -> None:
        self.cluster = cluster
        self._server = server
        self._exit = exit_stack

    async def connect(self, name: str, user: BusUser, inbox: str = "_INBOX") -> BusClient:
        """Connect over loopback as ``user``."""
        key = signing_key(user.key.private)
        options = BusOptions(
            (self._server.loopback_url,),
            name,
            user_jwt=lambda: user.jwt,
            identity=lambda: key,
            inbox_prefix=inbox,
            limits=QUICK,
        )
        bus = await self._exit.enter_async_context(BusClient(options))
        await bus.wait_connected(5)
        return bus

    async def live(self) -> BusClient:
        """Connect as the mixer in account STAGEBOX."""
        user = credentials.live_user(self.cluster.keys.nats, now_s=int(time.time()))
        return await self.connect("mixer-live", user, credentials.LIVE_INBOX)

    async def store(self) -> BusClient:
        """Connect as the mixer in account STORE, its streams and buckets made."""
        bus = await self.connect(
            "mixer", credentials.mixer_user(self.cluster.keys.nats, now_s=int(time.time()))
        )
        await streams.ensure(bus.js)
        return bus

    async def rack(self, name: str, *, limited: bool = False) -> BusClient:
        """Connect as an active rack, or with ``limited`` as one that is pending or suspended."""
        rights = (
            subjects.limited_rack_permissions(name)
            if limited
            else subjects.rack_permissions(name, streams.WAL_STREAM)
        )
        return await self.member(name, rights, subjects.inbox_prefix("rack", name))

    async def client(self, name: str) -> BusClient:
        """Connect as a person or tool."""
        return await self.member(name, subjects.client_permissions(), "_INBOX")

    async def member(self, name: str, rights: subjects.Permissions, inbox: str) -> BusClient:
        """Connect into account STAGEBOX with ``rights``."""
        account, key = self.cluster.keys.nats.stagebox, Nkey.generate(NkeyKind.USER)
        token = nats_jwt.user_jwt(
            account.signing,
            account.id,
            key.public,
            name,
            nats_jwt.Permissions(
                publish=rights.publish,
                subscribe=rights.subscribe,
                publish_deny=() if rights.publish else (">",),
                subscribe_deny=rights.subscribe_deny,
            ),
            issued_s=int(time.time()),
        )
        return await self.connect(name, BusUser(token, key), inbox)


@contextlib.asynccontextmanager
async def operator_bus(cluster: Cluster, directory: Path) -> AsyncIterator[OperatorBus]:
    """Run a server below ``directory``."""
    keys, run_dir = cluster.keys, directory / "run"
    run_dir.mkdir(parents=True, mode=0o700)
    certificate = ServerCertificate(
        authority=keys.issuing, identity=MixerId(keys.cluster.name, "test"), names=[HOST], directory=run_dir
    )
    certificate.issue(datetime.now(UTC))
    files, nats = certificate.files, keys.nats
    server = NatsServer(
        NatsServerConfig(
            server_name="operator-bus",
            operator_jwt=nats.operator_jwt,
            system_account=nats.system.id,
            accounts={
                account.id: account.jwt for account in (nats.system, nats.auth, nats.stagebox, nats.store)
            },
            sentinel_jwt=nats_jwt.sentinel_jwt(nats.auth.signing, nats.auth.id, issued_s=int(time.time())),
            store_dir=directory / "jetstream",
            ports_dir=run_dir,
            loopback=Listener(HOST, 0),
            snake=Listener(HOST, free_port()),
            certificate=files.certificate,
            key=files.key,
            client_ca=files.roots,
        ),
        executable=find_executable(),
        config_path=run_dir / "nats-server.conf",
        jetstream_key=keys.storage_key(JETSTREAM_LABEL),
        on_violation=lambda _violation: None,
    )
    await server.start()
    async with contextlib.AsyncExitStack() as exit_stack:
        exit_stack.push_async_callback(server.stop)
        yield OperatorBus(cluster, server, exit_stack)
