"""The rack's side of the snake, with each proof of admission replaceable, and signed journal batches to send."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import json
import secrets
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.signing import SigningKey

from stagebox import passport as passports
from stagebox import subjects
from stagebox.bus import BUS_LIMITS, BusClient, BusOptions, Failure
from stagebox.certificates import build_csr, load_certificates, to_pem
from stagebox.errors import BusError, TlsError
from stagebox.identity import RackId
from stagebox.keyfiles import load_ed25519, save_private_key, signing_key
from stagebox.records.walbatch import FIRST_PREVIOUS, WalBatch, WalRecord
from stagebox.tls import client_context
from stagebox_keys.ca import IssuingAuthority
from stagebox_mixer.streams import WAL_STREAM
from stagebox_rack import state
from stagebox_rack.state import RackIdentity, StatePaths

QUICK = dataclasses.replace(
    BUS_LIMITS, connect_timeout=8.0, backoff_base=0.02, backoff_cap=0.1, close_timeout=0.3
)


def rack_options(
    identity: RackIdentity,
    *,
    context: ssl.SSLContext | None = None,
    key: SigningKey | None = None,
    token: str | None = None,
    without_key: bool = False,
    without_token: bool = False,
) -> BusOptions:
    """Return how ``stagebox_rack.app`` connects; every argument breaks one of the three proofs."""
    proof = key if key is not None else identity.key
    secret = token if token is not None else identity.passport.secret
    return BusOptions(
        servers=identity.servers,
        name=f"rack:{identity.passport.name}",
        ssl_context=context if context is not None else identity.tls_context(),
        identity=None if without_key else lambda: proof,
        token=None if without_token else lambda: secret,
        inbox_prefix=subjects.inbox_prefix("rack", identity.passport.name),
        give_up_after=8.0,
        limits=QUICK,
    )


@contextlib.asynccontextmanager
async def connected(options: BusOptions) -> AsyncIterator[BusClient]:
    """Connect, or raise what the bus client says."""
    async with BusClient(options) as bus:
        await bus.wait_connected(8)
        yield bus


async def refusal(options: BusOptions) -> Failure:
    """Return why a connection is refused.

    Raises:
        AssertionError: it was not.
    """
    bus = BusClient(options)
    await bus.start()
    try:
        await bus.wait_connected(8)
    except (BusError, TlsError):
        assert bus.last_failure is not None
        return bus.last_failure
    else:
        raise AssertionError("the connection was admitted")
    finally:
        await bus.close()


def load_any(directory: Path) -> RackIdentity:
    """Load an enrolled identity whatever its status says: an impostor would not look at it either."""
    paths = StatePaths(directory)
    return RackIdentity(
        passport=passports.read(paths.passport, state.pinned_cluster(paths)),
        key=signing_key(load_ed25519(paths.identity_key)),
        chain=tuple(load_certificates(paths.certificate)),
        roots_pem=paths.roots.read_bytes(),
        servers=tuple(json.loads(paths.snake.read_bytes())["servers"]),
        paths=paths,
    )


def client_options(snake: str, context: ssl.SSLContext | None, name: str = "client") -> BusOptions:
    """Return how a person or tool connects: by TLS alone."""
    return BusOptions((snake,), name, context, give_up_after=8.0, limits=QUICK)


def rack_certificate(
    authority: IssuingAuthority,
    directory: Path,
    rack: RackId,
    key: Ed25519PrivateKey | None = None,
    *,
    life_s: float = 3600.0,
) -> ssl.SSLContext:
    """Return the client context of a rack certificate issued here and now, past the mixer's registry.

    It ends ``life_s`` seconds from now; a negative life makes it an expired one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    private = key if key is not None else Ed25519PrivateKey.generate()
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=life_s)
    csr = build_csr(private, "test")
    leaf = authority.sign_rack(csr, rack, now=end - datetime.timedelta(days=1), days=1)
    certificate_path, key_path = directory / "forged.pem", directory / "forged.key"
    certificate_path.write_bytes(to_pem([leaf]) + authority.chain_pem)
    save_private_key(key_path, private, None)
    return client_context(authority.root_pem, certificate_path, key_path)


@dataclass
class Journal:
    """A rack's journal as the mixer sees it: numbered, chained, signed batches."""

    rack: str
    key: SigningKey
    journal: bytes = field(default_factory=lambda: uuid.uuid4().bytes)
    next: int = 1
    previous: bytes = FIRST_PREVIOUS

    def batch(self, *payloads: bytes, subject: str | None = None, kind: str = "event") -> WalBatch:
        """Return the next batch and advance the chain."""
        at = subject if subject is not None else f"rack.{self.rack}.{kind}"
        records = tuple(WalRecord(kind, time.time_ns(), at, data) for data in payloads)
        return self.of(*records)

    def of(self, *records: WalRecord) -> WalBatch:
        """Return the next batch of these records and advance the chain."""
        made = WalBatch(self.rack, self.next, self.previous, records, self.journal)
        self.next, self.previous = made.last + 1, made.digest()
        return made

    def signed(self, *payloads: bytes, kind: str = "event") -> bytes:
        """Return the wire form of the next batch."""
        return self.batch(*payloads, kind=kind).sign(self.key)


async def store(bus: BusClient, rack: str, data: bytes) -> int:
    """Publish a batch durably on the rack's subject; returns its stream sequence."""
    answer = await bus.request(subjects.wal(rack), data, headers={"Nats-Msg-Id": secrets.token_hex(8)})
    reply = json.loads(answer.payload)
    assert "error" not in reply, reply
    assert reply["stream"] == WAL_STREAM
    return int(reply["seq"])


async def until(condition: Callable[[], Awaitable[bool]], timeout: float = 10.0) -> None:
    """Wait for an asynchronous condition that has no event to await."""
    async with asyncio.timeout(timeout):
        while not await condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.01)
