"""Modules at a real mixer: nothing unproved comes in, and what came in reaches exactly the racks it is for.

A real nats-server, the real API with client certificates, a real compiler; the rack is its side of the protocol only.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from nacl.signing import SigningKey

from stagebox import subjects
from stagebox.control.command import AckResult
from stagebox.control.request import Verb
from stagebox.errors import ModuleError
from stagebox.identity import Role
from stagebox.modules.capabilities import Capability
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.params import Param
from stagebox.modules.patch import PatchSheet, Point
from stagebox.modules.statement import key_id
from stagebox.modules.verification import verify_countersigned
from stagebox.records.event import Event
from stagebox.records.status import Status
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.files import ModuleFiles
from stagebox_mixer.modules.model import ModuleEntry
from stagebox_mixer.modules.sweeping import Sweeper
from stagebox_mixer.streams import ASSIGNMENTS_BUCKET, DENIED_BUCKET, MODULES_BUCKET, WASM_OBJECTS
from support.cluster import Cluster, RunningMixer, running_mixer
from support.modules import DAY, Vendor, gain_wat, make_vendor, unsigned_module
from support.patched import BOOT, PatchedRack, patched_rack, signed_now, trust, vendor_now
from support.rackside import until

ADMIN = "spiffe://flux-test/client/admin/test-admin"
PLACE: dict[str, Any] = {"racks": ["*"], "point": "meters", "source": "main"}


@dataclass
class Stage:
    """A mixer that trusts one vendor, and its administrator."""

    mixer: RunningMixer
    admin: httpx.AsyncClient
    vendor: Vendor
    keys: Path
    cluster: Cluster

    @property
    def public(self) -> bytes:
        return self.cluster.keys.authority.public

    async def send(self, data: bytes, **params: Any) -> httpx.Response:
        return await self.admin.post("/api/v1/modules", content=data, params=params)

    async def take(self, data: bytes, **params: Any) -> dict[str, Any]:
        answer = await self.send(data, **params)
        assert answer.status_code == 200, answer.text
        module: dict[str, Any] = answer.json()["module"]
        return module

    async def version(self, version: str, **fields: Any) -> dict[str, Any]:
        return await self.take(signed_now(vendor=self.vendor, version=version, **fields))

    async def assign(self, **fields: Any) -> dict[str, Any]:
        answer = await self.admin.post("/api/v1/assignments", json={"module": "gain", **PLACE, **fields})
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def assignment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.admin.get(f"/api/v1/assignments/{name}")).json()
        return found

    async def state(self) -> dict[str, int]:
        """Return how many messages every bucket of ours has ever taken."""
        found = {}
        for bucket in (MODULES_BUCKET, ASSIGNMENTS_BUCKET, DENIED_BUCKET):
            found[bucket] = (await self.mixer.bus.js.stream_info(f"KV_{bucket}")).state.last_seq
        found[WASM_OBJECTS] = (await self.mixer.bus.js.stream_info(f"OBJ_{WASM_OBJECTS}")).state.last_seq
        return found


@pytest.fixture
async def stage(cluster: Cluster, mixer: RunningMixer) -> AsyncIterator[Stage]:
    vendor, keys = vendor_now(), mixer.settings.vendor_keys
    trust(keys, vendor)
    async with mixer.api(Role.ADMIN) as admin:
        yield Stage(mixer, admin, vendor, keys, cluster)


@pytest.fixture
async def rack(stage: Stage, tmp_path: Path) -> AsyncIterator[PatchedRack]:
    identity = await stage.mixer.enroll(tmp_path / "rack", "stage-left")
    async with patched_rack(identity, stage.cluster.name, stage.public) as connected:
        yield connected


def versions(sheet: PatchSheet | None) -> list[tuple[str, str]]:
    assert sheet is not None
    return [(insert.id, insert.version) for insert in sheet.inserts]


# Import


async def test_a_trusted_vendors_module_comes_in_countersigned_and_byte_for_byte(stage: Stage) -> None:
    file = signed_now(vendor=stage.vendor)
    module = await stage.take(file, reason="for the festival")
    assert (module["name"], module["version"], module["granted"]) == ("gain", "1.0.0", ["audio"])
    assert module["vendor_digest"] == hashlib.sha256(file).hexdigest()
    (row,) = await stage.mixer.audit_rows(action="module_import")
    assert (row["actor"], row["subject"], row["result"]) == (ADMIN, "gain@1.0.0", "ok")
    assert (row["reason"], row["detail"]["vendor"]) == ("for the festival", "tone-works")
    files = ModuleFiles(lambda: stage.mixer.bus.js)
    stored = await files.get(bytes.fromhex(module["digest"]))
    assert stored.startswith(file)
    proved = verify_countersigned(
        stored, cluster=stage.cluster.name, cluster_public=stage.public, now_ns=time.time_ns()
    )
    assert proved.cluster.serial == module["serial"]
    assert [param["name"] for param in module["params"]] == ["gain"]
    async with stage.mixer.api(Role.VIEWER) as viewer:
        assert (await viewer.get("/api/v1/modules")).json()["modules"] == [module]
        assert (await viewer.get("/api/v1/modules/gain")).json()["versions"] == [module]
        refused = await viewer.post("/api/v1/modules", content=file)
    assert refused.status_code == 403


def altered(file: bytes, at: int) -> bytes:
    return file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :]


STRANGER = make_vendor(7, owner="stranger")
Made = Callable[[Vendor], bytes]
REFUSED: list[tuple[str, Made]] = [
    ("missing_signature", lambda vendor: unsigned_module()),
    ("unknown_key", lambda vendor: signed_now(vendor=STRANGER)),
    ("wrong_digest", lambda vendor: altered(signed_now(vendor=vendor), 200)),
    ("bad_signature", lambda vendor: altered(signed_now(vendor=vendor), len(signed_now(vendor=vendor)) - 1)),
    ("trailing_section", lambda vendor: signed_now(vendor=vendor) + b"\x00\x02\x01x"),
    ("overrun", lambda vendor: signed_now(vendor=vendor)[:-1]),
    ("bad_preamble", lambda vendor: b""),
    ("expired", lambda vendor: signed_now(vendor=vendor, life=3_599 * 10**9)),
    ("not_yet_valid", lambda vendor: signed_now(vendor=vendor, issued=time.time_ns() + DAY, life=3 * DAY)),
    ("capability_not_allowed", lambda vendor: signed_now(vendor=vendor, capabilities=tuple(Capability))),
    ("name_not_allowed", lambda vendor: signed_now(vendor=vendor, name="compressor")),
    (
        "unknown_import",
        lambda vendor: signed_now(
            unsigned_module(gain_wat(imports='(import "env" "abort" (func))')), vendor=vendor
        ),
    ),
    (
        "import_not_granted",
        lambda vendor: signed_now(
            unsigned_module(gain_wat(imports='(import "stagebox" "now" (func (result i64)))')), vendor=vendor
        ),
    ),
    ("memory_too_large", lambda vendor: signed_now(unsigned_module(gain_wat(pages=300)), vendor=vendor)),
    # An operator that does not fit its operands: only a compiler sees that.
    (
        "does_not_compile",
        lambda vendor: signed_now(unsigned_module().replace(b"\x94", b"\x6a"), vendor=vendor),
    ),
]


@pytest.mark.parametrize(("code", "make"), REFUSED, ids=[code for code, _ in REFUSED])
async def test_what_is_not_proved_is_refused_audited_with_its_reason_and_changes_nothing(
    stage: Stage, code: str, make: Made
) -> None:
    trust(stage.keys, stage.vendor, capabilities=(Capability.AUDIO, Capability.LOG), modules=("gain*",))
    before = await stage.state()
    data = make(stage.vendor)
    answer = await stage.send(data)
    assert (answer.status_code, answer.json()["error"]) == (403, code), answer.text
    row = await stage.mixer.wait_audit(action="module_import")
    assert (row["actor"], row["result"], row["reason"]) == (ADMIN, "refused", code)
    assert row["subject"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert await stage.state() == before


async def test_a_file_with_any_byte_flipped_is_refused(stage: Stage) -> None:
    file, before = signed_now(vendor=stage.vendor), await stage.state()
    for at in range(0, len(file), max(1, len(file) // 40)):
        answer = await stage.send(altered(file, at))
        assert answer.status_code == 403, at
    assert await stage.state() == before
    await stage.take(file)


async def test_a_countersigned_file_is_no_file_to_import(stage: Stage) -> None:
    module = await stage.version("1.0.0")
    stored = await ModuleFiles(lambda: stage.mixer.bus.js).get(bytes.fromhex(module["digest"]))
    answer = await stage.send(stored)
    assert answer.json()["error"] == "already_countersigned"


async def test_a_file_over_the_limit_is_refused_before_it_is_read(stage: Stage) -> None:
    before = await stage.state()
    answer = await stage.send(b"\0" * (FORMAT.max_module_bytes + 1))
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    row = await stage.mixer.wait_audit(action="module_import")
    assert (row["actor"], row["subject"], row["result"], row["reason"]) == (
        ADMIN, "unread", "refused", "too_large",
    )  # fmt: skip
    assert row["detail"]["bytes"] == FORMAT.max_module_bytes + 1
    assert await stage.state() == before
    # Elsewhere the limit is what it was.
    answer = await stage.admin.post("/api/v1/assignments", content=b" " * (65 << 10))
    assert answer.status_code == 413


async def test_the_same_file_again_changes_nothing_and_another_one_of_that_version_is_refused(
    stage: Stage,
) -> None:
    file = signed_now(vendor=stage.vendor)
    module, before = await stage.take(file), await stage.state()
    again = (await stage.send(file)).json()
    assert (again["new"], again["module"]) == (False, module)
    other = await stage.send(signed_now(vendor=stage.vendor, signer="the night shift"))
    assert other.json()["error"] == "version_exists"
    # Nor does it get other rights by coming twice.
    assert (await stage.send(file, memory_bytes=1 << 20)).json()["error"] == "already_imported"
    assert await stage.state() == before
    assert len(await stage.mixer.audit_rows(action="module_import", result="ok")) == 1


async def test_an_older_version_comes_in_only_if_that_is_meant(stage: Stage) -> None:
    await stage.version("1.10.0")
    older = signed_now(vendor=stage.vendor, version="1.9.0")
    assert (await stage.send(older)).json()["error"] == "older_version"
    taken = await stage.take(older, allow_older=True)
    newer = await stage.version("1.10.1")
    assert newer["serial"] > taken["serial"]


async def test_a_name_belongs_to_the_vendor_who_had_it_first(stage: Stage) -> None:
    await stage.version("1.0.0")
    other = vendor_now(2, owner="night-owls")
    trust(stage.keys, other)
    answer = await stage.send(signed_now(vendor=other, version="2.0.0"))
    assert answer.json()["error"] == "name_taken"


async def test_less_can_be_granted_than_is_asked_for_and_never_more(stage: Stage) -> None:
    file = signed_now(vendor=stage.vendor, capabilities=(Capability.AUDIO, Capability.LOG))
    module = await stage.take(file, grant=["audio"], memory_bytes=2 << 20)
    assert (module["capabilities"], module["granted"]) == (["audio", "log"], ["audio"])
    assert module["limits"]["memory_bytes"] == 2 << 20
    other = signed_now(vendor=stage.vendor, version="1.1.0")
    assert (await stage.send(other, grant=["audio", "emit"])).json()["error"] == "capability_not_allowed"
    too_much = await stage.send(other, memory_bytes=FORMAT.memory_bytes + 1)
    assert too_much.json()["error"] == "limit_not_allowed"
    assert (await stage.send(other, grant=["telepathy"])).status_code == 400


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ({"grant": ["telepathy"]}, 400, "invalid"),
        ({"grant": [""]}, 400, "invalid"),
        ({"memory_bytes": -1}, 403, "limit_not_allowed"),
        ({"fuel_per_block": 1 << 70}, 403, "limit_not_allowed"),
        ({"grant": ["emit"]}, 403, "capability_not_allowed"),
    ],
)
async def test_a_bad_value_beside_a_good_file_is_refused_and_audited_as_the_file_is(
    stage: Stage, said: dict[str, Any], status: int, code: str
) -> None:
    file, before = signed_now(vendor=stage.vendor), await stage.state()
    answer = await stage.send(file, **said)
    assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
    row = await stage.mixer.wait_audit(action="module_import")
    assert (row["actor"], row["result"], row["reason"]) == (ADMIN, "refused", code)
    assert row["subject"] == f"sha256:{hashlib.sha256(file).hexdigest()}"
    assert row["detail"]["message"] == answer.json()["message"]
    assert await stage.state() == before


async def test_a_file_that_was_lost_comes_back_and_the_answer_says_so(stage: Stage) -> None:
    file = signed_now(vendor=stage.vendor)
    module = await stage.take(file)
    assert (await stage.send(file)).json()["repaired"] is False
    store = await stage.mixer.bus.js.object_store(WASM_OBJECTS)
    await store.delete(module["digest"])
    answer = (await stage.send(file)).json()
    assert (answer["new"], answer["repaired"]) == (False, True)
    assert answer["module"]["serial"] > module["serial"]
    await ModuleFiles(lambda: stage.mixer.bus.js).check(bytes.fromhex(answer["module"]["digest"]))


# Vendors


async def test_a_change_of_the_vendors_directory_counts_from_the_next_import_on(stage: Stage) -> None:
    other = vendor_now(2, owner="night-owls")
    file = signed_now(vendor=other, name="owl")
    assert (await stage.send(file)).json()["error"] == "unknown_key"
    path = trust(stage.keys, other)
    path.chmod(0o666)
    assert (await stage.send(file)).json()["error"] == "unknown_key"
    listed = (await stage.admin.get("/api/v1/vendors")).json()["vendors"]
    assert [(item["file"], bool(item["problem"])) for item in listed] == [
        ("night-owls.toml", True),
        ("tone-works.toml", False),
    ]
    path.chmod(0o600)
    await stage.take(file)
    trust(stage.keys, other, revoked=True, reason="sold")
    newer = signed_now(vendor=other, name="owl", version="2.0.0")
    assert (await stage.send(newer)).json()["error"] == "revoked_key"
    path.unlink()
    assert (await stage.send(newer)).json()["error"] == "unknown_key"


async def test_a_revoked_vendor_is_revoked_whatever_its_file_says(stage: Stage, rack: PatchedRack) -> None:
    await stage.version("1.0.0")
    await stage.assign(version="1.0.0", id="eq")
    assert versions(await rack.told()) == [("eq", "1.0.0")]
    path = f"/api/v1/vendors/{stage.vendor.root.owner}/revoke"
    answer = (await stage.admin.post(path, json={"reason": "key stolen"})).json()
    assert answer["keys"] == [stage.vendor.root.key_id.hex()]
    assert [module["version"] for module in answer["modules"]] == ["1.0.0"]
    denied = await rack.banned(1.0)
    assert denied.matches_module((), (stage.vendor.root.key_id,)) is not None
    assert versions(await rack.told()) == []
    refused = await stage.send(signed_now(vendor=stage.vendor, version="2.0.0"))
    assert refused.json()["error"] == "revoked_key"
    (row,) = await stage.mixer.audit_rows(action="module_vendor_revoke")
    assert (row["reason"], row["subject"]) == ("key stolen", "tone-works")
    (vendor,) = (await stage.admin.get("/api/v1/vendors")).json()["vendors"]
    assert vendor["revoked"]


# Assignments and sheets


async def test_an_assignment_is_on_the_sheet_of_the_racks_it_is_for(stage: Stage, rack: PatchedRack) -> None:
    module = await stage.version("1.0.0")
    empty = await rack.sheet()
    assert versions(empty) == []
    made = await stage.assign(
        version="1.0.0", id="eq", racks=["stage-*"], params={"gain": 0.5}, reason="soundcheck"
    )
    assert made["on"] == [{"rack": "stage-left", "version": "1.0.0"}]
    sheet = await rack.told()
    assert empty is not None
    assert sheet.serial > empty.serial
    (insert,) = sheet.inserts
    assert (insert.id, insert.point, insert.source, insert.bus) == ("eq", Point.METERS, "main", "")
    assert (insert.digest.hex(), insert.size) == (module["digest"], module["size"])
    assert insert.params == {"gain": 0.5}
    # It asks on connecting, and is not sent again what it has.
    assert await rack.sheet(sheet.serial) is None
    again = await rack.sheet(0)
    assert again is not None
    assert again.inserts == sheet.inserts
    assert again.serial > sheet.serial
    (row,) = await stage.mixer.audit_rows(action="module_assign")
    assert (row["actor"], row["subject"], row["reason"]) == (ADMIN, "eq", "soundcheck")
    await stage.admin.delete("/api/v1/assignments/eq", params={"reason": "over"})
    assert (await rack.told()).inserts == ()
    assert [row["reason"] for row in await stage.mixer.audit_rows(action="module_unassign")] == ["over"]
    gone = await stage.admin.get("/api/v1/assignments/eq")
    assert (gone.status_code, gone.json()["error"]) == (404, "unknown_assignment")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"params": {"gain": 4.5}}, "its range is"),
        ({"params": {"treble": 1}}, "no parameter"),
        ({"source": ""}, "source name"),
        ({"bus": "main"}, "no bus"),
        ({"point": "monitor"}, "bus name"),
        ({"point": "telemetry", "source": ""}, "not granted telemetry"),
        ({"point": "kitchen"}, "no point"),
        ({"percent": 101}, "percentage"),
        ({"racks": []}, "name 1 to"),
        ({"racks": ["stage/*"]}, "matches no rack"),
        ({"id": "not a name"}, "assignment name"),
    ],
)
async def test_an_assignment_that_makes_no_sense_is_refused_and_changes_nothing(
    stage: Stage, fields: dict[str, Any], words: str
) -> None:
    await stage.version("1.0.0")
    before = await stage.state()
    body = {"module": "gain", "version": "1.0.0", **PLACE, **fields}
    answer = await stage.admin.post("/api/v1/assignments", json=body)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid"), answer.text
    assert words in answer.json()["message"]
    assert await stage.state() == before


async def test_what_was_not_imported_cannot_be_assigned(stage: Stage) -> None:
    body = {"module": "gain", "version": "1.0.0", **PLACE}
    answer = await stage.admin.post("/api/v1/assignments", json=body)
    assert (answer.status_code, answer.json()["error"]) == (404, "unknown_module")


async def test_a_rollout_reaches_the_same_racks_at_every_look_and_more_with_a_higher_percentage(
    stage: Stage, tmp_path: Path
) -> None:
    for number in range(12):
        await stage.mixer.create_token(f"rack-{number}")
        await stage.mixer.enroll(tmp_path / str(number), f"rack-{number}", machine=number + 1)
    for version in ("1.0.0", "2.0.0"):
        await stage.version(version)
    await stage.assign(version="1.0.0", id="eq")

    async def new(percent: int) -> set[str]:
        made = await stage.assign(version="2.0.0", id="eq", percent=percent)
        assert len(made["on"]) == 12
        assert made["previous"] == "1.0.0"
        return {item["rack"] for item in made["on"] if item["version"] == "2.0.0"}

    some = await new(40)
    assert some == await new(40)
    assert 0 < len(some) < 12
    assert some < await new(80)
    assert len(await new(100)) == 12
    assert await new(0) == set()


async def test_a_module_on_its_way_is_read_in_pieces_and_is_the_file_that_was_countersigned(
    stage: Stage, rack: PatchedRack
) -> None:
    padding = Param("gain", 0, 0.0, 4.0, 1.0, "")
    wasm = unsigned_module(gain_wat(extra=f'(data (i32.const 0) "{"x" * 300_000}")'), params=(padding,))
    module = await stage.take(signed_now(wasm, vendor=stage.vendor))
    assert module["size"] > FORMAT.module_chunk_bytes
    await stage.assign(version="1.0.0")
    (insert,) = (await rack.told()).inserts
    data = await rack.fetch(insert.digest)
    assert hashlib.sha256(data).digest() == insert.digest
    verify_countersigned(data, cluster=stage.cluster.name, cluster_public=stage.public, now_ns=time.time_ns())


async def test_a_rack_gets_no_file_that_is_not_on_its_sheet(stage: Stage, rack: PatchedRack) -> None:
    module = await stage.version("1.0.0")
    digest = bytes.fromhex(module["digest"])

    async def error(**body: Any) -> str:
        return (await rack.ask(Verb.MODULE, {"Digest": digest, "Offset": 0, **body})).error

    assert await error() == "not_assigned"
    assert await error(Digest=bytes(32)) == "unknown_module"
    assert await error(Digest=b"x") == "malformed"
    await stage.assign(version="1.0.0", id="eq")
    await rack.told()
    assert await error() == ""
    assert await error(Offset=1 << 40) == "malformed"
    await stage.admin.delete("/api/v1/assignments/eq")
    await rack.told()
    assert await error() == "not_assigned"
    await stage.admin.post("/api/v1/modules/gain/1.0.0/revoke", json={"reason": "backdoor"})
    assert await error() == "revoked"
    row = await stage.mixer.wait_audit(action="module", reason="not_assigned")
    assert (row["actor"], row["result"]) == (rack.identity.passport.rack_id.uri, "refused")


async def test_a_denied_suspended_or_foreign_rack_gets_nothing(stage: Stage, rack: PatchedRack) -> None:
    module = await stage.version("1.0.0")
    await stage.assign(version="1.0.0")
    await rack.told()
    piece = {"Digest": bytes.fromhex(module["digest"]), "Offset": 0}
    forged = await rack.ask(Verb.MODULE, piece, key=SigningKey.generate())
    assert (forged.error, forged.body) == ("signature", {})
    for step, code in (("suspend", "not_active"), ("activate", "")):
        await change_status(stage, rack.name, "suspended" if step == "suspend" else "active")
        for verb, body in ((Verb.PATCH, {"Serial": 0}), (Verb.MODULE, piece)):
            answer = await rack.ask(verb, body)
            assert answer.error == code
            assert bool(answer.body) is not bool(code)
    # Denied past the enforcer, which would end the connection first: the answer alone must hold.
    members = stage.mixer.mixer._membership
    assert members is not None
    members.denials.changed = lambda _: None
    await members.denials.deny("rack", rack.name, reason="stolen", actor=ADMIN)
    for verb, body in ((Verb.PATCH, {"Serial": 0}), (Verb.MODULE, piece)):
        answer = await rack.ask(verb, body)
        assert (answer.error, answer.body) == ("denied", {})


async def change_status(stage: Stage, name: str, status: str) -> None:
    """Change it in the registry alone: the enforcer would move the connection to other rights."""
    stored = await stage.mixer.registry.racks.get(name)
    # The observer of the tests is in the mixer's account, so it may write where the mixer does.
    assert stored is not None
    entry = replace(stored.entry, status=type(stored.entry.status)(status))
    await stage.mixer.registry.racks.put(name, entry, revision=stored.revision)


async def test_a_file_that_was_altered_in_the_store_is_handed_to_nobody(
    stage: Stage, rack: PatchedRack
) -> None:
    module = await stage.version("1.0.0")
    await stage.assign(version="1.0.0")
    (insert,) = (await rack.told()).inserts
    objects = await stage.mixer.bus.js.object_store(WASM_OBJECTS)
    file = (await objects.get(module["digest"])).data
    assert file is not None
    await objects.put(module["digest"], altered(bytes(file), 200))
    answer = await rack.ask(Verb.MODULE, {"Digest": insert.digest, "Offset": 0})
    assert (answer.error, answer.body) == ("wrong_digest", {})
    await objects.delete(module["digest"])
    answer = await rack.ask(Verb.MODULE, {"Digest": insert.digest, "Offset": 0})
    assert answer.error == "unknown_module"


async def test_a_file_that_was_lost_comes_back_with_the_vendors_and_reaches_the_racks(
    stage: Stage, rack: PatchedRack
) -> None:
    file = signed_now(vendor=stage.vendor)
    module = await stage.take(file)
    await stage.assign(version="1.0.0")
    await rack.told()
    await (await stage.mixer.bus.js.object_store(WASM_OBJECTS)).delete(module["digest"])
    again = await stage.take(file)
    assert (again["digest"] != module["digest"], again["vendor_digest"]) == (True, module["vendor_digest"])
    (insert,) = (await rack.told()).inserts
    assert insert.digest.hex() == again["digest"]
    assert (await rack.fetch(insert.digest)).startswith(file)


async def test_what_is_countersigned_again_leaves_another_version_on_the_same_rack_running(
    stage: Stage, rack: PatchedRack
) -> None:
    await stage.version("1.0.0")
    await stage.version("2.0.0")
    await stage.assign(version="1.0.0", id="eq")
    await stage.assign(version="2.0.0", id="room", source="room")
    before = await rack.sheet()
    answer = await stage.admin.post("/api/v1/modules/gain/2.0.0/reissue", json={"reason": "lost floors"})
    assert answer.status_code == 200, answer.text
    after = await rack.sheet()
    assert before is not None
    assert after is not None
    serials = []
    for insert in after.inserts:
        file = await rack.fetch(insert.digest)
        found = verify_countersigned(
            file, cluster=stage.cluster.name, cluster_public=stage.public, now_ns=time.time_ns()
        )
        serials.append(found.cluster.serial)
    assert len(serials) == 2
    assert len(set(serials)) == 1, "the rack would refuse the one of the lower serial"
    assert {insert.digest for insert in before.inserts}.isdisjoint(insert.digest for insert in after.inserts)


# Files that nothing needs


class Sweeping:
    """A sweeper of the running mixer's, by a clock of its own."""

    def __init__(self, stage: Stage) -> None:
        members = stage.mixer.mixer._membership
        assert members is not None
        modules = members.modules
        self.js = stage.mixer.bus.js
        self.now = 0.0
        self._sweeper = Sweeper(modules._store, modules._importer._lock, monotonic=lambda: self.now)

    async def long_enough(self) -> None:
        """Look until whatever is not needed has not been for as long as it takes."""
        await self._sweeper.sweep()
        self.now += LIMITS.module_unneeded_s
        await self._sweeper.sweep()

    async def subjects(self) -> set[str]:
        """Return where anything is stored."""
        info = await self.js.stream_info(f"OBJ_{WASM_OBJECTS}", subjects_filter=">")
        return set(info.state.subjects or {})


