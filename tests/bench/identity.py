"""Identity: CSRs signed, racks admitted all at once, and how fast a ban ends a connection."""

from __future__ import annotations

import asyncio
import datetime
import os
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import nats
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from bench.stage import Stage, stage
from bench.table import Row, median, quantile
from stagebox import logs, subjects
from stagebox.bus import BUS_LIMITS, BusClient, BusOptions
from stagebox.certificates import build_csr
from stagebox.control.fields import NONCE_BYTES
from stagebox.control.request import open_answer
from stagebox.identity import RackId, machine_id
from stagebox.mixer_api import MixerApi
from stagebox.tls import client_context
from stagebox_keys.ca import IssuingAuthority
from stagebox_rack import state
from stagebox_rack.enrollment import check_pin, enroll, parse_mixer_url
from stagebox_rack.renewal.exchange import begin
from stagebox_rack.state import RackIdentity, StatePaths
from support.natsd import Authority, NatsServer

RACKS = 200
CSRS = 2000
DENIES = 30
ROUNDS = 5
_PATIENT = 30.0


async def run(say: Callable[[str], None]) -> list[Row]:
    """CSRs in this process; admissions and bans through a mixer in a process of its own."""
    logs.setup("error", "console")  # that a banned rack cannot connect is the point here
    async with stage() as place:
        say(f"identity: {CSRS} CSRs")
        rows = [await asyncio.to_thread(_csrs, place)]
        say(f"identity: enrolling {RACKS} racks")
        racks = await _enroll(place)
        rows += await _admissions(place, racks, say)
        say(f"identity: {RACKS} renewals")
        rows.append(await _renewals(racks))
        say(f"identity: {DENIES} bans")
        rows += await _denies(place, racks[0])
    return rows


def _csrs(place: Stage) -> Row:
    """CSRs verified and certified by the issuing authority, beside the signatures alone that this takes."""
    authority = IssuingAuthority.load(place.cluster.mixer_dir, None)
    key = ed25519.Ed25519PrivateKey.generate()
    csr = build_csr(key, "stagebox-rack")
    rack = RackId("demo", "default", "bench")
    now = datetime.datetime.now(datetime.UTC)
    started = time.perf_counter()
    for _ in range(CSRS):
        authority.sign_rack(csr, rack, now=now)
    ours = CSRS / (time.perf_counter() - started)

    issuing, message = ec.generate_private_key(ec.SECP256R1()), csr[:400]
    signature, public = key.sign(message), key.public_key()
    started = time.perf_counter()
    for _ in range(CSRS):
        public.verify(signature, message)
        issuing.sign(message, ec.ECDSA(hashes.SHA256()))
    raw = CSRS / (time.perf_counter() - started)
    return Row("identity", "CSRs verified and certified", "1/s", ours, raw,
               "one Ed25519 verify and one P-256 signature", "≥ 1000")  # fmt: skip


async def _enroll(place: Stage) -> list[RackIdentity]:
    pin = check_pin((await place.cluster.make_ticket(place.mixer, "bench-0")).ca_pin)
    slots = asyncio.Semaphore(8)

    def one(name: str) -> RackIdentity:
        with MixerApi(place.mixer.api, place.cluster.admin) as api:
            token = str(api.create_token(name, 900, None)["token"])
        paths = StatePaths(place.cluster.state_dir(name))
        enroll(
            paths,
            mixer=parse_mixer_url(place.mixer.api),
            token=token,
            pin=pin,
            machine_id=machine_id(),
            rack=name,
        )
        return state.load(paths, machine_id=machine_id())

    async def bounded(index: int) -> RackIdentity:
        async with slots:
            return await asyncio.to_thread(one, f"bench-{index}")

    return list(await asyncio.gather(*(bounded(index) for index in range(RACKS))))


async def _admissions(place: Stage, racks: Sequence[RackIdentity], say: Callable[[str], None]) -> list[Row]:
    """All racks at once, each with its three proofs; beside as many stock clients at a server that asks nobody."""
    ours, raw = [], []
    contexts = [rack.tls_context() for rack in racks]
    with tempfile.TemporaryDirectory() as name:
        authority = Authority(Path(name) / "ca")
        server = NatsServer(Path(name), authority, jetstream=False)
        await server.start()
        try:
            clients = [authority.context(authority.issue(f"raw-{index}")) for index in range(len(racks))]
            for turn in range(ROUNDS):
                say(f"identity: {len(racks)} connections at once, {turn + 1} of {ROUNDS}")
                raw.append(await _all_at_once([_raw(server.wss, context) for context in clients]))
                pairs = zip(racks, contexts, strict=True)
                ours.append(await _all_at_once([_ours(rack, context) for rack, context in pairs]))
        finally:
            await server.stop()
    return [
        Row("identity", f"{len(racks)} racks reconnecting at once, until the last is admitted", "s",
            median(ours), median(raw), "stock clients, wss + mTLS, nats-server alone", "≤ 2 ×"),
        Row("identity", "admissions", "1/s", len(racks) / median(ours), len(racks) / median(raw),
            "the same", ""),
    ]  # fmt: skip


