"""What runs on a rack: what is signed, whole, granted and not denied; and what it says about the rest."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from stagebox.control.denylist import DenyKind, module_value
from stagebox.errors import StorageError
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.patch import Insert, Point
from stagebox.tasks import end_tasks
from stagebox_rack.commands.service import CommandRefused
from stagebox_rack.identity import denied as witnessing
from stagebox_rack.identity.denied import DenyListWitness
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules import library as storing
from stagebox_rack.modules import serials
from stagebox_rack.modules.arranging import Placed, Running
from stagebox_rack.modules.making import make_module_service
from support.issuer import CLUSTER
from support.module_scene import ISSUER, Scene, deny_list, insert, module, module_scene, sheet
from support.modules import DAY, NOW, SECOND, VENDOR, signed_module

OTHER_KEY = SigningKey(bytes([9]) * 32)
GAIN = module()
GAIN_2 = module(version="2.0.0", serial=2)


def flipped(data: bytes, at: int = 300) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def of_version_2(data: bytes = GAIN_2, insert_id: str = "eq", **changes: Any) -> Insert:
    return insert(data, insert_id, version="2.0.0", **changes)


def full(*_: object, **__: object) -> None:
    raise StorageError("no space left")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with module_scene(tmp_path / "state") as made:
        yield made


@pytest.fixture
async def quiet(scene: Scene) -> Scene:
    """The same, but nothing is looked at unless something happens."""
    scene.limits = replace(scene.limits, module_check=60.0)
    await scene.restart()
    return scene


async def running(scene: Scene, *files: bytes) -> None:
    """Have the files of the inserts eq, eq-1, … run."""
    names = ["eq", *(f"eq-{number}" for number in range(1, len(files)))]
    scene.mixer.has(*files)
    await scene.command(sheet(1, *(insert(data, name) for data, name in zip(files, names, strict=True))))
    await scene.until(lambda: set(scene.hosts.versions) == set(names))


# Sheets


async def test_a_sheet_by_command_makes_the_module_fetched_verified_and_run(scene: Scene) -> None:
    asked = insert(GAIN, params={"gain": 0.5})
    scene.mixer.has(GAIN)
    await scene.command(sheet(1, asked))
    await scene.runs(eq="1.0.0")
    ((placed,),) = scene.hosts.calls
    assert placed.insert == asked
    assert placed.module.data == GAIN
    assert placed.module.params == {0: 0.5}
    assert scene.library.read(asked.digest) == GAIN
    assert scene.alerts == []


async def test_a_sheet_is_asked_for_on_connect(scene: Scene) -> None:
    await scene.until(lambda: scene.mixer.asked)
    assert scene.mixer.asked == [("patch", {"Serial": 0})]
    scene.mixer.has(GAIN)
    scene.mixer.sheet = sheet(1, insert(GAIN))
    scene.service.connected()
    await scene.runs(eq="1.0.0")
    assert [body for verb, body in scene.mixer.asked if verb == "patch"][-1] == {"Serial": 0}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (sheet(2, key=OTHER_KEY), "signature"),
        (sheet(2, cluster="other"), "other_cluster"),
        (sheet(2, rack="stage-right"), "other_rack"),
        (sheet(0), "old_serial"),
        (sheet(1), "old_serial"),
        (b"garbage", "malformed"),
        ("text", "malformed"),
        (None, "malformed"),
    ],
)
async def test_a_bad_sheet_by_command_is_refused_with_its_code_and_nothing_changes(
    scene: Scene, data: object, code: str
) -> None:
    await running(scene, GAIN)
    with pytest.raises(CommandRefused) as caught:
        await scene.command(data)
    assert caught.value.code == code
    await scene.a_pass()
    assert scene.hosts.versions == {"eq": "1.0.0"}


@pytest.mark.parametrize(
    "forgery", [{"key": OTHER_KEY}, {"request": bytes(32)}, {"rack": "stage-right"}, {"verb": "module"}]
)
async def test_a_forged_answer_brings_no_sheet_even_if_the_sheet_is_genuine(
    scene: Scene, forgery: dict[str, Any]
) -> None:
    await scene.until(lambda: scene.mixer.asked)
    scene.mixer.sheet, scene.mixer.reply["patch"] = sheet(1, insert(GAIN)), forgery
    before = len(scene.mixer.asked)
    scene.service.connected()
    await scene.until(lambda: len(scene.mixer.asked) >= before + 3)
    assert scene.sheets.sheet is None
    scene.mixer.reply["patch"] = {}
    scene.mixer.has(GAIN)
    await scene.runs(eq="1.0.0")


async def test_what_a_sheet_does_not_list_ends(scene: Scene) -> None:
    await running(scene, GAIN, GAIN)
    await scene.command(sheet(2, insert(GAIN, "eq-1")))
    await scene.until(lambda: set(scene.hosts.versions) == {"eq-1"})
    await scene.command(sheet(3))
    await scene.until(lambda: scene.hosts.now == ())
    assert scene.library.read(insert(GAIN).digest) is None


async def test_of_many_sheets_at_once_the_latest_counts(scene: Scene) -> None:
    scene.mixer.has(GAIN)

    async def offer(serial: int) -> None:
        try:
            await scene.command(sheet(serial, insert(GAIN, f"eq-{serial}")))
        except CommandRefused as error:
            assert error.code == "old_serial"

    await asyncio.gather(*(offer(serial) for serial in (3, 9, 1, 7, 20, 4, 11, 2)))
    await scene.until(lambda: set(scene.hosts.versions) == {"eq-20"})
    assert scene.sheets.serial == NOW + 20


async def test_modules_at_one_point_are_in_the_sheets_order(scene: Scene) -> None:
    scene.mixer.has(GAIN)
    names = ["c", "a", "b"]
    await scene.command(sheet(1, *(insert(GAIN, name) for name in names)))
    await scene.until(lambda: [placed.insert.id for placed in scene.hosts.now] == names)


async def test_another_value_of_a_parameter_needs_no_file_again(scene: Scene) -> None:
    await running(scene, GAIN)
    pieces = len(scene.mixer.pieces())
    await scene.command(sheet(2, insert(GAIN, params={"gain": 2.0})))
    await scene.until(lambda: scene.hosts.now and scene.hosts.now[0].module.params == {0: 2.0})
    assert len(scene.mixer.pieces()) == pieces
    assert all(len(call) == 1 for call in scene.hosts.calls)


# Refusals


async def test_a_flipped_byte_in_the_mixers_store_is_an_alert_and_never_given_to_a_host(scene: Scene) -> None:
    asked = insert(GAIN)
    scene.mixer.files[asked.digest] = flipped(GAIN)
    await scene.command(sheet(1, asked, insert(GAIN_2, "other", version="2.0.0")))
    scene.mixer.has(GAIN_2)
    await scene.runs(other="2.0.0")
    await scene.until(lambda: scene.told("module.rejected"))
    (detail,) = [detail for name, detail in scene.alerts if name == "module.rejected"]
    assert detail.pop("reason")
    assert detail == {
        "module": "gain", "version": "1.0.0", "insert": "eq", "digest": asked.digest.hex(), "code": "wrong_digest",
    }  # fmt: skip
    assert scene.hosts.given == {hashlib.sha256(GAIN_2).digest()}
    assert scene.library.read(asked.digest) is None
    assert scene.state() == ("rejected", "wrong_digest")


@pytest.mark.parametrize(
    ("data", "changes", "code"),
    [
        (module(key=OTHER_KEY), {}, "unknown_key"),
        (module(cluster="other"), {}, "wrong_cluster"),
        (signed_module(), {}, "missing_countersignature"),
        (module(expires=NOW + 1), {}, "expired"),
        (GAIN, {"module": "limiter"}, "wrong_name"),
        (GAIN, {"version": "1.0.1"}, "wrong_module_version"),
        (GAIN, {"params": {"gain": 9.0}}, "bad_params"),
        (GAIN, {"point": Point.TELEMETRY, "source": ""}, "capability_not_granted"),
        (flipped(GAIN), {}, "wrong_digest"),
    ],
)
async def test_what_the_guard_refuses_is_told_by_its_code_and_never_given_to_a_host(
    scene: Scene, data: bytes, changes: dict[str, Any], code: str
) -> None:
    scene.mixer.has(data)
    scene.wall = NOW + SECOND
    await scene.command(sheet(1, insert(data, **changes)))
    await scene.until(lambda: scene.told("module.rejected"))
    assert scene.told("module.rejected") == [("eq", code)]
    assert scene.hosts.calls == []
    assert scene.library.read(insert(data).digest) is None


async def test_a_cause_is_told_once_and_again_after_a_restart(scene: Scene) -> None:
    asked = insert(GAIN)
    scene.mixer.files[asked.digest] = flipped(GAIN)
    await scene.command(sheet(1, asked))
    await scene.until(lambda: scene.told("module.rejected"))
    for _ in range(5):
        scene.service.connected()
        await scene.a_pass()
    await scene.command(sheet(2, asked))
    await scene.a_pass()
    assert scene.told("module.rejected") == [("eq", "wrong_digest")]
    assert len(scene.mixer.pieces()) == 1, "a file that was refused is left alone for a while"
    await scene.restart()
    await scene.until(lambda: scene.told("module.rejected"))
    assert scene.hosts.calls == []


async def test_a_planted_file_is_an_alert_and_a_good_copy_takes_its_place(scene: Scene) -> None:
    await running(scene, GAIN)
    await scene.stop()
    path = scene.library.path(insert(GAIN).digest)
    path.write_bytes(flipped(GAIN))
    await scene.start()
    await scene.until(lambda: scene.told("module.rejected"))
    assert scene.told("module.rejected") == [("eq", "wrong_digest")]
    await scene.runs(eq="1.0.0")
    assert scene.hosts.given == {insert(GAIN).digest}
    assert path.read_bytes() == GAIN


async def test_a_planted_file_is_never_given_to_a_host_when_there_is_no_mixer(scene: Scene) -> None:
    await running(scene, GAIN)
    scene.library.path(insert(GAIN).digest).write_bytes(flipped(GAIN))
    scene.mixer.connected = False
    await scene.restart()
    await scene.until(lambda: scene.told("module.rejected"))
    await scene.a_pass()
    assert scene.hosts.calls == []
    assert scene.state() == ("waiting", "wrong_digest")


async def test_a_link_planted_in_the_library_is_not_followed_and_removed(
    scene: Scene, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").write_bytes(GAIN)
    await running(scene, GAIN)
    path = scene.library.path(insert(GAIN).digest)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    await scene.restart()
    await scene.runs(eq="1.0.0")
    assert scene.told("module.rejected") == [("eq", "unreadable")]
    assert not path.is_symlink()


# Room


async def test_what_there_is_no_room_for_is_told_and_neither_fetched_nor_kept_and_others_run(
    scene: Scene,
) -> None:
    limiter = module(name="limiter")
    scene.limits = replace(scene.limits, module_bytes=len(limiter))
    await scene.restart()
    await running(scene, GAIN)
    scene.mixer.has(limiter)
    pieces = len(scene.mixer.pieces())
    beyond = insert(limiter, "limit", module="limiter")
    await scene.command(sheet(2, insert(GAIN), insert(GAIN, "eq-1"), beyond))
    await scene.runs(**{"eq": "1.0.0", "eq-1": "1.0.0"})
    await scene.until(lambda: scene.told("module.rejected"))
    scene.service.connected()
    await scene.a_pass()
    assert scene.told("module.rejected") == [("limit", "modules_full")]
    assert scene.state("limit") == ("rejected", "modules_full")
    assert len(scene.mixer.pieces()) == pieces
    assert scene.library.read(beyond.digest) is None
    await scene.command(sheet(3, beyond, insert(GAIN)))  # the sheet's order decides, not what ran before
    await scene.runs(limit="1.0.0")
    await scene.until(lambda: scene.told("module.rejected")[1:])
    assert scene.told("module.rejected")[1:] == [("eq", "modules_full")]
    assert scene.library.read(insert(GAIN).digest) is None


async def test_however_many_files_a_sheet_names_disk_and_memory_have_a_bound(scene: Scene) -> None:
    files = [module(name=f"gain-{number}") for number in range(20)]
    scene.mixer.has(*files)
    scene.limits = replace(scene.limits, module_bytes=5 * max(map(len, files)))
    await scene.restart()
    inserts = [insert(data, f"eq-{at}", module=f"gain-{at}") for at, data in enumerate(files)]
    await scene.command(sheet(1, *inserts))
    await scene.until(lambda: len(scene.hosts.now) == 5 and len(scene.alerts) == 15)
    assert [placed.insert for placed in scene.hosts.now] == inserts[:5]
    assert {path.stem for path in scene.modules.glob("*.wasm")} == {i.digest.hex() for i in inserts[:5]}
    await scene.command(sheet(2, *reversed(inserts)))
    await scene.until(
        lambda: {placed.insert.id for placed in scene.hosts.now} == {f"eq-{at}" for at in range(15, 20)}
    )
    assert max(len(call) for call in scene.hosts.calls) == 5
    assert len(list(scene.modules.glob("*.wasm"))) == 5


def test_the_room_is_that_of_the_format() -> None:
    assert LIMITS.module_bytes == FORMAT.rack_modules_bytes == 64 << 20


# Serial floors


async def test_the_serial_floor_is_durable_before_a_host_is_given_the_file(scene: Scene) -> None:
    stored: list[int] = []

    def look(wanted: tuple[Placed, ...]) -> None:
        if wanted:
            kept = serials.SerialFloors(
                scene.modules / serials.FILE_NAME, cluster="flux-prod", rack="stage-left"
            )
            kept.load()
            stored.append(kept.of("gain"))

    scene.hosts.before = look
    await running(scene, module(serial=7))
    assert stored == [7]


async def test_an_older_serial_than_ran_here_is_refused_also_after_a_restart(scene: Scene) -> None:
    await running(scene, module(serial=7))
    older = module(serial=6)
    scene.mixer.has(older)
    await scene.command(sheet(2, insert(older)))
    await scene.until(lambda: scene.told("module.rejected"))
    await scene.until(lambda: scene.hosts.now == ())
    assert scene.told("module.rejected") == [("eq", "downgrade")]
    await scene.restart()
    await scene.until(lambda: scene.told("module.rejected"))
    assert scene.hosts.calls == []


async def test_of_two_files_of_a_module_only_the_one_of_the_higher_serial_runs_whichever_comes_first(
    scene: Scene,
) -> None:
    old, new = insert(GAIN, "old"), of_version_2(insert_id="new")
    scene.mixer.has(GAIN)
    await scene.command(sheet(1, old, new))
    await scene.runs(old="1.0.0")
    scene.mixer.has(GAIN_2)
    scene.service.connected()
    await scene.runs(new="2.0.0")
    assert scene.told("module.stopped") == [("old", "downgrade")]
    assert all(len(call) <= 1 for call in scene.hosts.calls), "the two never ran side by side"
    await scene.restart()
    await scene.runs(new="2.0.0")
    assert all("old" not in {placed.insert.id for placed in call} for call in scene.hosts.calls)


async def test_two_files_of_a_module_under_one_serial_run_side_by_side(scene: Scene) -> None:
    again = module(serial=2)
    scene.mixer.has(again, GAIN_2)
    await scene.command(sheet(1, insert(again, "old"), of_version_2(insert_id="new")))
    await scene.runs(old="1.0.0", new="2.0.0")
    await scene.restart()
    await scene.runs(old="1.0.0", new="2.0.0")
    assert scene.alerts == []


async def test_no_module_runs_whose_floor_cannot_be_kept_until_it_can(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.mixer.has(GAIN)
    with monkeypatch.context() as patched:
        patched.setattr(serials, "write_atomic", full)
        await scene.command(sheet(1, insert(GAIN)))
        await scene.until(lambda: scene.told("module.rejected"))
        assert scene.told("module.rejected") == [("eq", "floor_not_kept")]
        assert scene.hosts.calls == []
    await scene.runs(eq="1.0.0")


async def test_after_lost_floors_nothing_runs_until_the_mixer_has_said_what_is_wanted(scene: Scene) -> None:
    await running(scene, GAIN)
    await scene.stop()
    (scene.modules / "serials.cbor").write_bytes(b"damaged")
    scene.mixer.connected = False
    scene.hosts.calls.clear()
    await scene.start()
    await scene.until(lambda: scene.told("module.rejected"))
    assert scene.told("module.rejected") == [("eq", "floors_lost")]
    assert "module.floors_lost" in [name for name, _ in scene.alerts]
    await scene.a_pass()
    assert scene.hosts.calls == []
    scene.mixer.connected = True
    scene.service.connected()
    await scene.runs(eq="1.0.0")
    assert "module.floors_restored" in [name for name, _ in scene.events]


async def test_only_a_genuine_fresh_answer_restores_lost_floors(scene: Scene) -> None:
    await running(scene, GAIN)
    await scene.stop()
    (scene.modules / "serials.cbor").write_bytes(b"damaged")
    scene.mixer.reply["patch"] = {"key": OTHER_KEY}
    scene.hosts.calls.clear()
    await scene.start()
    before = len(scene.mixer.asked)
    await scene.until(lambda: len(scene.mixer.asked) >= before + 3)
    await scene.command(sheet(2, insert(GAIN)))  # a command is no answer: it may be an old one
    await scene.a_pass()
    assert scene.floors.lost
    assert scene.hosts.calls == []


# Denial


BANS = [
    (DenyKind.MODULE, module_value(hashlib.sha256(GAIN).digest())),
    (DenyKind.MODULE, module_value(hashlib.sha256(signed_module()).digest())),
    (DenyKind.VENDOR, VENDOR.root.key_id.hex()),
]


@pytest.mark.parametrize(("kind", "value"), BANS, ids=["file", "vendor-signed-file", "vendor"])
async def test_what_is_denied_while_it_runs_stops_at_once_and_stays_off(
    scene: Scene, kind: str, value: str
) -> None:
    await running(scene, GAIN)
    await scene.deny(deny_list(1, kind, value))
    await scene.until(lambda: scene.hosts.now == (), timeout=1.0)
    assert scene.told("module.stopped") == [("eq", "denied")]
    assert scene.state() == ("stopped", "denied")
    await scene.restart()
    await scene.until(lambda: scene.told("module.rejected"))
    assert scene.told("module.rejected") == [("eq", "denied")]
    assert scene.hosts.calls == []


async def test_a_denial_does_not_wait_for_a_file_on_its_way(scene: Scene) -> None:
    await running(scene, GAIN)
    scene.mixer.open.clear()
    limiter = module(name="limiter")
    await scene.command(sheet(2, insert(GAIN), insert(limiter, "slow", module="limiter")))
    await scene.until(lambda: scene.supply.fetching is not None)
    assert scene.state("slow") == ("fetching", "missing")
    await scene.deny(deny_list(1, *BANS[0]))
    await scene.until(lambda: scene.hosts.now == (), timeout=1.0)


async def test_a_denial_does_not_wait_for_what_is_being_arranged(scene: Scene) -> None:
    limiter = module(name="limiter")
    scene.mixer.has(limiter)
    await running(scene, GAIN)
    scene.hosts.open.clear()
    asked = scene.hosts.asked
    await scene.command(sheet(2, insert(GAIN), insert(limiter, "slow", module="limiter")))
    await scene.until(lambda: scene.hosts.asked > asked)
    await scene.deny(deny_list(1, *BANS[0]))
    await scene.until(lambda: scene.hosts.now == (), timeout=1.0)
    assert scene.told("module.stopped") == [("eq", "denied")]
    scene.hosts.open.set()
    await scene.runs(slow="1.0.0")


async def test_a_version_that_is_heard_until_the_next_one_runs_is_not_if_it_is_denied(scene: Scene) -> None:
    scene.mixer.has(GAIN_2)
    await running(scene, GAIN)
    scene.hosts.open.clear()
    asked = scene.hosts.asked
    await scene.command(sheet(2, of_version_2()))
    await scene.until(lambda: scene.hosts.asked > asked)
    assert scene.hosts.versions == {"eq": "1.0.0"}
    await scene.deny(deny_list(1, *BANS[0]))
    await scene.until(lambda: scene.hosts.now == (), timeout=1.0)
    assert scene.told("module.stopped") == [("eq", "denied")]
    scene.hosts.open.set()
    await scene.runs(eq="2.0.0")


async def test_that_a_module_was_stopped_is_said_once_nobody_hears_it(scene: Scene) -> None:
    await running(scene, GAIN)
    scene.hosts.obeying.clear()
    await scene.deny(deny_list(1, *BANS[0]))
    await scene.until(lambda: scene.state()[1] == "denied")
    looking = asyncio.create_task(scene.a_pass())
    done, _ = await asyncio.wait({looking}, timeout=0.3)
    assert (done, scene.alerts) == (set(), [])
    scene.hosts.obeying.set()
    await looking
    assert scene.told("module.stopped") == [("eq", "denied")]
    assert scene.told("module.rejected") == []


async def test_a_denial_counts_also_when_the_disk_does_not_take_the_list(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running(scene, GAIN)
    monkeypatch.setattr(witnessing, "write_atomic", full)
    with pytest.raises(StorageError):
        await scene.deny(deny_list(1, *BANS[0]))
    await scene.until(lambda: scene.hosts.now == ())


async def test_a_denial_hits_only_what_it_names(scene: Scene) -> None:
    limiter = module(name="limiter", serial=3)
    scene.mixer.has(GAIN, limiter)
    await scene.command(sheet(1, insert(GAIN), insert(limiter, "limit", module="limiter")))
    await scene.runs(eq="1.0.0", limit="1.0.0")
    await scene.deny(deny_list(1, *BANS[0]))
    await scene.runs(limit="1.0.0")


async def test_a_lifted_ban_lets_the_module_run_again(scene: Scene) -> None:
    await running(scene, GAIN)
    await scene.deny(deny_list(1, *BANS[0]))
    await scene.until(lambda: scene.hosts.now == ())
    await scene.deny(deny_list(2))
    await scene.runs(eq="1.0.0")
    await scene.deny(deny_list(3, *BANS[0]))
    await scene.until(lambda: scene.hosts.now == ())
    assert scene.told("module.stopped") == [("eq", "denied")] * 2


async def test_after_a_lost_deny_list_nothing_runs_until_there_is_one_again(scene: Scene) -> None:
    await running(scene, GAIN)
    await scene.deny(deny_list(4))
    await scene.stop()
    scene.paths.denied.write_bytes(b"damaged")
    scene.hosts.calls.clear()
    await scene.start()
    await scene.until(lambda: scene.told("module.rejected"))
    assert scene.told("module.rejected") == [("eq", "deny_list_lost")]
    assert scene.hosts.calls == []
    await scene.deny(deny_list(4))
    await scene.runs(eq="1.0.0")


async def test_a_mixer_that_never_denied_anything_settles_a_lost_deny_list(scene: Scene) -> None:
    await running(scene, GAIN)
    await scene.stop()
    scene.paths.denied.write_bytes(b"damaged")
    scene.hosts.calls.clear()
    await scene.start()
    await scene.until(lambda: scene.told("module.rejected"))
    scene.witness.settle()
    await scene.runs(eq="1.0.0")


# Time


async def test_a_module_stops_when_its_countersignature_ends(scene: Scene) -> None:
    await running(scene, module(expires=NOW + DAY))
    scene.wall = NOW + DAY - 1
    await scene.a_pass()
    assert scene.hosts.versions == {"eq": "1.0.0"}
    scene.wall = NOW + DAY
    await scene.until(lambda: scene.hosts.now == ())
    assert scene.told("module.stopped") == [("eq", "expired")]


async def test_a_module_stops_at_its_end_by_a_timer_of_its_own(quiet: Scene) -> None:
    await running(quiet, module(expires=NOW + SECOND // 2))
    # The wall clock stands still: what goes on is the signed time of the sheet, with the monotonic clock.
    await quiet.until(lambda: quiet.hosts.now == ())
    assert quiet.told("module.stopped") == [("eq", "expired")]


async def test_a_clock_set_back_runs_nothing_that_has_ended_by_signed_time(scene: Scene) -> None:
    await running(scene, module(expires=NOW + DAY))
    scene.mixer.time_ns = NOW + 2 * DAY
    scene.wall = NOW - 365 * DAY
    scene.service.connected()
    await scene.until(lambda: scene.clock.floor >= NOW + 2 * DAY)
    await scene.a_pass()
    assert scene.hosts.now == ()
    scene.mixer.connected = False
    await scene.restart()
    await scene.until(lambda: scene.told("module.rejected"))
    assert scene.told("module.rejected") == [("eq", "expired")]
    assert scene.hosts.calls == []


async def test_a_clock_that_was_wrong_once_ends_nothing_for_good(scene: Scene) -> None:
    scene.mixer.has(GAIN)
    await running(scene, GAIN)
    scene.wall = NOW + 365 * DAY
    await scene.until(lambda: scene.hosts.now == ())
    assert scene.told("module.stopped") == [("eq", "expired")]
    scene.mixer.connected = False  # nothing but the clock changes
    scene.wall = NOW
    await scene.runs(eq="1.0.0")


async def test_a_clock_that_was_wrong_at_the_start_keeps_nothing_out_for_good(scene: Scene) -> None:
    await running(scene, GAIN)
    scene.mixer.connected = False
    scene.wall = NOW + 365 * DAY
    await scene.restart()
    await scene.until(lambda: scene.told("module.rejected"))
    assert scene.told("module.rejected") == [("eq", "expired")]
    scene.wall = NOW
    await scene.runs(eq="1.0.0")


async def test_a_rack_without_a_clock_takes_the_sheets_time(scene: Scene) -> None:
    scene.wall = 0
    await running(scene, GAIN)
    assert scene.clock.now_ns() >= NOW


async def test_the_deny_lists_time_is_a_signed_time_too(scene: Scene) -> None:
    scene.wall = 0
    await running(scene, module(expires=NOW + DAY))
    await scene.deny(deny_list(1, time_ns=NOW + DAY))
    await scene.until(lambda: scene.hosts.now == ())
    assert scene.told("module.stopped") == [("eq", "expired")]


# Without a mixer


async def test_a_rack_runs_from_its_library_and_held_sheet_without_a_mixer(scene: Scene) -> None:
    await running(scene, GAIN)
    scene.mixer.connected = False
    asked = len(scene.mixer.asked)
    await scene.restart()
    await scene.runs(eq="1.0.0")
    assert len(scene.mixer.asked) == asked


async def test_a_module_that_is_not_here_waits_for_the_mixer_and_others_run(scene: Scene) -> None:
    await running(scene, GAIN)
    scene.mixer.connected = False
    scene.mixer.has(GAIN_2)
    limiter = module(name="limiter")
    scene.mixer.has(limiter)
    await scene.command(sheet(2, insert(limiter, "limit", module="limiter"), insert(GAIN)))
    await scene.a_pass()
    assert scene.hosts.versions == {"eq": "1.0.0"}
    assert scene.state("limit") == ("waiting", "missing")
    scene.mixer.connected = True
    scene.service.connected()
    await scene.runs(limit="1.0.0", eq="1.0.0")
    assert scene.alerts == []


async def test_a_disk_that_does_not_take_the_file_does_not_keep_it_from_running(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "write_atomic", full)
    await running(scene, GAIN)
    assert scene.library.read(insert(GAIN).digest) is None


@pytest.mark.parametrize("code", ["unknown_module", "revoked", "not_assigned"])
async def test_a_file_that_the_mixer_does_not_give_is_an_event_and_asked_for_again(
    scene: Scene, code: str
) -> None:
    scene.mixer.has(GAIN)
    scene.mixer.reply["module"] = {"error": code}
    await scene.command(sheet(1, insert(GAIN)))
    await scene.until(lambda: len(scene.mixer.pieces()) >= 3)
    assert [detail["code"] for name, detail in scene.events if name == "module.not_fetched"] == [code]
    assert scene.state() in {("waiting", code), ("fetching", code)}
    scene.mixer.reply["module"] = {}
    await scene.runs(eq="1.0.0")
    assert scene.alerts == []


# Another version


async def test_a_version_goes_on_while_the_next_ones_file_is_on_its_way(scene: Scene) -> None:
    await running(scene, GAIN)
    scene.mixer.open.clear()
    scene.mixer.has(GAIN_2)
    await scene.command(sheet(2, of_version_2()))
    await scene.until(lambda: scene.supply.fetching is not None)
    assert scene.hosts.versions == {"eq": "1.0.0"}
    assert scene.state()[0] == "replacing"
    scene.mixer.open.set()
    await scene.runs(eq="2.0.0")
    assert all(call for call in scene.hosts.calls), "there was no moment without a module"


async def test_a_version_ends_when_the_next_one_is_refused(scene: Scene) -> None:
    await running(scene, GAIN)
    asked = of_version_2()
    scene.mixer.files[asked.digest] = flipped(GAIN_2)
    await scene.command(sheet(2, asked))
    await scene.until(lambda: scene.hosts.now == ())
    assert scene.told("module.rejected") == [("eq", "wrong_digest")]


async def test_a_version_does_not_go_on_for_ever(scene: Scene) -> None:
    scene.limits = replace(scene.limits, module_bridge=0.2)
    await scene.restart()
    await running(scene, GAIN)
    scene.mixer.open.clear()
    await scene.command(sheet(2, of_version_2()))
    await scene.a_pass()
    assert scene.hosts.versions == {"eq": "1.0.0"}
    await scene.until(lambda: scene.hosts.now == ())
    assert scene.alerts == []
    scene.mixer.has(GAIN_2)
    scene.mixer.open.set()
    await scene.runs(eq="2.0.0")


async def test_a_version_does_not_go_on_at_another_place(scene: Scene) -> None:
    await running(scene, GAIN)
    scene.mixer.open.clear()
    await scene.command(sheet(2, of_version_2(source="other")))
    await scene.until(lambda: scene.hosts.now == (), timeout=2.0)


async def test_a_version_that_is_denied_does_not_go_on_until_the_next_one_is_here(scene: Scene) -> None:
    await running(scene, GAIN)
    scene.mixer.open.clear()
    scene.mixer.has(GAIN_2)
    await scene.command(sheet(2, of_version_2()))
    await scene.until(lambda: scene.supply.fetching is not None)
    await scene.deny(deny_list(1, *BANS[0]))
    await scene.until(lambda: scene.hosts.now == ())
    scene.mixer.open.set()
    await scene.runs(eq="2.0.0")


# Suspended


async def test_a_suspended_rack_runs_nothing_when_obeying_returns_and_runs_it_again_when_active(
    scene: Scene,
) -> None:
    await running(scene, GAIN)
    await scene.service.obey(active=False)
    assert scene.hosts.now == ()
    assert scene.service.status() == []
    await scene.command(sheet(2, insert(GAIN)))
    await scene.a_pass()
    assert scene.hosts.now == ()
    await scene.service.obey(active=True)
    await scene.runs(eq="1.0.0")


async def test_a_rack_that_starts_suspended_runs_nothing(scene: Scene) -> None:
    await running(scene, GAIN)
    scene.active = False
    await scene.restart()
    await scene.a_pass()
    assert scene.hosts.calls == []


# Faults of others


async def test_hosts_that_fail_are_asked_again_and_end_nothing(quiet: Scene) -> None:
    quiet.hosts.failing = 3
    await running(quiet, GAIN)
    assert quiet.hosts.failing == 0
    assert not any(task.done() for task in quiet.tasks)


async def test_a_file_is_not_fetched_again_because_hosts_fail(quiet: Scene) -> None:
    quiet.hosts.failing = 5
    await running(quiet, GAIN)
    assert (quiet.hosts.failing, len(quiet.mixer.pieces())) == (0, 1)


async def test_what_waits_for_its_source_is_seated_when_it_is_captured_whatever_fails(quiet: Scene) -> None:
    await running(quiet, GAIN)
    quiet.hosts.failing = 2
    asked, calls = quiet.hosts.asked, len(quiet.hosts.calls)
    quiet.service.captured()
    await quiet.until(lambda: len(quiet.hosts.calls) > calls)
    assert (quiet.hosts.asked - asked, quiet.hosts.versions) == (3, {"eq": "1.0.0"})


async def test_a_source_that_comes_while_modules_are_arranged_is_not_forgotten(quiet: Scene) -> None:
    await running(quiet, GAIN)
    quiet.hosts.open.clear()
    asked = quiet.hosts.asked
    quiet.service.captured()
    await quiet.until(lambda: quiet.hosts.asked == asked + 1)
    quiet.service.captured()
    quiet.hosts.open.set()
    await quiet.until(lambda: quiet.hosts.asked == asked + 2)


async def test_a_denial_comes_through_although_the_hosts_failed_before(quiet: Scene) -> None:
    await running(quiet, GAIN)
    quiet.hosts.failing = 3
    await quiet.deny(deny_list(1, *BANS[0]))
    await quiet.until(lambda: quiet.hosts.now == (), timeout=2.0)


async def test_a_denial_is_carried_out_before_any_file_is_judged(quiet: Scene) -> None:
    await running(quiet, GAIN)
    quiet.mixer.connected = False
    limiter = module(name="limiter")
    await quiet.command(sheet(2, insert(GAIN), insert(limiter, "limit", module="limiter")))
    await quiet.a_pass()
    running_when_judged: list[dict[str, str]] = []
    judge = quiet.service._judge.judge

    def look(*args: Any, **kwargs: Any) -> Any:
        running_when_judged.append(quiet.hosts.versions)
        return judge(*args, **kwargs)

    quiet.service._judge.judge = look  # type: ignore[method-assign]
    await quiet.deny(deny_list(1, *BANS[0]))
    await quiet.until(lambda: running_when_judged)
    assert running_when_judged[0] == {}


async def test_a_pass_that_is_cancelled_is_made_again(quiet: Scene) -> None:
    await running(quiet, GAIN)
    quiet.hosts.open.clear()
    asked = quiet.hosts.asked
    obeying = asyncio.create_task(quiet.service.obey(active=False))
    await quiet.until(lambda: quiet.hosts.asked > asked)
    obeying.cancel()
    await asyncio.wait({obeying})
    quiet.hosts.open.set()
    await quiet.until(lambda: quiet.hosts.now == ())


# Heartbeats


async def test_a_heartbeat_says_how_each_insert_fares(scene: Scene) -> None:
    await running(scene, GAIN)
    assert scene.state() == ("starting", "")
    scene.hosts.facts = {"eq": Running("running", "", faults=1, over_budget=2, bypassed=3)}
    assert scene.service.status() == [
        {
            "insert": "eq", "module": "gain", "version": "1.0.0", "digest": insert(GAIN).digest.hex(),
            "point": "meters", "source": "main", "state": "running", "code": "",
            "faults": 1, "over_budget": 2, "bypassed": 3,
        }
    ]  # fmt: skip
    scene.hosts.facts = {"eq": Running("stopped", "fault", faults=3)}
    assert scene.state() == ("stopped", "fault")


async def test_the_state_directory_is_private(scene: Scene) -> None:
    await running(scene, GAIN)
    assert scene.modules.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in scene.modules.iterdir())
    assert ISSUER.public == scene.identity.passport.cluster_public


async def test_a_service_made_for_a_rack_keeps_its_files_in_the_state_directory(tmp_path: Path) -> None:
    given = Scene(tmp_path / "state")
    given.mixer.sheet = sheet(10**18)
    given.witness = DenyListWitness(given.paths.denied, cluster=CLUSTER, cluster_public=ISSUER.public)
    service = make_module_service(
        bus=given.mixer,
        identity=lambda: given.identity,
        denials=given.witness,
        arranger=given.hosts,
        event=lambda name, detail: given.events.append((name, detail)),
        alert=lambda name, detail: given.alerts.append((name, detail)),
        active=True,
    )
    await service.start()
    tasks = [asyncio.create_task(work, name=name) for name, work in service.work()]
    await given.until(lambda: (given.modules / "patch.cbor").exists())
    await end_tasks(tasks)
    await service.stop()
    assert {path.name for path in given.modules.iterdir()} == {"patch.cbor", "time.cbor"}
    assert (given.alerts, given.hosts.calls) == ([], [])