async def test_a_file_of_before_goes_once_no_rack_may_fetch_it_and_all_others_stay(
    stage: Stage, rack: PatchedRack
) -> None:
    for version in ("1.0.0", "2.0.0"):
        await stage.version(version)
        await stage.assign(version=version, id="eq")
        (before,) = (await rack.told()).inserts
    sweeping = Sweeping(stage)
    stored = await sweeping.subjects()
    await stage.admin.post("/api/v1/modules/gain/2.0.0/reissue", json={})
    await sweeping.long_enough()
    held = await sweeping.subjects()
    assert (len(held), len(held & stored)) == (4, 2), "each file is its pieces and where they are"
    files = ModuleFiles(lambda: stage.mixer.bus.js)
    with pytest.raises(ModuleError):
        await files.check(before.digest)
    # What the rack is to run is there, and what it may go back to.
    sheet = await rack.sheet()
    assert sheet is not None
    (insert,) = sheet.inserts
    assert await rack.fetch(insert.digest)
    rack.complain("module.stopped", module="gain", version="2.0.0", insert="eq", code="trap")
    await until(lambda: rolled_back(stage, "eq"))
    sheet = await rack.sheet()
    assert sheet is not None
    assert versions(sheet) == [("eq", "1.0.0")]
    assert await rack.fetch(sheet.inserts[0].digest)