_Close = Callable[[], Coroutine[Any, Any, None]]


async def _all_at_once(connects: Sequence[Coroutine[Any, Any, _Close]]) -> float:
    started = time.perf_counter()
    async with AsyncExitStack() as stack:
        for close in await asyncio.gather(*connects):
            stack.push_async_callback(close)
        return time.perf_counter() - started


async def _raw(server: str, context: Any) -> _Close:
    client = await nats.connect(server, tls=context, allow_reconnect=False, connect_timeout=int(_PATIENT))
    return client.close


async def _ours(rack: RackIdentity, context: Any) -> _Close:
    bus = BusClient(_options(rack, context))
    await bus.start()
    await bus.wait_connected(_PATIENT)
    return bus.close


def _options(rack: RackIdentity, context: Any) -> BusOptions:
    return BusOptions(
        servers=rack.servers,
        name=f"rack:{rack.passport.name}",
        ssl_context=context,
        identity=lambda: rack.key,
        token=lambda: rack.passport.secret,
        inbox_prefix=subjects.inbox_prefix("rack", rack.passport.name),
        limits=BUS_LIMITS,
    )


async def _renewals(racks: Sequence[RackIdentity]) -> Row:
    """Every rack asks at once over its own connection; an answer stands for an audit row and an entry on disk."""
    now_ns = time.time_ns()
    requests = [begin(rack, new_key=None, nonce=os.urandom(NONCE_BYTES), now_ns=now_ns) for rack in racks]
    async with AsyncExitStack() as stack:
        buses = [
            await stack.enter_async_context(BusClient(_options(rack, rack.tls_context()))) for rack in racks
        ]
        for bus in buses:
            await bus.wait_connected(_PATIENT)
        started = time.perf_counter()
        answers = await asyncio.gather(
            *(
                bus.request(subjects.request(rack.passport.name, "renew"), asked.data, timeout=_PATIENT)
                for bus, rack, asked in zip(buses, racks, requests, strict=True)
            )
        )
        took = time.perf_counter() - started
    for rack, asked, answer in zip(racks, requests, answers, strict=True):
        answered = open_answer(answer.payload, rack.passport.cluster_public, asked.request)
        if answered.error:
            raise RuntimeError(f"a renewal was refused: {answered.message}")
    return Row("identity", f"renewals whole, {len(racks)} racks at once: verified, audited, stored, answered",
               "1/s", len(racks) / took)  # fmt: skip


async def _denies(place: Stage, rack: RackIdentity) -> list[Row]:
    """From the operator's request leaving here to the rack seeing its connection end."""
    name, took = rack.passport.name, []
    with MixerApi(place.mixer.api, place.cluster.admin) as api:
        for _ in range(DENIES):
            async with BusClient(_options(rack, rack.tls_context())) as bus:
                await bus.wait_connected(_PATIENT)
                lost = asyncio.Event()
                bus.on_disconnected(_setter(lost))
                started = time.perf_counter()
                denying = asyncio.create_task(asyncio.to_thread(api.deny, "rack", name, "bench"))
                await lost.wait()
                took.append(time.perf_counter() - started)
                await denying
            await asyncio.to_thread(api.clear, "rack", name)
    raw = await asyncio.to_thread(_plain_requests, place)
    baseline = median(raw) * 1e3
    return [
        Row("identity", f"deny → disconnected, {label}", "ms", value * 1e3, baseline,
            "an HTTPS request to the mixer and its answer", "< 100")
        for label, value in (("p50", median(took)), ("p99", quantile(took, 0.99)))
    ]  # fmt: skip


def _setter(event: asyncio.Event) -> Callable[[object], None]:
    return lambda _failure: event.set()


def _plain_requests(place: Stage) -> list[float]:
    """Requests over the same kind of connection that touch nothing but the API itself."""
    took = []
    directory = place.cluster.admin
    context = client_context(
        (directory / "ca.pem").read_bytes(), directory / "client.crt", directory / "client.key"
    )
    with httpx.Client(base_url=place.mixer.api, verify=context, trust_env=False) as client:
        for _ in range(DENIES):
            started = time.perf_counter()
            client.get("/healthz").raise_for_status()
            took.append(time.perf_counter() - started)
    return took
