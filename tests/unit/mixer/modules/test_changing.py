"""Import, assignment, rollback and revocation where something fails: rows stand first, and nothing is half done."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Generic, TypeVar, cast

import pytest

from stagebox.control.denylist import DenyList, denied, module_value
from stagebox.errors import BusError, InputError, ModuleError
from stagebox.modules.capabilities import Capability
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.patch import Point
from stagebox.modules.statement import ModuleLimits
from stagebox.modules.verification import verify_countersigned
from stagebox_mixer.audit import Row
from stagebox_mixer.modules.assigning import Wanted
from stagebox_mixer.modules.assignments import Assigner
from stagebox_mixer.modules.faults import Fault
from stagebox_mixer.modules.importing import Importer, prove
from stagebox_mixer.modules.judging import ImportOptions
from stagebox_mixer.modules.model import Assignment, AssignmentState, ModuleEntry
from stagebox_mixer.modules.revoking import Revoker
from stagebox_mixer.modules.store import Catalogue
from stagebox_mixer.modules.vendors import Vendors
from stagebox_mixer.registry.store import Conflict, Encodable, Stored
from support.cluster import Cluster
from support.modules import (
    DAY,
    NOW,
    SECOND,
    VENDOR,
    countersigned_module,
    make_vendor,
    signed_module,
    unsigned_module,
)
from support.patched import trust

ACTOR = "spiffe://ops"
E = TypeVar("E", bound=Encodable)


class Away(BusError):
    """Something is down."""

    def __init__(self) -> None:
        super().__init__("it is away")


class Journal:
    """What was written, in order, and what shall fail."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.rows: list[Row] = []
        self.fails: set[str] = set()

    def step(self, what: str) -> None:
        if what in self.fails:
            raise Away
        self.steps.append(what)

    async def record(self, row: Row) -> int:
        self.step("audit")
        self.rows.append(row)
        return len(self.rows)

    def refused(self, row: Row) -> None:
        self.rows.append(row)

    def of(self, action: str) -> list[tuple[str, str]]:
        return [(row.result, row.reason) for row in self.rows if row.action == action]


class Bucket(Generic[E]):
    """Entries in memory, with compare-and-set."""

    def __init__(self, name: str, journal: Journal) -> None:
        self.name = name
        self.journal = journal
        self.held: dict[str, Stored[E]] = {}
        self.before_put: Callable[[], None] = lambda: None

    async def get(self, key: str) -> Stored[E] | None:
        return self.held.get(key)

    async def all(self) -> dict[str, E]:
        return {key: stored.entry for key, stored in self.held.items()}

    async def put(self, key: str, entry: E, *, revision: int | None) -> None:
        self.before_put()
        self.journal.step(self.name)
        self._check(key, revision)
        self.held[key] = Stored(entry, (revision or 0) + 1)

    async def delete(self, key: str, *, revision: int) -> None:
        self.journal.step(self.name)
        self._check(key, revision)
        del self.held[key]

    def _check(self, key: str, revision: int | None) -> None:
        found = self.held.get(key)
        if (found.revision if found is not None else None) != revision:
            raise Conflict(f"{key} changed")