async def test_what_a_crash_left_half_done_goes_and_what_is_not_ours_stays(stage: Stage) -> None:
    module = await stage.version("1.0.0")
    sweeping = Sweeping(stage)
    objects = await sweeping.js.object_store(WASM_OBJECTS)
    await objects.put("README", b"of somebody who looks after this store")
    kept = await sweeping.subjects()
    # Between the pieces and their name; between the file and its entry; in the middle of a removal.
    await sweeping.js.publish(f"$O.{WASM_OBJECTS}.C.halfway", b"piece")
    files = ModuleFiles(lambda: sweeping.js)
    await files.put(b"never entered")
    halved = await objects.put(hashlib.sha256(b"halved").hexdigest(), b"halved")
    await sweeping.js.purge_stream(f"OBJ_{WASM_OBJECTS}", subject=f"$O.{WASM_OBJECTS}.C.{halved.nuid}")
    assert len(await sweeping.subjects()) == len(kept) + 4
    await sweeping.long_enough()
    assert await sweeping.subjects() == kept
    await files.check(bytes.fromhex(module["digest"]))


# Rollback


@pytest.mark.parametrize("how", ["alert", "heartbeat"])
async def test_a_rack_takes_nothing_back_in_the_name_of_another(
    stage: Stage, rack: PatchedRack, tmp_path: Path, how: str
) -> None:
    module = await stage.version("1.0.0")
    for name in ("eq", "room"):
        await stage.assign(version="1.0.0", id=name, racks=["stage-left"])
    await rack.sheet()
    fault = {
        "module": "gain", "version": "1.0.0", "insert": "eq", "code": "trap", "digest": module["digest"],
    }  # fmt: skip
    body = {"modules": [{**fault, "state": "stopped"}]}
    forged = {
        "alert": Event(1, BOOT, time.time_ns(), "module.stopped", fault).encode(),
        "heartbeat": Status(1, BOOT, time.time_ns(), "running", body).encode(),
    }[how]
    members = stage.mixer.mixer._membership
    assert members is not None
    watch, presence = members.modules.watch, members.presence

    async def heard() -> bool:
        return bool(watch.faults + watch.malformed + presence.malformed)

    identity = await stage.mixer.enroll(tmp_path / "other", "stage-right")
    async with patched_rack(identity, stage.cluster.name, stage.public) as other:
        # nats-server does not look at the subject an answer is wanted on, and JetStream answers there.
        await other.bus.request(subjects.wal("stage-right"), forged)
        subject = subjects.alert("stage-left") if how == "alert" else subjects.status("stage-left")
        own = f"$JS.API.DIRECT.GET.WAL.{subjects.wal('stage-right')}"
        assert other.bus.publish(own, b"", reply=subject)
        await until(heard)
    rack.complain("module.stopped", **{**fault, "insert": "room"})
    await until(lambda: rolled_back(stage, "room"))  # what was heard before has been acted on
    assert (await stage.assignment("eq"))["state"] == "active"


