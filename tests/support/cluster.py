"""A real cluster for tests: keys, client identities, and a whole mixer in this process on ports of its own.

Racks are enrolled through the real API by the rack's own enrollment code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from stagebox.bus import BusClient, BusOptions
from stagebox.identity import Role
from stagebox.keyfiles import signing_key
from stagebox.passport import Passport
from stagebox.tls import client_context
from stagebox_keys.client import generate_client
from stagebox_keys.cluster import generate_cluster
from stagebox_keys.mixer_keys import MixerKeys, load_mixer_keys
from stagebox_mixer import streams
from stagebox_mixer.app import Mixer
from stagebox_mixer.nats import credentials
from stagebox_mixer.registry.store import Registry
from stagebox_mixer.settings import MixerSettings
from stagebox_rack import state
from stagebox_rack.enrollment import check_pin, enroll, parse_mixer_url
from stagebox_rack.state import RackIdentity, StatePaths

MACHINE = 0x5EED
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Cluster:
    """The keys of one throw-away cluster below ``directory``."""

    directory: Path
    name: str
    keys: MixerKeys

    @property
    def mixer_dir(self) -> Path:
        """What ``stagebox mixer run --dir`` takes."""
        return self.directory / "mixer"

    @property
    def roots_pem(self) -> bytes:
        """The cluster's root CA."""
        return self.keys.issuing.root_pem

    def client(self, role: Role, name: str | None = None) -> Path:
        """Return the identity directory of a person or tool, made on first use."""
        name = name if name is not None else f"test-{role.value}"
        out = self.directory / "clients" / name
        if not out.exists():
            out.parent.mkdir(exist_ok=True)
            generate_client(self.directory, role, name, out, None, datetime.now(UTC))
        return out

    def client_tls(self, role: Role | None) -> ssl.SSLContext:
        """Return the TLS context of a person or tool; of nobody for None."""
        return identity_tls(self.client(role)) if role is not None else client_context(self.roots_pem)


def make_cluster(directory: Path, name: str, now: datetime) -> Cluster:
    """Generate a cluster's keys without a passphrase.

    They are some days old, so that certificates which have expired by now can be issued too.
    """
    now -= timedelta(days=3)
    generate_cluster(directory / "cluster", name, None, now)
    keys = load_mixer_keys(directory / "cluster" / "mixer", None, now=now)
    return Cluster(directory / "cluster", name, keys)


def identity_tls(identity: Path) -> ssl.SSLContext:
    """Return the TLS context of an identity directory that ``gen-client`` made."""
    roots = (identity / "ca.pem").read_bytes()
    return client_context(roots, identity / "client.crt", identity / "client.key")


class RunningMixer:
    """A started mixer, and the ways in that tests use."""

    def __init__(self, cluster: Cluster, mixer: Mixer, settings: MixerSettings) -> None:
        self.cluster = cluster
        self.mixer = mixer
        self.settings = settings
        self.registry = Registry(lambda: self.bus.js)
        self.bus: BusClient

    @property
    def https(self) -> str:
        """Base URL of the API."""
        return f"https://{HOST}:{self.mixer.https_port}"

    @property
    def snake(self) -> str:
        """Address of the snake."""
        return f"wss://{HOST}:{self.mixer.snake_port}"

    @property
    def pin(self) -> str:
        """The CA pin."""
        from stagebox.certificates import root_pin

        return root_pin(self.cluster.keys.issuing.root)

    def api(self, role: Role | None) -> httpx.AsyncClient:
        """Return an HTTPS client of the API with a certificate of ``role``, or with none."""
        return httpx.AsyncClient(
            base_url=self.https, verify=self.cluster.client_tls(role), timeout=10, trust_env=False
        )

    async def create_token(self, rack: str, **fields: Any) -> str:
        """Make a one-time token through the API."""
        async with self.api(Role.ADMIN) as api:
            answer = await api.post("/api/v1/tokens", json={"rack": rack, **fields})
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["token"]
        return token

    async def redeem(
        self,
        directory: Path,
        token: str,
        *,
        machine: int = MACHINE,
        rack: str | None = None,
        pin: str | None = None,
    ) -> Passport:
        """Enroll with the rack's own code into ``directory``."""
        return await asyncio.to_thread(
            enroll,
            StatePaths(directory),
            mixer=parse_mixer_url(self.https),
            token=token,
            pin=check_pin(pin if pin is not None else self.pin),
            machine_id=machine,
            rack=rack,
        )

    async def enroll(self, directory: Path, rack: str, *, machine: int = MACHINE) -> RackIdentity:
        """Make a token and enroll ``rack`` with it; returns its loaded identity."""
        await self.redeem(directory, await self.create_token(rack), machine=machine)
        return state.load(StatePaths(directory), machine_id=machine)

    async def audit_rows(self, **match: object) -> list[dict[str, Any]]:
        """Return the stored audit rows, oldest first, that have all the fields given."""
        found = []
        info = await self.bus.js.stream_info(streams.AUDIT_STREAM)
        for sequence in range(1, info.state.last_seq + 1):
            message = await self.bus.js.get_msg(streams.AUDIT_STREAM, seq=sequence)
            row = json.loads(message.data or b"{}")
            if all(row.get(key) == value for key, value in match.items()):
                found.append(row)
        return found

    async def wait_audit(self, timeout: float = 5.0, **match: object) -> dict[str, Any]:
        """Wait for an audit row that has all the fields given."""
        rows: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(timeout):
                while not rows:
                    rows = await self.audit_rows(**match)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"no audit row {match}; there are {await self.audit_rows()}") from None
        return rows[0]


@contextlib.asynccontextmanager
async def running_mixer(cluster: Cluster, data_dir: Path, **settings: Any) -> AsyncIterator[RunningMixer]:
    """Run a whole mixer in this process, on loopback and ports of its own, with its data in ``data_dir``.

    The same ``data_dir`` again is a restart. ``bus`` is a connection of the mixer's own kind, for looking.
    """
    chosen = MixerSettings(
        dir=cluster.mixer_dir,
        data_dir=data_dir,
        **{"https_host": HOST, "snake_host": HOST, "https_port": 0, "snake_port": 0, **settings},
    )
    mixer = Mixer(chosen, cluster.keys)
    await mixer.start()
    running = RunningMixer(cluster, mixer, chosen)
    try:
        async with mixer_bus(running) as bus:
            running.bus = bus
            yield running
    finally:
        await mixer.stop()


@contextlib.asynccontextmanager
async def mixer_bus(running: RunningMixer) -> AsyncIterator[BusClient]:
    """Connect to the loopback port with the mixer's own rights in account STAGEBOX."""
    nats = running.mixer.nats
    assert nats is not None
    user = credentials.mixer_user(running.cluster.keys.nats, now_s=int(datetime.now(UTC).timestamp()))
    key = signing_key(user.key.private)
    options = BusOptions(
        (nats.loopback_url,), "test-observer", user_jwt=lambda: user.jwt, identity=lambda: key
    )
    async with BusClient(options) as bus:
        await bus.wait_connected(5)
        yield bus
