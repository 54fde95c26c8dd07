"""What is damaged in the registry, or of a later release: it runs nowhere, and keeps nobody from revoking anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stagebox import cbor
from stagebox.errors import BusError, InputError, ModuleError
from stagebox.modules.patch import Point
from stagebox_mixer.modules.faults import Fault
from stagebox_mixer.modules.judging import ImportOptions
from stagebox_mixer.modules.model import Assignment, AssignmentState, ModuleEntry
from stagebox_mixer.modules.sheets import inserts_of
from stagebox_mixer.modules.store import _assignment, _module
from support.module_bench import ACTOR, Bench
from support.modules import make_vendor, signed_module
from support.patched import module_assignment, module_entry, trust


def later(entry: ModuleEntry, **changes: object) -> bytes:
    """Return the entry as a later release may write it: what it says goes on, and this one does not know it all."""
    fields = cbor.expect_map(cbor.decode(entry.encode(), max_bytes=1 << 16), "entry")
    return cbor.encode({**fields, "capabilities": ["audio", "telepathy"], **changes})


def denies(bench: Bench, entry: ModuleEntry) -> bool:
    return bench.bans.matches_module((entry.vendor_digest,), ()) is not None


# Revocation


@pytest.mark.parametrize("key", ["other.1.0.0", "gain.9.0.0", "no-key-of-ours"])
async def test_a_damaged_entry_keeps_nobody_from_revoking_another_version_or_its_vendor(
    bench: Bench, key: str
) -> None:
    first, second = await bench.take("1.0.0"), await bench.take("2.0.0")
    await bench.assign("1.0.0")
    bench.modules.damage(key)
    bench.assignments.damage("room")
    bench.changed.clear()
    revoked = await bench.revoker.module("gain", "1.0.0", reason="backdoor", actor=ACTOR)
    assert denies(bench, first)
    assert not denies(bench, second)
    assert [(hit.version, hit.vendor_digest) for hit in revoked.modules] == [("1.0.0", first.vendor_digest)]
    assert bench.changed == ["eq"]
    assert bench.entry("1.0.0").revoked_by == ACTOR
    for vendor in ("tone-works", first.key_id.hex()):
        revoked = await bench.revoker.vendor(vendor, reason="sold", actor=ACTOR)
        assert revoked.keys == (first.key_id,)
        assert {hit.version for hit in revoked.modules} == {"1.0.0", "2.0.0"}
        # Whether it is of that vendor nobody knows, and whoever revokes hears of it.
        assert revoked.unread == (key,)
    assert bench.bans.matches_module((), (first.key_id,)) is not None


@pytest.mark.parametrize("left", ["nothing", "another's", "its own", "a version of its own"])
async def test_a_damaged_entry_that_is_named_is_revoked_whatever_it_says(bench: Bench, left: str) -> None:
    entry, other = await bench.take("1.0.0"), await bench.take("2.0.0")
    again = await bench.importer.reissue("gain", "1.0.0", actor=ACTOR)
    # Files are known by this cluster's signature, not by what they call themselves.
    planted = await bench.files.put(signed_module(version="1.0.0", signer="somebody else"))
    data = {
        "nothing": b"\xa0",
        "another's": later(replace(again, digest=b"\7" * 32, vendor_digest=b"\x08" * 32)),
        "its own": later(again),
        "a version of its own": later(again, v=2),
    }[left]
    bench.modules.damage("gain.1.0.0", data)
    revoked = await bench.revoker.module("gain", "1.0.0", reason="backdoor", actor=ACTOR)
    assert denies(bench, entry)
    assert not denies(bench, other)
    for digest in (entry.digest, again.digest):  # as it was first countersigned, and as it is now
        assert bench.bans.matches_module((digest,), ()) is not None
    (hit,) = revoked.modules
    assert (hit.name, hit.version, hit.vendor_digest) == ("gain", "1.0.0", entry.vendor_digest)
    row = next(row for row in bench.journal.rows if row.action == "module_revoke")
    assert (row.result, row.subject, row.detail) == (
        "ok", "gain@1.0.0", {"sha256": entry.vendor_digest.hex(), "problem": "it has no 'v'"},
    )  # fmt: skip
    assert bench.bans.matches_module((planted,), ()) is None


async def test_what_is_left_of_an_entry_is_enough_while_the_files_cannot_be_read(bench: Bench) -> None:
    entry = await bench.take()
    bench.files.away = True
    bench.modules.damage("gain.1.0.0")
    with pytest.raises(BusError):
        await bench.revoker.module("gain", "1.0.0", reason="backdoor", actor=ACTOR)
    bench.modules.damage("gain.1.0.0", later(entry))
    await bench.revoker.module("gain", "1.0.0", reason="backdoor", actor=ACTOR)
    assert denies(bench, entry)


async def test_a_damaged_entry_of_which_nothing_is_left_says_what_else_to_do(bench: Bench) -> None:
    await bench.take()
    bench.modules.damage("gain.1.0.0")
    bench.files.held.clear()
    with pytest.raises(ModuleError) as caught:
        await bench.revoker.module("gain", "1.0.0", reason="backdoor", actor=ACTOR)
    assert caught.value.code == "entry_unreadable"
    assert "--vendor" in str(caught.value.remedy)
    assert bench.bans.entries == ()
    with pytest.raises(ModuleError) as caught:
        await bench.revoker.module("Not A Name", "1.0.0", reason="x", actor=ACTOR)
    assert caught.value.code == "unknown_module"


async def test_a_key_and_a_version_are_revoked_while_the_rest_cannot_be_read_at_all(bench: Bench) -> None:
    entry = await bench.take()
    bench.away = True
    await bench.revoker.module("gain", "1.0.0", reason="backdoor", actor=ACTOR)
    await bench.revoker.vendor(entry.key_id.hex(), reason="sold", actor=ACTOR)
    assert denies(bench, entry)
    assert bench.bans.matches_module((), (entry.key_id,)) is not None
    # Which keys a name has is in the registry: half of them would look like all.
    with pytest.raises(BusError):
        await bench.revoker.vendor("tone-works", reason="sold", actor=ACTOR)


async def test_a_vendors_entry_of_which_its_key_can_be_read_is_hit_with_it(bench: Bench) -> None:
    entry = await bench.take()
    bench.modules.damage("gain.1.0.0", later(entry))
    revoked = await bench.revoker.vendor("tone-works", reason="sold", actor=ACTOR)
    assert [(hit.name, hit.version) for hit in revoked.modules] == [("gain", "1.0.0")]
    assert revoked.unread == ()


async def test_a_version_that_cannot_be_marked_is_revoked_all_the_same(bench: Bench) -> None:
    await bench.take("1.0.0")
    await bench.take("2.0.0")
    bench.journal.fails = {"module"}
    revoked = await bench.revoker.vendor("tone-works", reason="sold", actor=ACTOR)
    assert len(revoked.modules) == 2
    assert revoked.epoch == bench.bans.epoch > 0


# What is not to be read is not to be run, nor written over


async def test_what_is_damaged_is_on_no_sheet_and_takes_nothing_else_off_it(bench: Bench) -> None:
    for version in ("1.0.0", "2.0.0"):
        await bench.take(version)
    await bench.assign("1.0.0", "left")
    await bench.assign("2.0.0", "right")
    await bench.assign("2.0.0", "room")
    bench.modules.damage("gain.1.0.0")
    bench.assignments.damage("room")
    catalogue = await bench.catalogue()
    assert [insert.id for insert in inserts_of("stage-left", catalogue)] == ["right"]


@pytest.mark.parametrize(
    "odd",
    [
        module_entry(size=0),
        module_entry(size=1 << 40),
        module_assignment(source="No Source"),
        module_assignment(bus="main"),
        module_assignment(point=Point.MONITOR),
        module_assignment(params={"x" * 70_000: 1.0}),
        module_assignment(previous="1.0.0", previous_params={"x" * 70_000: 1.0}),
    ],
)
def test_an_entry_that_no_sheet_can_say_is_a_damaged_one(odd: ModuleEntry | Assignment) -> None:
    """Its form is right, and one alone would have every other insert of its racks left out."""
    read = _module if isinstance(odd, ModuleEntry) else _assignment
    sound: Any = type(odd)
    assert read(sound(**{**vars(odd), **SOUND[sound.__name__]}).encode())
    with pytest.raises(InputError):
        read(odd.encode())


SOUND: dict[str, dict[str, object]] = {
    "ModuleEntry": {"size": 1},
    "Assignment": {"source": "main", "bus": "", "point": Point.METERS, "params": {}, "previous_params": {}},
}


async def test_nothing_is_imported_or_assigned_over_what_cannot_be_read(bench: Bench) -> None:
    await bench.take("1.0.0")
    await bench.assign("1.0.0")
    bench.modules.damage("gain.2.0.0")
    bench.assignments.damage("eq")
    bench.journal.steps.clear()

    async def refusal(version: str, **fields: object) -> str:
        with pytest.raises(ModuleError) as caught:
            await bench.take(version, **fields)
        return caught.value.code

    assert await refusal("2.0.0") == "entry_unreadable"
    # It is the newest all the same: its version is in its key.
    assert await refusal("1.5.0") == "older_version"
    with pytest.raises(ModuleError) as caught:
        await bench.assign("2.0.0", "room")
    assert caught.value.code == "entry_unreadable"
    with pytest.raises(InputError, match="cannot be read"):
        await bench.assign("1.0.0", "eq")
    assert bench.journal.of("module_assign")[1:] == [("refused", "entry_unreadable"), ("refused", "invalid")]
    assert bench.journal.steps == []
    await bench.importer.take(signed_module(version="1.5.0"), ImportOptions(allow_older=True), actor=ACTOR)
    assert (await bench.take("3.0.0")).version == "3.0.0"


async def test_a_name_is_nobody_elses_while_the_entry_that_says_whose_it_is_cannot_be_read(
    bench: Bench,
) -> None:
    await bench.take("1.0.0")
    bench.modules.damage("gain.1.0.0")
    other = make_vendor(2, owner="night-owls")
    trust(bench.keys, other)
    with pytest.raises(ModuleError) as caught:
        await bench.take("2.0.0", vendor=other)
    assert caught.value.code == "entry_unreadable"


async def test_an_assignment_that_cannot_be_read_can_be_removed(bench: Bench) -> None:
    bench.assignments.damage("room")
    bench.journal.fails = {"assignment"}
    with pytest.raises(BusError):
        await bench.assigner.unassign("room", actor=ACTOR)
    assert bench.journal.of("module_unassign") == [("ok", ""), ("failed", "storage")]
    bench.journal.fails = set()
    await bench.assigner.unassign("room", actor=ACTOR, reason="of nobody's")
    assert bench.assignments.odd == {}
    assert bench.journal.of("module_unassign")[-1] == ("ok", "of nobody's")
    assert bench.journal.rows[-1].detail == {"problem": "it has no 'v'"}


async def test_a_version_goes_back_past_what_is_damaged(bench: Bench) -> None:
    for version in ("1.0.0", "2.0.0"):
        await bench.take(version)
        await bench.assign(version)
    bench.modules.damage("other.1.0.0")
    bench.assignments.damage("room")
    (gone,) = await bench.assigner.roll_back(Fault("stage-left", "gain", "2.0.0", "eq", "", "trap"))
    assert (gone.state, gone.previous) == (AssignmentState.ROLLED_BACK, "1.0.0")