async def rolled_back(stage: Stage, name: str) -> bool:
    return bool((await stage.assignment(name))["state"] == "rolled_back")


@pytest.mark.parametrize("how", ["rejected", "stopped", "heartbeat"])
async def test_a_new_version_that_fails_on_a_rack_goes_back_everywhere(
    stage: Stage, rack: PatchedRack, how: str
) -> None:
    first = await stage.version("1.0.0")
    second = await stage.version("2.0.0")
    await stage.assign(version="1.0.0", id="eq")
    assert versions(await rack.told()) == [("eq", "1.0.0")]
    await stage.assign(version="2.0.0", id="eq")
    sheet = await rack.told()
    assert versions(sheet) == [("eq", "2.0.0")]
    fault = {"module": "gain", "version": "2.0.0", "insert": "eq", "code": "trap", "digest": second["digest"]}
    if how == "heartbeat":
        await until(lambda: taken(stage, rack.name, sheet.serial))
        rack.beat({**fault, "state": "stopped"})
    else:
        rack.complain(f"module.{how}", **fault, reason="unreachable")
    back = await rack.told()
    (insert,) = back.inserts
    assert (insert.version, back.serial > sheet.serial) == ("1.0.0", True)
    # Countersigned again: under the old serial the rack would take it for a replay.
    file = await rack.fetch(insert.digest)
    again = verify_countersigned(
        file, cluster=stage.cluster.name, cluster_public=stage.public, now_ns=time.time_ns()
    )
    assert again.cluster.serial >= second["serial"] > first["serial"]
    found = await stage.assignment("eq")
    assert (found["state"], found["previous"], found["reason"]) == (
        "rolled_back", "1.0.0", "trap on stage-left",
    )  # fmt: skip
    (row,) = await stage.mixer.audit_rows(action="module_rollback")
    assert (row["actor"], row["subject"], row["reason"]) == ("mixer", "eq", "trap")
    assert (row["detail"]["rack"], row["detail"]["previous"]) == ("stage-left", "1.0.0")
    assert len(await stage.mixer.audit_rows(action="module_reissue")) == 1
    # Assigned again it is tried again.
    retried = await stage.assign(version="2.0.0", id="eq")
    assert (retried["state"], retried["previous"]) == ("active", "1.0.0")
    assert versions(await rack.told()) == [("eq", "2.0.0")]