class Files:
    """Files by digest."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.held: dict[bytes, bytes] = {}

    async def put(self, data: bytes) -> bytes:
        self.journal.step("file")
        digest = hashlib.sha256(data).digest()
        self.held[digest] = data
        return digest

    async def get(self, digest: bytes) -> bytes:
        if digest not in self.held:
            raise ModuleError("unknown_module", "there is none")
        return self.held[digest]

    async def check(self, digest: bytes) -> None:
        await self.get(digest)


@dataclass
class Bench:
    """All of it over memory. ``now`` is the time."""

    cluster: Cluster
    keys: Path
    journal: Journal = field(default_factory=Journal)
    now: int = NOW

    def __post_init__(self) -> None:
        self.modules: Bucket[ModuleEntry] = Bucket("module", self.journal)
        self.assignments: Bucket[Assignment] = Bucket("assignment", self.journal)
        self.files = Files(self.journal)
        self.bans = DenyList(self.cluster.name)
        self.changed: list[str] = []
        self.racks: list[str] = []
        vendors, lock, store = Vendors(self.keys), asyncio.Lock(), cast(Any, self)
        self.importer = Importer(
            cluster=self.cluster.name, authority=self.cluster.keys.authority, vendors=vendors, store=store,
            audit=self.journal, prove=self.prove, lock=lock, clock=lambda: self.now,
        )  # fmt: skip
        self.assigner = Assigner(
            store=store, importer=self.importer, racks=self, audit=self.journal, lock=lock,
            clock=lambda: self.now, entropy=bytes,
        )  # fmt: skip
        self.revoker = Revoker(
            store=store, vendors=vendors, bans=self, audit=self.journal, clock=lambda: self.now
        )
        self.assigner.changed = self.revoker.changed = self.note

    async def catalogue(self) -> Catalogue:
        modules = await self.modules.all()
        assignments = sorted((await self.assignments.all()).values(), key=lambda item: item.created)
        return Catalogue(
            {(entry.name, entry.version): entry for entry in modules.values()}, tuple(assignments), self.bans
        )

    async def all_racks(self) -> list[Any]:
        return [SimpleNamespace(name=name, removed_at=0) for name in self.racks]

    async def prove(self, data: bytes) -> None:
        self.journal.step("prove")

    async def deny(self, kind: str, value: str, *, reason: str, actor: str) -> DenyList:
        self.journal.step("ban")
        self.bans = self.bans.with_denied(denied(kind, value, since=self.bans.epoch + 1), now_ns=1)
        return self.bans

    def note(self, assignments: Collection[Assignment]) -> None:
        self.changed += [item.id for item in assignments]

    async def take(self, version: str = "1.0.0", **fields: Any) -> ModuleEntry:
        file = signed_module(version=version, **fields)
        return (await self.importer.take(file, ImportOptions(), actor=ACTOR)).entry

    async def assign(self, version: str, name: str = "eq", **fields: Any) -> Assignment:
        wanted = Wanted("gain", version, ("*",), Point.METERS, "main", **fields)
        return await self.assigner.assign(wanted, actor=ACTOR, name=name)

    def entry(self, version: str) -> ModuleEntry:
        return self.modules.held[f"gain.{version}"].entry

    def held(self, name: str = "eq") -> Assignment:
        return self.assignments.held[name].entry


@pytest.fixture
def bench(cluster: Cluster, tmp_path: Path) -> Bench:
    trust(tmp_path / "keys", VENDOR)
    return Bench(cluster, tmp_path / "keys")


# Import


async def test_the_row_is_durable_before_anything_changes(bench: Bench) -> None:
    entry = await bench.take()
    assert bench.journal.steps == ["prove", "audit", "file", "module"]
    proved = verify_countersigned(
        bench.files.held[entry.digest], cluster=bench.cluster.name,
        cluster_public=bench.cluster.keys.authority.public, now_ns=NOW,
    )  # fmt: skip
    assert (proved.cluster.serial, proved.cluster.statement.expires) == (entry.serial, entry.expires)
    assert entry.serial == NOW


async def test_what_cannot_be_audited_is_not_imported(bench: Bench) -> None:
    bench.journal.fails = {"audit"}
    with pytest.raises(BusError):
        await bench.take()
    assert bench.journal.steps == ["prove"]
    assert (bench.modules.held, bench.files.held) == ({}, {})


@pytest.mark.parametrize("what", ["file", "module"])
async def test_an_import_that_fails_half_way_says_so_and_is_not_there(bench: Bench, what: str) -> None:
    bench.journal.fails = {what}
    with pytest.raises(BusError):
        await bench.take()
    assert bench.modules.held == {}
    assert bench.journal.of("module_import") == [("ok", ""), ("failed", "storage")]
    bench.journal.fails = set()
    await bench.take()
    assert bench.journal.of("module_import")[2:] == [("ok", "")]


async def test_what_does_not_compile_leaves_nothing_but_its_row(bench: Bench) -> None:
    broken = unsigned_module().replace(b"\x94", b"\x6a")  # an integer's operator between two floats
    with pytest.raises(ModuleError) as caught:
        await prove(signed_module(broken))
    assert caught.value.code == "does_not_compile"
    await prove(signed_module())

    async def refuse(data: bytes) -> None:
        raise caught.value

    bench.importer._prove = refuse
    with pytest.raises(ModuleError):
        await bench.take()
    assert bench.journal.of("module_import") == [("refused", "does_not_compile")]
    assert bench.journal.steps == []


async def test_serials_of_a_module_rise_whatever_the_clock_does(bench: Bench) -> None:
    first = await bench.take("1.0.0")
    bench.now -= 60 * SECOND
    second = await bench.take("2.0.0")
    third = await bench.importer.reissue("gain", "1.0.0", actor=ACTOR)
    assert first.serial < second.serial < third.serial
    assert third.digest != first.digest
    assert replace(third, digest=first.digest, size=first.size, serial=first.serial) == first


async def test_what_a_clock_that_was_far_ahead_countersigned_is_countersigned_again_by_the_right_one(
    bench: Bench,
) -> None:
    right, bench.now = bench.now, bench.now + 20 * DAY
    first = await bench.take("1.0.0")
    bench.now = right
    again = await bench.importer.reissue("gain", "1.0.0", actor=ACTOR)
    assert again.serial == first.serial + 1
    file = verify_countersigned(
        bench.files.held[again.digest], cluster=bench.cluster.name,
        cluster_public=bench.cluster.keys.authority.public, now_ns=right,
    )  # fmt: skip
    assert file.cluster.statement.issued == right


async def test_a_version_that_came_meanwhile_is_not_overwritten(bench: Bench) -> None:
    other = await bench.take()
    del bench.modules.held["gain.1.0.0"]

    def somebody_else() -> None:
        bench.modules.held["gain.1.0.0"] = Stored(other, 9)

    bench.modules.before_put = somebody_else
    with pytest.raises(Conflict):
        await bench.take()
    assert bench.modules.held["gain.1.0.0"].revision == 9
    assert bench.journal.of("module_import")[-1] == ("failed", "conflict")


async def test_a_file_that_was_lost_comes_back_with_the_vendors(bench: Bench) -> None:
    entry = await bench.take()
    assert (await bench.importer.take(signed_module(), ImportOptions(), actor=ACTOR)).entry == entry
    bench.files.held.clear()
    again = await bench.importer.take(signed_module(), ImportOptions(), actor=ACTOR)
    assert (again.new, again.repaired) == (False, True)
    assert again.entry.serial > entry.serial
    assert bench.entry("1.0.0") == again.entry
    assert list(bench.files.held) == [again.entry.digest]
    assert bench.journal.of("module_reissue") == [("ok", "file lost: unknown_module")]


async def test_what_is_revoked_while_it_is_countersigned_again_stays_revoked(bench: Bench) -> None:
    entry = await bench.take()
    put = bench.files.put

    async def meanwhile(data: bytes) -> bytes:
        await bench.revoker.module("gain", "1.0.0", reason="backdoor", actor=ACTOR)
        return await put(data)

    bench.files.put = meanwhile  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        await bench.importer.reissue("gain", "1.0.0", actor=ACTOR)
    assert bench.entry("1.0.0").digest == entry.digest
    assert bench.entry("1.0.0").revoked_at
    assert bench.journal.of("module_reissue") == [("ok", ""), ("failed", "conflict")]


async def test_a_countersignature_lasts_no_longer_than_the_trust_in_its_vendor(bench: Bench) -> None:
    ends = NOW + DAY
    trust(bench.keys, VENDOR, not_after=ends)
    entry = await bench.take()
    assert entry.expires == ends
    trust(bench.keys, VENDOR, not_after=NOW + 1000 * DAY)
    again = await bench.importer.reissue("gain", "1.0.0", actor=ACTOR)
    proved = verify_countersigned(
        bench.files.held[again.digest], cluster=bench.cluster.name,
        cluster_public=bench.cluster.keys.authority.public, now_ns=ends,
    )  # fmt: skip
    assert proved.cluster.statement.expires == proved.vendor.expires == again.expires > ends


@pytest.mark.parametrize("how", ["vendor revoked", "vendor gone", "expired", "file altered"])
async def test_nothing_is_countersigned_again_that_its_vendor_does_not_stand_for(
    bench: Bench, how: str
) -> None:
    entry = await bench.take()
    path = bench.keys / "tone-works.toml"
    match how:
        case "vendor revoked":
            trust(bench.keys, VENDOR, revoked=True)
        case "vendor gone":
            path.unlink()
        case "expired":
            bench.now = entry.expires
        case _:
            file = bench.files.held[entry.digest]
            bench.files.held[entry.digest] = file[:100] + bytes([file[100] ^ 1]) + file[101:]
    with pytest.raises(ModuleError) as caught:
        await bench.importer.reissue("gain", "1.0.0", actor=ACTOR)
    expected = {
        "vendor revoked": "revoked_key", "vendor gone": "unknown_key", "expired": "expired",
        "file altered": "wrong_digest",
    }  # fmt: skip
    assert caught.value.code == expected[how]
    assert bench.journal.of("module_reissue") == [("refused", expected[how])]
    assert bench.entry("1.0.0") == entry


async def test_who_writes_the_registry_has_nothing_more_granted(bench: Bench) -> None:
    options = ImportOptions(granted=(Capability.AUDIO,), limits=ModuleLimits(fuel_per_block=1_000))
    file = signed_module(capabilities=(Capability.AUDIO, Capability.CLOCK))
    entry = (await bench.importer.take(file, options, actor=ACTOR)).entry
    more = replace(entry, granted=(Capability.AUDIO, Capability.CLOCK), limits=ModuleLimits())
    bench.modules.held[entry.key] = Stored(more, 2)
    again = await bench.importer.reissue("gain", "1.0.0", actor=ACTOR)
    proved = verify_countersigned(
        bench.files.held[again.digest], cluster=bench.cluster.name,
        cluster_public=bench.cluster.keys.authority.public, now_ns=NOW,
    )  # fmt: skip
    assert (proved.cluster.granted, proved.cluster.limits) == (entry.granted, entry.limits)
    assert (again.granted, again.limits) == (entry.granted, entry.limits)


@pytest.mark.parametrize("how", ["never imported", "another version", "another cluster's"])
async def test_who_writes_the_registry_has_nothing_countersigned_that_was_not_imported(
    bench: Bench, how: str
) -> None:
    entry = await bench.take()
    beta = signed_module(version="2.0.0-beta")
    code = "missing_countersignature"
    match how:
        case "another version":
            beta, code = bench.files.held[(await bench.take("2.0.0-beta")).digest], "wrong_module_version"
        case "another cluster's":
            beta, code = countersigned_module(beta), "unknown_key"
    planted = replace(
        entry, digest=await bench.files.put(beta), size=len(beta), vendor_size=len(beta),
        vendor_digest=hashlib.sha256(beta).digest(),
    )  # fmt: skip
    bench.modules.held[entry.key] = Stored(planted, 2)
    with pytest.raises(ModuleError) as caught:
        await bench.importer.reissue("gain", "1.0.0", actor=ACTOR)
    assert caught.value.code == code
    assert bench.entry("1.0.0") == planted


@pytest.mark.parametrize("how", ["vendor revoked", "vendor gone", "vendor denied", "file denied", "expired"])
async def test_what_is_not_trusted_any_more_when_it_has_compiled_is_not_countersigned(
    bench: Bench, how: str
) -> None:
    file = signed_module()

    async def meanwhile(data: bytes) -> None:
        match how:
            case "vendor revoked":
                trust(bench.keys, VENDOR, revoked=True)
            case "vendor gone":
                (bench.keys / "tone-works.toml").unlink()
            case "vendor denied":
                await bench.revoker.vendor("tone-works", reason="sold", actor=ACTOR)
            case "file denied":
                await bench.deny(
                    "module", module_value(hashlib.sha256(file).digest()), reason="", actor=ACTOR
                )
            case _:
                bench.now += 365 * DAY

    bench.importer._prove = meanwhile
    with pytest.raises(ModuleError) as caught:
        await bench.importer.take(file, ImportOptions(), actor=ACTOR)
    expected = {
        "vendor revoked": "revoked_key", "vendor gone": "unknown_key", "vendor denied": "revoked_key",
        "file denied": "denied", "expired": "key_expired",
    }  # fmt: skip
    assert caught.value.code == expected[how]
    assert bench.journal.of("module_import") == [("refused", expected[how])]
    assert (bench.modules.held, bench.files.held) == ({}, {})


# Assignments


async def test_an_assignment_without_a_name_gets_one(bench: Bench) -> None:
    await bench.take()
    wanted = Wanted("gain", "1.0.0", ("*",), Point.METERS, "main")
    made = await bench.assigner.assign(wanted, actor=ACTOR)
    assert made.id == "gain-00000000"
    assert bench.changed == ["gain-00000000"]


async def test_an_assignment_that_cannot_be_written_says_so(bench: Bench) -> None:
    await bench.take()
    bench.journal.fails = {"assignment"}
    with pytest.raises(BusError):
        await bench.assign("1.0.0")
    assert bench.journal.of("module_assign") == [("ok", ""), ("failed", "storage")]
    assert (bench.assignments.held, bench.changed) == ({}, [])


@pytest.mark.parametrize("why", ["senseless", "not imported", "no room"])
async def test_an_assignment_that_is_refused_changes_nothing_but_the_audit(bench: Bench, why: str) -> None:
    entry = await bench.take()
    await bench.assign("1.0.0", params={"gain": 2.0})
    bench.racks = ["stage-left"]
    name, version, code = {
        "senseless": ("no name", "1.0.0", "invalid"),
        "not imported": ("room", "9.0.0", "unknown_module"),
        "no room": ("room", "2.0.0", "invalid"),
    }[why]
    await bench.take("2.0.0")
    large = replace(entry, size=FORMAT.rack_modules_bytes)
    bench.modules.held[entry.key] = Stored(large, 1)
    bench.journal.steps.clear()
    before, bench.changed = dict(bench.assignments.held), []
    with pytest.raises((InputError, ModuleError)) as caught:
        await bench.assign(version, name)
    assert bench.journal.of("module_assign")[1:] == [("refused", code)]
    row = bench.journal.rows[-1]
    assert (row.actor, row.subject, row.detail) == (ACTOR, name, {"message": caught.value.message})
    assert (bench.assignments.held, bench.changed, bench.journal.steps) == (before, [], [])


async def test_two_who_change_one_assignment_at_once_decide_one_after_the_other(bench: Bench) -> None:
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        await bench.take(version)
    await bench.assign("1.0.0")
    other = replace(bench.held(), version="2.0.0", previous="1.0.0")

    def somebody_else() -> None:
        bench.assignments.before_put = lambda: None
        bench.assignments.held["eq"] = Stored(other, 9)

    bench.assignments.before_put = somebody_else
    made = await bench.assign("3.0.0")
    assert (made.version, made.previous) == ("3.0.0", "2.0.0")
    assert bench.journal.of("module_assign")[-2:] == [("failed", "conflict"), ("ok", "")]


async def test_what_is_not_assigned_cannot_be_unassigned(bench: Bench) -> None:
    with pytest.raises(ModuleError) as caught:
        await bench.assigner.unassign("eq", actor=ACTOR)
    assert caught.value.code == "unknown_assignment"
    assert bench.journal.rows == []


# Rollback

FAULT = Fault("stage-left", "gain", "2.0.0", "eq", "", "trap")


async def rollout(bench: Bench) -> None:
    for version in ("1.0.0", "2.0.0"):
        await bench.take(version)
        await bench.assign(version)
    bench.changed.clear()


async def test_a_fault_takes_the_version_back_once(bench: Bench) -> None:
    await rollout(bench)
    (gone,) = await bench.assigner.roll_back(FAULT)
    assert (gone.state, gone.previous, gone.reason) == (
        AssignmentState.ROLLED_BACK, "1.0.0", "trap on stage-left",
    )  # fmt: skip
    assert bench.entry("1.0.0").serial == bench.entry("2.0.0").serial
    assert "eq" in bench.changed
    assert await bench.assigner.roll_back(FAULT) == []
    assert len(bench.journal.of("module_rollback")) == 1


async def test_a_version_before_that_may_not_run_either_is_dropped(bench: Bench) -> None:
    await rollout(bench)
    await bench.revoker.module("gain", "1.0.0", reason="backdoor", actor=ACTOR)
    (gone,) = await bench.assigner.roll_back(FAULT)
    assert (gone.state, gone.previous) == (AssignmentState.ROLLED_BACK, "")


async def test_a_vendor_who_is_gone_leaves_nothing_to_go_back_to(bench: Bench) -> None:
    await rollout(bench)
    (bench.keys / "tone-works.toml").unlink()
    (gone,) = await bench.assigner.roll_back(FAULT)
    assert gone.previous == ""
    assert bench.held() == gone


async def test_a_fault_of_a_file_that_was_replaced_takes_nothing_back(bench: Bench) -> None:
    await rollout(bench)
    old = bench.entry("2.0.0").digest.hex()
    await bench.importer.reissue("gain", "2.0.0", actor=ACTOR)
    assert await bench.assigner.roll_back(replace(FAULT, digest=old)) == []
    assert len(await bench.assigner.roll_back(replace(FAULT, digest=bench.entry("2.0.0").digest.hex()))) == 1


async def test_a_rollback_that_cannot_be_audited_does_not_happen(bench: Bench) -> None:
    await rollout(bench)
    bench.journal.fails = {"audit"}
    with pytest.raises(BusError):
        await bench.assigner.roll_back(FAULT)
    assert bench.held().state is AssignmentState.ACTIVE


# Revocation


async def test_a_revocation_is_audited_then_banned_then_marked(bench: Bench) -> None:
    entry = await bench.take()
    await bench.assign("1.0.0")
    bench.journal.steps.clear()
    revoked = await bench.revoker.module("gain", "1.0.0", reason="backdoor", actor=ACTOR)
    assert bench.journal.steps == ["audit", "ban", "ban", "audit", "module"]
    assert bench.bans.matches_module((entry.vendor_digest,), ()) is not None
    assert bench.bans.matches_module((entry.digest,), ()) is not None
    assert (revoked.epoch, bench.changed[-1]) == (2, "eq")
    marked = bench.entry("1.0.0")
    assert (marked.revoked_by, marked.revoked_reason) == (ACTOR, "backdoor")
    assert marked.revoked_at == NOW
    # Said again it is a later ban, and the first mark stays.
    bench.now += 1
    again = await bench.revoker.module("gain", "1.0.0", reason="still", actor=ACTOR)
    assert again.epoch > revoked.epoch
    assert bench.entry("1.0.0") == marked


async def test_a_revocation_that_is_not_in_effect_says_so(bench: Bench) -> None:
    await bench.take()
    bench.journal.fails = {"ban"}
    with pytest.raises(BusError):
        await bench.revoker.module("gain", "1.0.0", reason="backdoor", actor=ACTOR)
    assert bench.journal.of("module_revoke") == [("ok", "backdoor"), ("failed", "storage")]
    assert not bench.entry("1.0.0").revoked_at
    bench.journal.fails = {"audit"}
    with pytest.raises(BusError):
        await bench.revoker.vendor("tone-works", reason="x", actor=ACTOR)
    assert bench.bans.entries == ()


async def test_a_vendor_is_revoked_with_every_key_that_is_known_here(bench: Bench) -> None:
    old, new = make_vendor(2, owner="night-owls"), make_vendor(3, owner="night-owls")
    trust(bench.keys, old)
    await bench.take(name="owl", vendor=old)
    trust(bench.keys, new)  # in the same file: the old key is known from what it signed
    await bench.take(name="owl", vendor=new, version="2.0.0")
    await bench.take()
    revoked = await bench.revoker.vendor("night-owls", reason="sold", actor=ACTOR)
    assert set(revoked.keys) == {old.root.key_id, new.root.key_id}
    assert {(entry.name, entry.version) for entry in revoked.modules} == {("owl", "1.0.0"), ("owl", "2.0.0")}
    assert not bench.entry("1.0.0").revoked_at
    only = await bench.revoker.vendor("ab" * 16, reason="a stranger's", actor=ACTOR)
    assert (only.keys, only.modules) == ((bytes.fromhex("ab" * 16),), ())
    with pytest.raises(ModuleError) as caught:
        await bench.revoker.vendor("nobody", reason="x", actor=ACTOR)
    assert caught.value.code == "unknown_vendor"


async def test_a_vendor_whose_name_looks_like_a_key_id_is_revoked_by_it(bench: Bench) -> None:
    sly = make_vendor(2, owner="ab" * 16)
    trust(bench.keys, sly)
    await bench.take(name="owl", vendor=sly)
    revoked = await bench.revoker.vendor("ab" * 16, reason="sold", actor=ACTOR)
    assert set(revoked.keys) == {sly.root.key_id, bytes.fromhex("ab" * 16)}
    assert [entry.name for entry in revoked.modules] == ["owl"]


async def test_a_revocation_waits_for_no_import(bench: Bench) -> None:
    await bench.take()
    compiling = asyncio.Event()

    async def slow(data: bytes) -> None:
        compiling.set()
        await asyncio.Event().wait()

    bench.importer._prove = slow
    importing = asyncio.create_task(bench.take("2.0.0", capabilities=(Capability.AUDIO,)))
    await compiling.wait()
    async with asyncio.timeout(5):
        async with bench.importer._lock:
            await bench.revoker.module("gain", "1.0.0", reason="now", actor=ACTOR)
    importing.cancel()
    await asyncio.gather(importing, return_exceptions=True)
