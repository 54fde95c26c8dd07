"""Admission and enforcement as the mixer wires them, on one real nats-server or on a cluster of them.

There is no API and no ingest: a test makes racks here in the registry, and connects with their proofs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.signing import SigningKey

from stagebox import passport as passports
from stagebox import subjects
from stagebox.bus import BusClient, BusOptions
from stagebox.certificates import build_csr, fingerprint, to_pem
from stagebox.identity import MixerId, RackId
from stagebox.keyfiles import save_private_key, signing_key
from stagebox.passport import PassportStatus
from stagebox.tls import client_context
from stagebox_keys import nats_jwt
from stagebox_keys.storage import JETSTREAM_LABEL
from stagebox_mixer import streams
from stagebox_mixer.admission.callout import Callout
from stagebox_mixer.admission.enforcement import Enforcer
from stagebox_mixer.admission.policy import Trust
from stagebox_mixer.admission.sessions import Sessions
from stagebox_mixer.audit import Audit
from stagebox_mixer.connections import Connections
from stagebox_mixer.denial import Denials
from stagebox_mixer.lifecycle.service import LifecycleService
from stagebox_mixer.nats import credentials
from stagebox_mixer.nats.config import JETSTREAM_KEY_ENV, Listener, NatsServerConfig, render
from stagebox_mixer.nats.credentials import BusUser
from stagebox_mixer.nats.server import find_executable
from stagebox_mixer.registry.model import RackEntry, secret_hash
from stagebox_mixer.registry.store import Registry
from stagebox_mixer.server_certificate import ServerCertificate
from support.cluster import MACHINE, Cluster
from support.ports import free_port
from support.rackside import QUICK

HOST = "127.0.0.1"
TENANT = "default"


class Node:
    """One nats-server with the mixer's own configuration; several of them share routes."""

    def __init__(self, cluster: Cluster, directory: Path, number: int, routes: list[int]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._cluster = cluster
        self.port, self.snake_port = free_port(), free_port()
        self._route, self._others = routes[number], [port for port in routes if port != routes[number]]
        self._number = number
        self._certificate = ServerCertificate(
            authority=cluster.keys.issuing,
            identity=MixerId(cluster.name, f"node-{number}"),
            names=("localhost", HOST),
            directory=directory,
        )
        self.process: asyncio.subprocess.Process | None = None

    @property
    def loopback(self) -> str:
        """Where the mixer's own clients connect."""
        return f"nats://{HOST}:{self.port}"

    @property
    def snake(self) -> str:
        """Where racks and people connect."""
        return f"wss://{HOST}:{self.snake_port}"

    def _configuration(self) -> str:
        keys = self._cluster.keys.nats
        files = self._certificate.files
        accounts = (keys.system, keys.auth, keys.stagebox, keys.store)
        text = render(
            NatsServerConfig(
                server_name=f"node-{self._number}",
                operator_jwt=keys.operator_jwt,
                system_account=keys.system.id,
                accounts={account.id: account.jwt for account in accounts},
                sentinel_jwt=nats_jwt.sentinel_jwt(
                    keys.auth.signing, keys.auth.id, issued_s=int(time.time())
                ),
                store_dir=self._directory / "jetstream",
                ports_dir=self._directory,
                loopback=Listener(HOST, self.port),
                snake=Listener(HOST, self.snake_port),
                certificate=files.certificate,
                key=files.key,
                client_ca=files.roots,
            )
        )
        if self._others:
            routes = ", ".join(json.dumps(f"nats://{HOST}:{port}") for port in self._others)
            text += f'cluster: {{ name: "test", listen: "{HOST}:{self._route}", routes: [{routes}] }}\n'
        return text

    async def start(self) -> None:
        """Start it and wait until it accepts connections."""
        self._certificate.issue(datetime.datetime.now(datetime.UTC))
        path = self._directory / "nats-server.conf"
        path.write_text(self._configuration())
        key = self._cluster.keys.storage_key(JETSTREAM_LABEL).hex()
        with (self._directory / "nats.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                find_executable(), "--config", path, stdout=log, stderr=log,
                env={"PATH": os.environ.get("PATH", ""), JETSTREAM_KEY_ENV: key},
            )  # fmt: skip
        async with asyncio.timeout(10):
            for port in (self.port, self.snake_port):
                await self._wait_for(port)

    async def _wait_for(self, port: int) -> None:
        while True:
            assert self.process is not None
            assert self.process.returncode is None, self.log()
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return

    def reload(self) -> None:
        """Make it read its files again, and so ask about every live connection again."""
        assert self.process is not None
        self.process.send_signal(1)

    async def stop(self) -> None:
        """End it."""
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            process.terminate()
            await process.wait()

    def log(self) -> str:
        """What it has logged."""
        return (self._directory / "nats.log").read_text()


@dataclass(frozen=True)
class RackSide:
    """A rack's proofs."""

    name: str
    key: Ed25519PrivateKey
    certificate: str
    directory: Path
    roots_pem: bytes
    secret: str = field(repr=False)

    def options(self, node: Node, *, secret: str | None = None) -> BusOptions:
        """Return how it connects to ``node``."""
        own, given = SigningKey(self.key.private_bytes_raw()), self.secret if secret is None else secret
        return BusOptions(
            servers=(node.snake,),
            name=f"rack:{self.name}",
            ssl_context=client_context(
                self.roots_pem, self.directory / "rack.pem", self.directory / "identity.key"
            ),
            identity=lambda: own,
            token=lambda: given,
            inbox_prefix=subjects.inbox_prefix("rack", self.name),
            give_up_after=8.0,
            limits=QUICK,
        )


@dataclass
class Gate:
    """The parts a test speaks to. ``store`` is the mixer's own user, ``system`` that of the system account."""

    cluster: Cluster
    directory: Path
    nodes: list[Node]
    store: BusClient
    system: BusClient
    registry: Registry
    audit: Audit
    denials: Denials
    lifecycle: LifecycleService
    callout: Callout
    connections: Connections
    enforcer: Enforcer

    @property
    def witness_dir(self) -> Path:
        """Where the copy of the deny list is."""
        return self.directory / "witness"

    async def add_rack(
        self, name: str, *, status: PassportStatus = PassportStatus.ACTIVE, machine: int = MACHINE
    ) -> RackSide:
        """Register a rack with a key and a certificate of its own."""
        key = Ed25519PrivateKey.generate()
        directory = self.directory / f"rack-{name}"
        issued = write_identity(self.cluster, directory, name, key)
        secret = f"secret-of-{name}"
        entry = RackEntry(
            name, TENANT, machine, key.public_key().public_bytes_raw(), status, 1, secret_hash(secret),
            issued, time.time_ns() + 10**15, time.time_ns(),
        )  # fmt: skip
        await self.registry.racks.put(name, entry, revision=None)
        return RackSide(name, key, issued, directory, self.cluster.roots_pem, secret)

    async def change(self, name: str, **fields: object) -> RackEntry:
        """Write fields of a registry entry past everybody."""
        stored = await self.registry.racks.get(name)
        assert stored is not None
        entry: RackEntry = dataclasses.replace(stored.entry, **fields)  # type: ignore[arg-type]
        await self.registry.racks.put(name, entry, revision=stored.revision)
        return entry

    def pending_secret(self, entry: RackEntry) -> str:
        """Return the secret of the passport that waits for a rack."""
        data = self.lifecycle.pending_passport(entry)
        assert data is not None
        return passports.verify(data, self.cluster.keys.authority.public).secret

    async def rows(self, **match: object) -> list[dict[str, object]]:
        """Return the audit rows that have these fields."""
        info = await self.store.js.stream_info(streams.AUDIT_STREAM)
        found: list[dict[str, object]] = []
        for sequence in range(1, info.state.last_seq + 1):
            row = json.loads((await self.store.js.get_msg(streams.AUDIT_STREAM, seq=sequence)).data or b"{}")
            if all(row.get(key) == value for key, value in match.items()):
                found.append(row)
        return found


def write_identity(cluster: Cluster, directory: Path, name: str, key: Ed25519PrivateKey) -> str:
    """Issue a certificate for a rack's key into ``directory``; returns its fingerprint."""
    directory.mkdir(parents=True, exist_ok=True)
    issuing = cluster.keys.issuing
    now = datetime.datetime.now(datetime.UTC)
    leaf = issuing.sign_rack(build_csr(key, name), RackId(cluster.name, TENANT, name), now=now)
    (directory / "rack.pem").write_bytes(to_pem([leaf]) + issuing.chain_pem)
    save_private_key(directory / "identity.key", key, None)
    return fingerprint(leaf)


@contextlib.asynccontextmanager
async def running_gate(
    cluster: Cluster, directory: Path, *, nodes: int = 1, started: list[Node] | None = None
) -> AsyncIterator[Gate]:
    """Run it below ``directory``; with ``started`` on servers that run already, as a mixer that restarts."""
    async with AsyncExitStack() as stack:
        running = started
        if running is None:
            routes = [free_port() for _ in range(nodes)]
            running = [Node(cluster, directory / f"node-{n}", n, routes) for n in range(nodes)]
            for node in running:
                await node.start()
                stack.push_async_callback(node.stop)
        keys, now_s = cluster.keys.nats, int(time.time())

        async def connect(name: str, user: BusUser) -> BusClient:
            key = signing_key(user.key.private)
            options = BusOptions(
                (running[0].loopback,), name, user_jwt=lambda: user.jwt, identity=lambda: key, limits=QUICK
            )
            bus = await stack.enter_async_context(BusClient(options))
            await bus.wait_connected(8)
            return bus

        store = await connect("mixer", credentials.mixer_user(keys, now_s=now_s))
        system = await connect("mixer-sys", credentials.system_user(keys, now_s=now_s))
        await _ensure_streams(store)
        registry, audit = Registry(lambda: store.js), Audit(lambda: store.js)
        await audit.start()
        stack.push_async_callback(audit.stop)
        denials = Denials(cluster.keys, lambda: store.js, audit, directory / "witness")
        await denials.start()
        lifecycle = LifecycleService(keys=cluster.keys, registry=registry, audit=audit, denials=denials)
        sessions = Sessions()
        callout = Callout(
            bus=await connect("callout", credentials.callout_user(keys, now_s=now_s)),
            keys=keys,
            trust=Trust(cluster.name, (cluster.keys.issuing.root,), streams.WAL_STREAM),
            registry=registry,
            audit=audit,
            denials=denials,
            confirm=lifecycle.confirm,
            sessions=sessions,
        )
        await callout.start()
        stack.push_async_callback(callout.stop)
        connections = Connections(system, keys.stagebox.id)
        enforcer = Enforcer(connections=connections, registry=registry, denials=denials, sessions=sessions)
        stack.push_async_callback(enforcer.close)
        denials.changed = lambda _: enforcer.soon()
        lifecycle.changed = enforcer.soon
        yield Gate(
            cluster, directory, running, store, system, registry, audit, denials, lifecycle, callout,
            connections, enforcer,
        )  # fmt: skip


async def _ensure_streams(store: BusClient) -> None:
    # A cluster of servers elects who keeps its streams before it makes any.
    async with asyncio.timeout(20):
        while True:
            try:
                async with asyncio.timeout(2):
                    await streams.ensure(store.js)
            except Exception:
                await asyncio.sleep(0.1)
            else:
                return