async def taken(stage: Stage, rack: str, serial: int) -> bool:
    members = stage.mixer.mixer._membership
    assert members is not None
    last = members.modules._sheets.last(rack)
    return last is not None and last.taken and last.sheet.serial == serial


async def test_a_first_version_that_fails_is_taken_away(stage: Stage, rack: PatchedRack) -> None:
    await stage.version("1.0.0")
    await stage.assign(version="1.0.0", id="eq")
    await rack.told()
    rack.complain("module.stopped", module="gain", version="1.0.0", insert="eq", code="trap", reason="")
    assert (await rack.told()).inserts == ()
    assert (await stage.assignment("eq"))["state"] == "rolled_back"


@pytest.mark.parametrize(
    "fault",
    [
        {"version": "1.0.0"},
        {"module": "limiter"},
        {"insert": "another"},
        {"digest": "00" * 32},
        {"code": "denied"},
        {"code": "expired"},
        {"code": 5},
    ],
)
async def test_what_is_not_the_new_versions_fault_takes_nothing_back(
    stage: Stage, rack: PatchedRack, fault: dict[str, Any]
) -> None:
    for version in ("1.0.0", "2.0.0"):
        await stage.version(version)
        await stage.assign(version=version, id="eq")
        await rack.told()
    told = {"module": "gain", "version": "2.0.0", "insert": "eq", "code": "trap", **fault}
    rack.complain("module.stopped", **told)
    # Faults are taken in turn: when the second one is through, the first one was looked at.
    await stage.version("1.0.0", name="other")
    await stage.assign(module="other", version="1.0.0", id="other", source="second")
    await rack.told()
    rack.complain("module.stopped", module="other", version="1.0.0", insert="other", code="trap")
    assert versions(await rack.told()) == [("eq", "2.0.0")]
    assert (await stage.assignment("eq"))["state"] == "active"


