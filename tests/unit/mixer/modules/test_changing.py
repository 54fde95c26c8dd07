"""Import, assignment, rollback and revocation where something fails: rows stand first, and nothing is half done."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest

from stagebox.control.denylist import module_value
from stagebox.errors import BusError, InputError, ModuleError
from stagebox.modules.capabilities import Capability
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.patch import Point
from stagebox.modules.statement import ModuleLimits
from stagebox.modules.verification import verify_countersigned
from stagebox_mixer.modules.assigning import Wanted
from stagebox_mixer.modules.faults import Fault
from stagebox_mixer.modules.importing import prove
from stagebox_mixer.modules.judging import ImportOptions
from stagebox_mixer.modules.model import AssignmentState
from stagebox_mixer.registry.store import Conflict, Stored
from support.module_bench import ACTOR, Bench
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
    assert bench.journal.of("module_unassign") == [("refused", "unknown_assignment")]
    (row,) = bench.journal.rows
    assert (row.actor, row.subject, row.detail) == (ACTOR, "eq", {"message": caught.value.message})
    assert (bench.journal.steps, bench.changed) == ([], [])


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
