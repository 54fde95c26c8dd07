"""Who may call which route, what reaches the services, and in which shape the answers leave.

The application and its access check are the real ones, with real certificates; the services behind are in memory.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import FastAPI
from fastapi.routing import APIRoute
from nacl.signing import SigningKey
from pyarrow import ipc

from stagebox.audit_chain import Head
from stagebox.certificates import fingerprint
from stagebox.control.command import Ack, AckResult
from stagebox.control.denylist import DenyList, denied
from stagebox.errors import BusError, ModuleError
from stagebox.identity import Role, check_name
from stagebox.modules.capabilities import Capability
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.passport import PassportStatus
from stagebox.records.walbatch import WalRecord
from stagebox_mixer.api import intake
from stagebox_mixer.api import racks as rack_routes
from stagebox_mixer.api.access import Access
from stagebox_mixer.api.app import make_app
from stagebox_mixer.api.server import PEER
from stagebox_mixer.api.services import Counters, Services
from stagebox_mixer.audit import Row, StoredRow
from stagebox_mixer.commands.service import CommandUnanswered
from stagebox_mixer.connections import LiveConnection
from stagebox_mixer.denial import DeniedError, Note
from stagebox_mixer.enrollment.service import NewToken
from stagebox_mixer.enrollment.tokens import ListedToken
from stagebox_mixer.lake.lake import Lake
from stagebox_mixer.lake.state import Position
from stagebox_mixer.lake.storage import LocalStorage
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.listening.service import Granted, ListenRefused
from stagebox_mixer.modules.assigning import Wanted
from stagebox_mixer.modules.importing import Imported
from stagebox_mixer.modules.judging import ImportOptions
from stagebox_mixer.modules.model import Assignment, ModuleEntry
from stagebox_mixer.modules.revoking import Revoked, RevokedVersion
from stagebox_mixer.modules.store import Catalogue
from stagebox_mixer.modules.vendors import ListedVendor
from stagebox_mixer.presence.roll import Heartbeat, Presence, PresenceState
from stagebox_mixer.registry.model import PendingIssue, RackEntry, TokenEntry, TokenState
from support.cluster import Cluster
from support.frames import meter_frame
from support.lake import commit
from support.modules import VENDOR
from support.patched import module_assignment, module_entry
from support.rackside import Journal

BAN = {"kind": "rack", "value": "stage-left", "reason": "stolen"}
ASSIGNMENT = {
    "module": "stage-left", "version": "1.0.0", "racks": ["*"], "point": "meters", "source": "main",
}  # fmt: skip
ROUTES: list[tuple[str, str, Any, Role | None]] = [
    ("GET", "/healthz", None, None),
    ("GET", "/api/v1/trust", None, None),
    ("POST", "/api/v1/racks/enroll", None, None),
    ("POST", "/api/v1/racks/renew", None, None),
    ("GET", "/metrics", None, Role.VIEWER),
    ("GET", "/api/v1/racks", None, Role.VIEWER),
    ("GET", "/api/v1/racks/{name}", None, Role.VIEWER),
    ("GET", "/api/v1/tokens", None, Role.VIEWER),
    ("GET", "/api/v1/denied", None, Role.VIEWER),
    ("GET", "/api/v1/audit", None, Role.OPERATOR),
    ("POST", "/api/v1/racks/{name}/check", None, Role.OPERATOR),
    ("POST", "/api/v1/racks/{name}/listen", {"bus": "main"}, Role.VIEWER),
    ("DELETE", "/api/v1/racks/{name}/listen/{bus}/{lease}", None, Role.VIEWER),
    ("POST", "/api/v1/racks/{name}/reset-meters", {"source": "main"}, Role.OPERATOR),
    ("POST", "/api/v1/tokens", {"rack": "stage-left"}, Role.ADMIN),
    ("DELETE", "/api/v1/tokens/{token_id}", None, Role.ADMIN),
    ("POST", "/api/v1/racks/{name}/approve", None, Role.ADMIN),
    ("POST", "/api/v1/racks/{name}/suspend", {"reason": "why"}, Role.ADMIN),
    ("POST", "/api/v1/racks/{name}/activate", {}, Role.ADMIN),
    ("POST", "/api/v1/racks/{name}/rotate-secret", None, Role.ADMIN),
    ("DELETE", "/api/v1/racks/{name}", None, Role.ADMIN),
    ("POST", "/api/v1/denied", BAN, Role.ADMIN),
    ("DELETE", "/api/v1/denied/{kind}/{value}", None, Role.ADMIN),
    ("GET", "/api/v1/lake/kinds", None, Role.VIEWER),
    ("GET", "/api/v1/lake/records/{kind}", None, Role.VIEWER),
    ("GET", "/api/v1/lake/holds", None, Role.VIEWER),
    ("POST", "/api/v1/lake/holds", {"name": "stage-left", "reason": "why"}, Role.ADMIN),
    ("DELETE", "/api/v1/lake/holds/{name}", None, Role.ADMIN),
    ("GET", "/api/v1/modules", None, Role.VIEWER),
    ("GET", "/api/v1/modules/{name}", None, Role.VIEWER),
    ("GET", "/api/v1/vendors", None, Role.VIEWER),
    ("GET", "/api/v1/assignments", None, Role.VIEWER),
    ("GET", "/api/v1/assignments/{name}", None, Role.VIEWER),
    ("POST", "/api/v1/modules", None, Role.ADMIN),
    ("POST", "/api/v1/modules/{name}/{version}/reissue", None, Role.ADMIN),
    ("POST", "/api/v1/modules/{name}/{version}/revoke", {"reason": "backdoor"}, Role.ADMIN),
    ("POST", "/api/v1/vendors/{vendor}/revoke", {"reason": "stolen"}, Role.ADMIN),
    ("POST", "/api/v1/assignments", ASSIGNMENT, Role.ADMIN),
    ("DELETE", "/api/v1/assignments/{name}", None, Role.ADMIN),
]
GUARDED = [(method, path, body, role) for method, path, body, role in ROUTES if role is not None]
STEPS = ("approve", "suspend", "activate", "rotate-secret")
FINGERPRINT = "sha256:" + "a" * 64
BOOT = bytes(range(16))


def at(path: str) -> str:
    return path.format(
        name="stage-left", token_id="ab12", kind="rack", value="banned", bus="main", lease="ab" * 16,
        version="1.0.0", vendor="tone-works",
    )  # fmt: skip


def rack(name: str, **fields: object) -> RackEntry:
    entry = RackEntry(
        name=name,
        tenant="default",
        machine_id=0xBEEF,
        rack_public=bytes(32),
        status=PassportStatus.ACTIVE,
        serial=3,
        secret_hash=b"s" * 32,
        certificate=FINGERPRINT,
        certificate_not_after=1_800_000_000_000_000_000,
        enrolled_at=1_700_000_000_000_000_000,
    )
    return dataclasses.replace(entry, **fields)  # type: ignore[arg-type]


class MemoryModules:
    """One module, called as everything else here is, with one assignment of the same name."""

    def __init__(self, did: list[tuple[object, ...]], read: Callable[[], Awaitable[DenyList]]) -> None:
        self._did = did
        self._read = read
        self.entry = module_entry(name="stage-left")
        self.assignment = module_assignment(id="stage-left", module="stage-left")

    async def catalogue(self) -> Catalogue:
        return Catalogue({("stage-left", "1.0.0"): self.entry}, (self.assignment,), await self._read())

    def vendors(self) -> list[ListedVendor]:
        return [ListedVendor("tone-works.toml", VENDOR.root), ListedVendor("odd.toml", None, "not TOML")]

    async def import_module(self, data: bytes, options: ImportOptions, *, actor: str) -> Imported:
        self._did.append(("import", data, options, actor))
        return Imported(self.entry, new=True)

    async def reissue(self, name: str, version: str, *, actor: str, reason: str = "") -> ModuleEntry:
        self._did.append(("reissue", name, version, actor, reason))
        return self.entry

    async def revoke_module(self, name: str, version: str, *, reason: str, actor: str) -> Revoked:
        self._did.append(("revoke", name, version, reason, actor))
        return Revoked((self._version,), (), 5)

    async def revoke_vendor(self, vendor: str, *, reason: str, actor: str) -> Revoked:
        self._did.append(("revoke-vendor", vendor, reason, actor))
        return Revoked((self._version,), (VENDOR.root.key_id,), 5, ("gain.9.0.0",))

    async def assign(
        self, wanted: Wanted, *, actor: str, name: str | None = None, reason: str = ""
    ) -> Assignment:
        self._did.append(("assign", wanted, actor, name, reason))
        return self.assignment

    async def unassign(self, name: str, *, actor: str, reason: str = "") -> None:
        self._did.append(("unassign", name, actor, reason))

    @property
    def _version(self) -> RevokedVersion:
        return RevokedVersion(self.entry.name, self.entry.version, self.entry.vendor_digest)


class Parts:
    """Everything behind the routes, in memory; ``did`` notes what was asked for."""

    def __init__(self) -> None:
        self.did: list[tuple[object, ...]] = []
        self.racks = {"stage-left": rack("stage-left")}
        self.bans = DenyList("flux-test", epoch=4).with_denied(denied("rack", "banned", since=9), now_ns=1)
        self.why: dict[str, Note] = {"rack:banned": Note("lost", "spiffe://ops", 9)}
        self.rows: list[Row] = []
        self.connections: list[LiveConnection] = []
        self.enforced: Callable[[], int] = lambda: 0
        self.answer: Callable[[bytes], bytes] = lambda data: b"signed:" + data
        self.ack: Callable[[], Ack] = lambda: Ack(
            "flux-test", "stage-left", 7, bytes(32), BOOT, 5, AckResult.DONE
        )
        self.offline = False

    # Listening and presence

    async def listen(self, rack: str, bus: str, ttl_s: int, caller: str, lease: str | None = None) -> Granted:
        self.did.append(("listen", rack, bus, ttl_s, caller, lease))
        return Granted(rack, bus, lease or "ab" * 16, ttl_s)

    async def release(self, rack: str, bus: str, lease: str, caller: str) -> None:
        self.did.append(("release", rack, bus, lease, caller))

    def of(self, rack: str) -> Presence:
        beat = Heartbeat("running", {"version": "0.1.0", "odd": b"x"}, 5, BOOT, 1.0, 7)
        return Presence(PresenceState.STALE, 17.5, beat)

    # Registry and lake

    async def rack(self, name: str) -> RackEntry | None:
        return self.racks.get(check_name("rack", name))

    async def all_racks(self) -> list[RackEntry]:
        return list(self.racks.values())

    def of_rack(self, name: str) -> list[object]:
        return []

    # Lifecycle and enrollment

    async def renew(self, data: bytes, *, via: str, host: str) -> bytes:
        self.did.append(("renew", via, host))
        return self.answer(data)

    async def _step(self, step: str, name: str, actor: str, reason: str) -> RackEntry:
        self.did.append((step, name, actor, reason))
        return self.racks[name]

    async def approve(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        return await self._step("approve", name, actor, reason)

    async def suspend(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        return await self._step("suspend", name, actor, reason)

    async def activate(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        return await self._step("activate", name, actor, reason)

    async def rotate_secret(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        return await self._step("rotate-secret", name, actor, reason)

    async def remove(self, name: str, *, actor: str, reason: str = "") -> RackEntry:
        await self._step("remove", name, actor, reason)
        self.racks[name] = dataclasses.replace(self.racks[name], removed_at=5)
        return self.racks[name]

    async def create_token(self, *, rack: str, ttl_s: int, machine_id: int, actor: str) -> NewToken:
        return NewToken("ab12", "sbt-once", rack, 5, "sha256:pin")

    def _token(self, state: TokenState, expires_at: int) -> ListedToken:
        return ListedToken(
            "ab12", TokenEntry("stage-left", "default", 0, state, expires_at, 1, "spiffe://ops", b"")
        )

    async def list_tokens(self) -> list[ListedToken]:
        ever = 1 << 62
        return [
            self._token(TokenState.ISSUED, ever),
            self._token(TokenState.ISSUED, 1),
            self._token(TokenState.USED, 1),
        ]

    async def revoke_token(self, token_id: str, *, actor: str) -> ListedToken:
        self.did.append(("revoke", token_id, actor))
        return self._token(TokenState.REVOKED, 1)

    # Bans

    def _demand_bus(self) -> None:
        if self.offline:
            raise BusError("the deny list cannot be used: no servers", remedy="wait")

    async def read(self) -> DenyList:
        self._demand_bus()
        return self.bans

    async def notes(self) -> Mapping[str, Note]:
        return self.why

    async def check(
        self, *, rack: str | None = None, machine_id: int | None = None, certificates: Iterable[str] = ()
    ) -> None:
        found = (await self.read()).matches(rack=rack, machine_id=machine_id, certificates=certificates)
        if found is not None:
            raise DeniedError(found)

    async def deny(self, kind: str, value: str, *, reason: str, actor: str) -> DenyList:
        await asyncio.sleep(0)
        self.did.append(("deny", kind, value, reason, actor))
        self.bans = self.bans.with_denied(denied(kind, value, since=1), now_ns=1)
        self.connections = []  # somebody else enforces it first
        return self.bans

    async def clear(self, kind: str, value: str, *, actor: str, reason: str = "") -> DenyList:
        self.did.append(("clear", kind, value, reason, actor))
        self.bans = self.bans.without(denied(kind, value), now_ns=1)
        return self.bans

    async def enforce(self, rack: str | None = None) -> int:
        return self.enforced()

    async def live(self, user: str | None = None) -> list[LiveConnection]:
        self._demand_bus()
        return [connection for connection in self.connections if user in (None, connection.user)]

    # Commands and audit

    async def send(
        self,
        rack: str,
        verb: str,
        args: Mapping[str, Any] | None = None,
        *,
        actor: str,
        ttl_s: float | None = None,
    ) -> Ack:
        self.did.append(("command", rack, verb, actor))
        return self.ack()

    async def record(self, row: Row) -> int:
        self.rows.append(row)
        return len(self.rows)

    def refused(self, row: Row) -> None:
        self.rows.append(row)

    def head(self) -> Head:
        return Head(42, "b" * 64)

    def witness(self) -> Head | None:
        return Head(41, "c" * 64)

    async def last(self) -> int:
        return 42

    async def page(self, after: int, limit: int) -> list[StoredRow]:
        return [StoredRow(after + 1, b'{"v": 2}')][:limit]


@dataclasses.dataclass
class Api:
    """The application before ``parts``."""

    app: FastAPI
    services: Services
    parts: Parts
    cluster: Cluster

    def certificate(self, role: Role) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.cluster.client(role) / "client.crt").read_bytes())

    @asynccontextmanager
    async def of(self, role: Role | None, host: str = "192.0.2.1") -> AsyncIterator[httpx.AsyncClient]:
        der = self.certificate(role).public_bytes(Encoding.DER) if role is not None else None

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:
            await self.app({**scope, "extensions": {PEER: der}}, receive, send)

        transport = httpx.ASGITransport(app=with_peer, client=(host, 1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://mixer") as client:
            yield client


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    lake = Lake(LocalStorage(tmp_path / "lake"), bytes(32), cluster="flux-test", keep_days=0)
    await lake.open()
    yield lake
    await lake.close()


@pytest.fixture
def api(parts: Parts, cluster: Cluster, lake: Lake) -> Iterator[Api]:
    issuing = cluster.keys.issuing
    access = Access(cluster.name, (issuing.root,), (issuing.certificate,), denials=parts, audit=parts)
    any_parts = cast(Any, parts)
    services = Services(
        enrollment=any_parts,
        lifecycle=parts,
        registry=any_parts,
        lake=lake,
        denials=parts,
        enforcer=parts,
        connections=parts,
        commands=parts,
        listening=parts,
        presence=parts,
        modules=MemoryModules(parts.did, parts.read),
        audit=parts,
        audit_reader=parts,
        access=access,
        cluster=cluster.name,
        roots_pem=cluster.roots_pem,
        certificate_days=30,
        snake_port=lambda: 4222,
        health=lambda: {"status": "ok"},
        counters=lambda: Counters(renewals=3),
    )
    yield Api(make_app(services), services, parts, cluster)


def actor(role: Role) -> str:
    return f"spiffe://flux-test/client/{role.value}/test-{role.value}"


def test_every_route_of_the_application_is_in_the_table_of_roles(api: Api) -> None:
    served = {
        (method, route.path)
        for route in api.app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert served == {(method, path) for method, path, _, _ in ROUTES}


async def test_without_a_certificate_nothing_guarded_answers(api: Api) -> None:
    async with api.of(None) as client:
        for method, path, body, _ in GUARDED:
            answer = await client.request(method, at(path), json=body)
            assert (answer.status_code, answer.json()["error"]) == (403, "forbidden"), path
    assert api.parts.did == []
    assert {(row.actor, row.action, row.reason) for row in api.parts.rows} == {
        ("192.0.2.1", "api", "no_certificate")
    }


@pytest.mark.parametrize("role", list(Role))
async def test_a_role_may_what_the_table_says_and_nothing_else(api: Api, role: Role) -> None:
    rank = list(Role)
    async with api.of(role) as client:
        for method, path, body, needed in GUARDED:
            api.parts.racks = {"stage-left": rack("stage-left")}
            answer = await client.request(method, at(path), json=body)
            allowed = rank.index(role) >= rank.index(needed)
            assert answer.status_code == (200 if allowed else 403), (path, answer.text)
            if not allowed:
                assert f"this needs {needed.value}" in answer.json()["message"]
    refusals = [row for row in api.parts.rows if row.actor == actor(role) and row.result == "refused"]
    assert {row.reason for row in refusals} <= {"role"}
    assert len(refusals) == sum(rank.index(role) < rank.index(needed) for _, _, _, needed in GUARDED)


async def test_a_banned_person_is_refused_everywhere_from_the_next_request_on(api: Api) -> None:
    own = fingerprint(api.certificate(Role.ADMIN))
    async with api.of(Role.ADMIN) as client:
        assert (await client.get("/api/v1/racks")).status_code == 200
        api.parts.bans = api.parts.bans.with_denied(denied("certificate", own), now_ns=2)
        for method, path, body, _ in GUARDED:
            answer = await client.request(method, at(path), json=body)
            assert (answer.status_code, answer.json()["error"]) == (403, "denied"), path
    assert api.parts.did == []
    assert {(row.actor, row.reason) for row in api.parts.rows} == {(actor(Role.ADMIN), "denied")}


async def test_while_the_deny_list_cannot_be_read_nobody_passes(api: Api) -> None:
    api.parts.offline = True
    async with api.of(Role.ADMIN) as client:
        for method, path, body, _ in GUARDED:
            answer = await client.request(method, at(path), json=body)
            assert (answer.status_code, answer.json()["error"]) == (503, "unavailable"), path
    assert api.parts.did == []


async def test_a_renewal_passes_through_byte_for_byte_whatever_the_answer_says(api: Api) -> None:
    body = bytes(range(256))
    async with api.of(None, host="198.51.100.7") as client:
        answer = await client.post("/api/v1/racks/renew", content=body)
        assert (answer.status_code, answer.content) == (200, b"signed:" + body)
        assert answer.headers["content-type"] == "application/octet-stream"
        empty = await client.post("/api/v1/racks/renew", content=b"")
        assert (empty.status_code, empty.content) == (200, b"signed:")
    assert api.parts.did == [("renew", "https", "198.51.100.7")] * 2


async def test_a_renewal_over_the_limit_reaches_nobody(api: Api) -> None:
    async with api.of(None) as client:
        answer = await client.post("/api/v1/racks/renew", content=b"x" * (LIMITS.request_body_bytes + 1))
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    assert api.parts.did == []


async def test_a_renewal_while_the_registry_is_away_is_to_be_tried_again(api: Api) -> None:
    def away(_: bytes) -> bytes:
        raise BusError("the registry cannot be used")

    api.parts.answer = away
    async with api.of(None) as client:
        answer = await client.post("/api/v1/racks/renew", content=b"x")
    assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")


async def test_a_source_that_floods_is_told_when_to_come_again_and_hurts_no_other(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "LIMITS", dataclasses.replace(LIMITS, public_burst=3, public_per_s=0.01))
    api.app = make_app(api.services)
    async with api.of(None, host="203.0.113.5") as flood:
        for _ in range(3):
            assert (await flood.post("/api/v1/racks/renew", content=b"")).status_code == 200
        refused = [
            await flood.post(path, content=b"") for path in ("/api/v1/racks/renew", "/api/v1/racks/enroll")
        ]
        assert (await flood.get("/healthz")).status_code == 200
    for answer in refused:
        assert (answer.status_code, answer.json()["error"]) == (429, "too_many_requests")
        assert 90 < int(answer.headers["retry-after"]) <= 100
    assert [(row.actor, row.action, row.reason) for row in api.parts.rows] == [
        ("203.0.113.5", "renew", "too_many_requests"),
        ("203.0.113.5", "enroll", "too_many_requests"),
    ]
    async with api.of(None, host="203.0.113.6") as other:
        assert (await other.post("/api/v1/racks/renew", content=b"")).status_code == 200


@pytest.mark.parametrize("step", STEPS)
async def test_a_step_carries_who_and_why_and_works_without_a_body(api: Api, step: str) -> None:
    async with api.of(Role.ADMIN) as client:
        assert (await client.post(f"/api/v1/racks/stage-left/{step}")).status_code == 200
        answer = await client.post(f"/api/v1/racks/stage-left/{step}", json={"reason": "it moved"})
    assert answer.json()["name"] == "stage-left"
    who = actor(Role.ADMIN)
    assert api.parts.did == [(step, "stage-left", who, ""), (step, "stage-left", who, "it moved")]


@pytest.mark.parametrize("reason", ["x" * 201, "two\nlines", "\x1b[2J", 5])
async def test_a_reason_is_one_short_line(api: Api, reason: object) -> None:
    async with api.of(Role.ADMIN) as client:
        answers = [
            await client.post("/api/v1/racks/stage-left/suspend", json={"reason": reason}),
            await client.post("/api/v1/denied", json={**BAN, "reason": reason}),
        ]
        if isinstance(reason, str):
            answers.append(await client.delete("/api/v1/racks/stage-left", params={"reason": reason}))
    assert {answer.status_code for answer in answers} == {422}
    assert api.parts.did == []


async def test_what_is_not_registered_or_removed_cannot_be_changed_or_asked(api: Api) -> None:
    api.parts.racks["gone"] = rack("gone", removed_at=1)
    async with api.of(Role.ADMIN) as client:
        for name in ("nobody", "gone"):
            for step in (*STEPS, "check"):
                answer = await client.post(f"/api/v1/racks/{name}/{step}")
                assert (answer.status_code, answer.json()["error"]) == (404, "not_found")
            assert (await client.delete(f"/api/v1/racks/{name}")).status_code == 404
    assert api.parts.did == []


async def test_a_removed_rack_is_shown_only_to_who_asks_for_it(api: Api) -> None:
    async with api.of(Role.ADMIN) as client:
        removed = await client.delete("/api/v1/racks/stage-left", params={"reason": "sold"})
        listed = await client.get("/api/v1/racks")
        asked = await client.get("/api/v1/racks", params={"status": "removed"})
        shown = await client.get("/api/v1/racks/stage-left")
    assert api.parts.did == [("remove", "stage-left", actor(Role.ADMIN), "sold")]
    assert removed.json()["status"] == shown.json()["status"] == "removed"
    assert shown.json()["removed_at_ns"] == 5
    assert listed.json()["racks"] == []
    assert [entry["name"] for entry in asked.json()["racks"]] == ["stage-left"]


async def test_racks_are_found_by_status_and_by_ban(api: Api) -> None:
    api.parts.racks = {
        "a": rack("a"),
        "b": rack("b", status=PassportStatus.SUSPENDED),
        "banned": rack("banned", machine_id=1),
    }

    async def names(status: str) -> list[str]:
        answer = await client.get("/api/v1/racks", params={"status": status})
        return [entry["name"] for entry in answer.json()["racks"]]

    async with api.of(Role.VIEWER) as client:
        assert await names("suspended") == ["b"]
        assert await names("denied") == ["banned"]
        assert await names("active") == ["a", "banned"]
        wrong = await client.get("/api/v1/racks", params={"status": "asleep"})
    assert (wrong.status_code, wrong.json()["error"]) == (400, "invalid")
    assert "suspended" in wrong.json()["remedy"]


async def test_a_rack_is_shown_whole_and_without_a_secret(api: Api) -> None:
    api.parts.racks["stage-left"] = rack(
        "stage-left",
        machine_id=0xBEEF,
        pending=PendingIssue(b"k" * 32, b"h" * 32, 4, 5, 6, FINGERPRINT, b"der", 7, b"r" * 32),
    )
    api.parts.bans = api.parts.bans.with_denied(denied("machine", "000000000000beef", since=8), now_ns=2)
    api.parts.connections = [LiveConnection("S", 1, "rack:stage-left", FINGERPRINT)]
    async with api.of(Role.VIEWER) as client:
        answer = await client.get("/api/v1/racks/stage-left")
        shown = answer.json()
        api.parts.connections = []
        assert (await client.get("/api/v1/racks/stage-left")).json()["connected"] is False
    assert shown["connected"] is True
    assert shown["certificate_not_after"] == shown["certificate_not_after_ns"] == 1_800_000_000_000_000_000
    assert shown["enrolled_at"] == shown["enrolled_at_ns"] == 1_700_000_000_000_000_000
    assert shown["passport_not_after_ns"] is None
    assert shown["pending"]["serial"] == 4
    assert shown["denied"] == {
        "kind": "machine", "value": "000000000000beef", "since_ns": 8, "reason": "", "actor": "",
    }  # fmt: skip
    for secret in (b"s" * 32, b"h" * 32, b"r" * 32):
        assert secret.hex() not in answer.text


async def test_a_check_says_what_the_rack_proved_and_how_long_it_took(api: Api) -> None:
    async with api.of(Role.OPERATOR) as client:
        shown = (await client.post("/api/v1/racks/stage-left/check")).json()
    assert api.parts.did == [("command", "stage-left", "status", actor(Role.OPERATOR))]
    assert 0 < shown.pop("round_trip_ms") < 5000
    assert shown == {
        "v": 1, "rack": "stage-left", "seq": 7, "result": "done", "reason": "", "boot": BOOT.hex(), "time_ns": 5,
    }  # fmt: skip


async def test_a_rack_that_does_not_answer_is_not_taken_for_a_mixer_that_fails(api: Api) -> None:
    def silence() -> Ack:
        raise CommandUnanswered("stage-left", "did not answer")

    api.parts.ack = silence
    async with api.of(Role.OPERATOR) as client:
        answer = await client.post("/api/v1/racks/stage-left/check")
    assert (answer.status_code, answer.json()["error"]) == (504, "unanswered")


async def test_a_check_does_not_wait_for_ever_behind_other_commands(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object, **__: object) -> Ack:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(api.parts, "send", busy)
    monkeypatch.setattr(rack_routes, "LIMITS", dataclasses.replace(LIMITS, check_wait_s=0.01))
    async with api.of(Role.OPERATOR) as client:
        answer = await client.post("/api/v1/racks/stage-left/check")
    assert (answer.status_code, answer.json()["error"]) == (504, "unanswered")
    assert "other commands" in answer.json()["message"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [("rack", "stage-left"), ("machine", "000000000000beef"), ("certificate", FINGERPRINT)],
)
async def test_a_ban_says_whom_it_hit_even_if_its_connections_ended_before_we_looked(
    api: Api, kind: str, value: str
) -> None:
    api.parts.connections = [
        LiveConnection("S", 1, "rack:stage-left", FINGERPRINT),
        LiveConnection("S", 2, "client:viewer:screen", "sha256:" + "b" * 64),
    ]
    async with api.of(Role.ADMIN) as client:
        answer = await client.post("/api/v1/denied", json={"kind": kind, "value": value, "reason": "stolen"})
    assert api.parts.did == [("deny", kind, value, "stolen", actor(Role.ADMIN))]
    shown = answer.json()
    assert (shown["kicked"], shown["racks"], shown["epoch"], shown["problem"]) == (1, ["stage-left"], 6, "")


async def test_a_ban_stands_although_its_connections_cannot_be_looked_at(api: Api) -> None:
    def away() -> int:
        raise BusError("1 of 2 servers said who is connected")

    api.parts.enforced = away
    async with api.of(Role.ADMIN) as client:
        answer = await client.post("/api/v1/denied", json=BAN)
    assert answer.status_code == 200
    assert (answer.json()["kicked"], answer.json()["problem"]) == (
        None,
        "1 of 2 servers said who is connected",
    )
    assert api.parts.bans.matches(rack="stage-left") is not None


async def test_nobody_bans_the_certificate_they_are_calling_with(api: Api) -> None:
    own = fingerprint(api.certificate(Role.ADMIN))
    async with api.of(Role.ADMIN) as client:
        answer = await client.post(
            "/api/v1/denied", json={"kind": "certificate", "value": own, "reason": "oops"}
        )
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid")
    assert api.parts.did == []


@pytest.mark.parametrize(
    "ban",
    [
        {"kind": "person", "value": "x", "reason": "y"},
        {"kind": "machine", "value": "beef", "reason": "y"},
        {"kind": "certificate", "value": FINGERPRINT.upper(), "reason": "y"},
        {"kind": "rack", "value": "Stage Left", "reason": "y"},
        {"kind": "rack", "value": "stage-left", "reason": ""},
        {"kind": "rack", "value": "stage-left"},
    ],
)
async def test_nonsense_is_not_banned(api: Api, ban: dict[str, str]) -> None:
    async with api.of(Role.ADMIN) as client:
        answer = await client.post("/api/v1/denied", json=ban)
    assert answer.status_code in (400, 422)
    assert api.parts.did == []


async def test_bans_are_listed_with_their_reasons_and_lifted_with_one(api: Api) -> None:
    async with api.of(Role.ADMIN) as client:
        listed = (await client.get("/api/v1/denied")).json()
        cleared = await client.delete("/api/v1/denied/rack/banned", params={"reason": "found"})
        again = await client.delete("/api/v1/denied/rack/banned")
        illegal = await client.delete("/api/v1/denied/person/x")
    assert listed["denied"] == [
        {"kind": "rack", "value": "banned", "since_ns": 9, "reason": "lost", "actor": "spiffe://ops"}
    ]
    assert cleared.json()["epoch"] == listed["epoch"] + 1
    assert api.parts.did == [("clear", "rack", "banned", "found", actor(Role.ADMIN))]
    assert (again.status_code, again.json()["error"]) == (404, "not_found")
    assert illegal.status_code == 400


async def test_tokens_are_listed_without_the_token(api: Api) -> None:
    async with api.of(Role.ADMIN) as client:
        made = (await client.post("/api/v1/tokens", json={"rack": "stage-left"})).json()
        listed = await client.get("/api/v1/tokens")
        revoked = (await client.delete("/api/v1/tokens/ab12")).json()
    assert made["expires_at"] == made["expires_at_ns"] == 5
    assert made["id"] == "ab12"
    assert [token["state"] for token in listed.json()["tokens"]] == ["issued", "expired", "used"]
    assert "sbt-" not in listed.text
    assert (revoked["id"], revoked["state"]) == ("ab12", "revoked")
    assert ("revoke", "ab12", actor(Role.ADMIN)) in api.parts.did


async def test_audit_rows_come_as_they_are_stored_with_the_witness_beside_them(api: Api) -> None:
    async with api.of(Role.OPERATOR) as client:
        answer = await client.get("/api/v1/audit", params={"after": 3, "limit": 1})
        wrong = [
            await client.get("/api/v1/audit", params=params)
            for params in ({"limit": 0}, {"limit": LIMITS.audit_page_rows + 1}, {"after": -1}, {"after": "x"})
        ]
    assert answer.json() == {
        "v": 1,
        "rows": [{"seq": 4, "data": '{"v": 2}'}],
        "last": 42,
        "witness": {"seq": 41, "head": "c" * 64},
    }
    assert {each.status_code for each in wrong} == {422}


async def test_metrics_are_what_prometheus_reads(api: Api) -> None:
    async with api.of(Role.VIEWER) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = answer.text.splitlines()
    assert 'stagebox_rack_certificate_not_after_seconds{rack="stage-left"} 1.8e+09' in lines
    assert "# TYPE stagebox_renewals_total counter" in lines
    assert "stagebox_renewals_total 3.0" in lines
    assert "stagebox_deny_list_epoch 5.0" in lines
    assert "stagebox_audit_last_sequence 42.0" in lines


async def test_a_rack_is_shown_with_its_presence_and_what_it_said_last(api: Api) -> None:
    async with api.of(Role.VIEWER) as client:
        shown = (await client.get("/api/v1/racks/stage-left")).json()
        listed = (await client.get("/api/v1/racks")).json()["racks"][0]
    assert shown["presence"] == listed["presence"] == {"state": "stale", "age_s": 17.5, "last_seen_ns": 7}
    assert shown["heartbeat"]["version"] == "0.1.0"
    assert (shown["heartbeat"]["time_ns"], shown["heartbeat"]["odd"]) == (5, "78")
    assert "heartbeat" not in listed


async def test_a_lease_is_the_callers_and_says_where_the_packets_are(api: Api) -> None:
    async with api.of(Role.VIEWER) as client:
        granted = (await client.post("/api/v1/racks/stage-left/listen", json={"bus": "main"})).json()
        await client.delete(f"/api/v1/racks/stage-left/listen/main/{granted['lease']}")
    assert granted["subject"] == "rack.stage-left.audio.main"
    assert api.parts.did[-2:] == [
        ("listen", "stage-left", "main", 30, actor(Role.VIEWER), None),
        ("release", "stage-left", "main", granted["lease"], actor(Role.VIEWER)),
    ]


async def test_a_rack_that_does_not_send_the_bus_says_why(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> Granted:
        raise ListenRefused("unknown_bus", "rack 'stage-left' has no monitor bus 'x'", remedy="see its buses")

    monkeypatch.setattr(api.parts, "listen", refuse)
    async with api.of(Role.VIEWER) as client:
        answer = await client.post("/api/v1/racks/stage-left/listen", json={"bus": "x"})
    assert (answer.status_code, answer.json()["error"]) == (409, "unknown_bus")
    assert answer.json()["remedy"] == "see its buses"


async def test_a_legal_hold_is_set_listed_and_released_and_each_is_audited(api: Api, lake: Lake) -> None:
    asked = {
        "name": "complaint-7",
        "rack": "stage-left",
        "first": "2026-11-01",
        "last": "",
        "reason": "noise",
    }
    async with api.of(Role.ADMIN) as client:
        made = await client.post("/api/v1/lake/holds", json=asked)
        listed = await client.get("/api/v1/lake/holds")
        assert [hold.name for hold in lake.state().holds] == ["complaint-7"]
        released = await client.delete("/api/v1/lake/holds/complaint-7", params={"reason": "settled"})
        again = await client.delete("/api/v1/lake/holds/complaint-7")
        wrong = await client.post("/api/v1/lake/holds", json={**asked, "first": "November"})
    hold = {**asked, "last": "9999-12-31"}
    assert (made.json(), listed.json()) == ({"v": 1, **hold}, {"v": 1, "holds": [hold]})
    assert (released.status_code, again.status_code, wrong.status_code) == (200, 404, 400)
    assert "is no date" in wrong.json()["message"]
    assert lake.state().holds == ()
    assert [(row.action, row.subject, row.detail) for row in api.parts.rows] == [
        ("lake_hold", "complaint-7", hold),
        ("lake_release", "complaint-7", {}),
    ]


async def test_records_come_as_an_arrow_stream_with_typed_columns(api: Api, lake: Lake) -> None:
    journal = Journal("stage-left", SigningKey(bytes(range(32))))
    for number in (1, 2):
        frame = meter_frame(number, bytes(16), time_ns=number, start=number * 2400, peak=-10.0 * number)
        record = WalRecord("meter", number, "rack.stage-left.meter.main", frame.encode())
        await lake.commit([commit(journal, record)], position=Position(1, number))
    async with api.of(Role.VIEWER) as client:
        kinds = await client.get("/api/v1/lake/kinds")
        answer = await client.get("/api/v1/lake/records/meter", params={"rack": "stage-left"})
        other = await client.get("/api/v1/lake/records/meter", params={"rack": "stage-right"})
    assert kinds.json() == {"v": 1, "kinds": ["meter"]}
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    rows = ipc.open_stream(answer.content).read_all().to_pylist()
    assert [(row["rack"], row["seq"], row["peak"][0]) for row in rows] == [
        ("stage-left", 1, -1000),
        ("stage-left", 2, -2000),
    ]
    assert ipc.open_stream(other.content).read_all().num_rows == 0


# Modules


async def test_what_an_import_says_reaches_the_service_with_the_files_bytes(api: Api) -> None:
    data = bytes(range(256)) * 512  # more than any other route takes
    async with api.of(Role.ADMIN) as client:
        answer = await client.post(
            "/api/v1/modules",
            content=data,
            params={"grant": ["audio", "log"], "allow_older": True, "reason": "why", "epoch_ms": 5},
        )
        plain = await client.post("/api/v1/modules", content=data)
        assert (answer.status_code, plain.status_code) == (200, 200), answer.text
        over = await client.post("/api/v1/modules", content=bytes(FORMAT.max_module_bytes + 1))
        elsewhere = await client.post("/api/v1/modules/stage-left/1.0.0/reissue", content=data)
        async with api.of(Role.OPERATOR) as operator:
            lesser = await operator.post("/api/v1/modules", content=bytes(FORMAT.max_module_bytes + 1))
    assert (over.status_code, elsewhere.status_code, lesser.status_code) == (413, 413, 403)
    said, usual = (step for step in api.parts.did if step[0] == "import")
    limits = dataclasses.replace(LIMITS.module_limits, epoch_ms=5)
    wanted = ImportOptions((Capability.AUDIO, Capability.LOG), limits, allow_older=True, reason="why")
    assert said == ("import", data, wanted, actor(Role.ADMIN))
    assert usual == ("import", data, ImportOptions(), actor(Role.ADMIN))


async def test_a_refused_module_is_answered_with_its_code_and_an_unknown_one_is_not_found(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api.of(Role.ADMIN) as client:
        for code, status in (("bad_signature", 403), ("unknown_key", 403), ("unknown_module", 404)):

            async def refuse(*_args: object, code: str = code, **_options: object) -> Imported:
                raise ModuleError(code, "no", remedy="another")

            monkeypatch.setattr(api.services.modules, "import_module", refuse)
            answer = await client.post("/api/v1/modules", content=b"x")
            assert (answer.status_code, answer.json()) == (
                status, {"error": code, "message": "no", "remedy": "another"},
            )  # fmt: skip


async def test_modules_assignments_and_vendors_are_shown_with_what_they_run_on(api: Api) -> None:
    async with api.of(Role.VIEWER) as client:
        (module,) = (await client.get("/api/v1/modules")).json()["modules"]
        assert (module["name"], module["revoked"], module["digest"]) == ("stage-left", False, "01" * 32)
        (assignment,) = (await client.get("/api/v1/assignments?module=stage-left")).json()["assignments"]
        assert assignment["on"] == [{"rack": "stage-left", "version": "1.0.0"}]
        assert (await client.get("/api/v1/assignments?module=eq")).json()["assignments"] == []
        good, odd = (await client.get("/api/v1/vendors")).json()["vendors"]
        assert (good["owner"], good["revoked"], good["problem"]) == ("tone-works", False, "")
        assert odd == {"file": "odd.toml", "problem": "not TOML", "owner": None}
        api.parts.bans = api.parts.bans.with_denied(denied("vendor", good["key_id"]), now_ns=2)
        (banned, _) = (await client.get("/api/v1/vendors")).json()["vendors"]
        assert banned["revoked"]
        (missing, gone) = [await client.get(f"/api/v1/{kind}/nothing") for kind in ("modules", "assignments")]
        assert (missing.json()["error"], gone.json()["error"]) == ("unknown_module", "unknown_assignment")