async def test_a_rack_that_does_not_take_a_sheet_hinders_nobody(stage: Stage, rack: PatchedRack) -> None:
    await stage.version("1.0.0")
    rack.result = AckResult.REFUSED
    await stage.assign(version="1.0.0", id="eq")
    await rack.told()
    row = await stage.mixer.wait_audit(action="command_ack", result="refused")
    assert row["detail"]["verb"] == "patch"
    rack.result = AckResult.DONE
    await stage.admin.delete("/api/v1/assignments/eq")
    assert (await rack.told()).inserts == ()


async def test_two_versions_on_one_rack_carry_one_serial(stage: Stage, rack: PatchedRack) -> None:
    await stage.version("1.0.0")
    await stage.assign(version="1.0.0", id="left", source="main")
    await rack.told()
    second = await stage.version("2.0.0")
    await stage.assign(version="2.0.0", id="right", source="second")
    sheet = await rack.told()
    assert versions(sheet) == [("left", "1.0.0"), ("right", "2.0.0")]
    serials = set()
    for insert in sheet.inserts:
        file = verify_countersigned(
            await rack.fetch(insert.digest),
            cluster=stage.cluster.name, cluster_public=stage.public, now_ns=time.time_ns(),
        )  # fmt: skip
        serials.add(file.cluster.serial)
    assert serials == {second["serial"]}


# Revocation


async def test_a_revocation_reaches_a_connected_rack_within_a_second(stage: Stage, rack: PatchedRack) -> None:
    module = await stage.version("1.0.0")
    await stage.assign(version="1.0.0", id="eq")
    assert versions(await rack.told()) == [("eq", "1.0.0")]
    began = time.monotonic()
    asked = asyncio.create_task(
        stage.admin.post("/api/v1/modules/gain/1.0.0/revoke", json={"reason": "backdoor"})
    )
    denied = await rack.banned(1.0)
    assert time.monotonic() - began < 1.0
    # Whatever countersignature a rack has: the vendor's bytes are in each.
    assert denied.matches_module((bytes.fromhex(module["vendor_digest"]),), ()) is not None
    assert versions(await rack.told(1.0)) == []
    answer = (await asked).json()
    final = await rack.banned()
    assert final.matches_module((bytes.fromhex(module["digest"]),), ()) is not None
    assert final.epoch == answer["epoch"]
    shown = (await stage.admin.get("/api/v1/modules/gain")).json()["versions"][0]
    assert (shown["revoked"], shown["revoked_reason"], shown["revoked_by"]) == (True, "backdoor", ADMIN)
    (row,) = await stage.mixer.audit_rows(action="module_revoke")
    assert (row["subject"], row["reason"]) == ("gain@1.0.0", "backdoor")
    for path, body in (
        ("/api/v1/assignments", {"module": "gain", "version": "1.0.0", **PLACE}),
        ("/api/v1/modules/gain/1.0.0/reissue", {}),
    ):
        assert (await stage.admin.post(path, json=body)).json()["error"] == "revoked"


async def test_a_revocation_is_final_and_no_ban_of_a_rack(stage: Stage) -> None:
    module = await stage.version("1.0.0")
    value = f"sha256:{module['vendor_digest']}"
    for kind, what in (("module", value), ("vendor", key_id(stage.vendor.root.public).hex())):
        body = {"kind": kind, "value": what, "reason": "x"}
        assert (await stage.admin.post("/api/v1/denied", json=body)).status_code == 400
        assert (await stage.admin.delete(f"/api/v1/denied/{kind}/{what}")).status_code == 400
    await stage.admin.post("/api/v1/modules/gain/1.0.0/revoke", json={"reason": "backdoor"})
    denied = (await stage.admin.get("/api/v1/denied")).json()["denied"]
    assert {(item["kind"], item["reason"]) for item in denied} == {("module", "backdoor")}
    assert (await stage.admin.delete(f"/api/v1/denied/module/{value}")).status_code == 400
    file = signed_now(vendor=stage.vendor)
    assert (await stage.send(file)).json()["error"] == "version_exists"


async def test_modules_assignments_and_revocations_survive_a_restart(
    cluster: Cluster, tmp_path: Path
) -> None:
    vendor = vendor_now()
    async with running_mixer(cluster, tmp_path / "data") as mixer, mixer.api(Role.ADMIN) as admin:
        stage = Stage(mixer, admin, vendor, mixer.settings.vendor_keys, cluster)
        trust(stage.keys, vendor)
        identity = await mixer.enroll(tmp_path / "rack", "stage-left")
        for version in ("1.0.0", "2.0.0"):
            await stage.version(version)
            await stage.assign(version=version, id=f"eq-{version[0]}", source=f"source-{version[0]}")
        await admin.post("/api/v1/modules/gain/1.0.0/revoke", json={"reason": "backdoor"})
    async with (
        running_mixer(cluster, tmp_path / "data", snake_port=identity_port(identity.servers)) as mixer,
        patched_rack(identity, cluster.name, cluster.keys.authority.public) as rack,
    ):
        sheet = await rack.sheet()
        assert versions(sheet) == [("eq-2", "2.0.0")]
        assert sheet is not None
        assert await rack.fetch(sheet.inserts[0].digest)


def identity_port(servers: tuple[str, ...]) -> int:
    return int(servers[0].rpartition(":")[2])


async def test_an_entry_written_past_the_mixer_is_still_only_what_its_bytes_say(stage: Stage) -> None:
    """Whoever can write the store can name another file; what racks believe is in the file alone."""
    module = await stage.version("1.0.0")
    bucket = await stage.mixer.bus.js.key_value(MODULES_BUCKET)
    found = await bucket.get("gain.1.0.0")
    assert found.value is not None
    entry = ModuleEntry.decode(found.value)
    await bucket.put("gain.1.0.0", replace(entry, digest=bytes(32)).encode())
    answer = await stage.admin.post("/api/v1/modules/gain/1.0.0/reissue", json={})
    assert answer.json()["error"] == "unknown_module"
    assert module["digest"] == entry.digest.hex()
