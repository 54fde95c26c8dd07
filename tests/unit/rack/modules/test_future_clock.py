"""After a mixer whose clock was far ahead: what a rack holds on to, and that the documented remedy is one.

docs/reference/module-state.md, "After a clock that was far ahead".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stagebox_rack.commands.service import CommandRefused
from support.module_scene import Scene, deny_list, insert, module, module_scene, sheet
from support.modules import DAY, NOW, SECOND

AHEAD = 20 * DAY
THEN = NOW + AHEAD
OF_THE_FUTURE = module(serial=THEN, issued=THEN, expires=THEN + 30 * DAY)
REISSUED = module(serial=THEN + 1, issued=NOW, expires=NOW + 30 * DAY)
BY_THE_RIGHT_CLOCK = module(serial=NOW + SECOND, issued=NOW, expires=NOW + 30 * DAY)


def sheet_at(time_ns: int, *files: bytes) -> bytes:
    return sheet(time_ns - NOW, *(insert(data) for data in files))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A rack with a right clock that was told of a module by a mixer whose clock was not; now it is again."""
    async with module_scene(tmp_path / "state") as made:
        made.mixer.time_ns = THEN
        made.mixer.has(OF_THE_FUTURE, REISSUED, BY_THE_RIGHT_CLOCK)
        made.mixer.sheet = sheet_at(THEN, OF_THE_FUTURE)
        made.service.connected()
        await made.runs(eq="1.0.0")
        made.mixer.time_ns, made.mixer.sheet = NOW, b""
        yield made


async def start_without(scene: Scene, *names: str) -> None:
    """Start the rack again, with these files of its ``modules/`` removed while it was stopped."""
    await scene.stop()
    for name in names:
        (scene.modules / name).unlink()
    scene.hosts.calls.clear()
    scene.alerts.clear()
    await scene.start()


async def rejected(scene: Scene, code: str) -> None:
    await scene.until(lambda: scene.told("module.rejected"))
    await scene.a_pass()
    assert scene.told("module.rejected") == [("eq", code)]
    assert scene.hosts.calls == []


async def test_a_rack_takes_no_sheet_of_the_right_clock_while_it_holds_one_of_the_future(
    scene: Scene,
) -> None:
    for _ in range(2):
        with pytest.raises(CommandRefused) as caught:
            await scene.command(sheet_at(NOW + SECOND, REISSUED))
        assert caught.value.code == "old_serial"
        await scene.restart()  # its mixer says nothing newer
        await scene.runs(eq="1.0.0")
    assert scene.clock.now_ns() >= THEN


async def test_without_sheet_and_time_it_goes_by_the_right_clock_and_runs_what_is_countersigned_again(
    scene: Scene,
) -> None:
    scene.mixer.sheet = sheet_at(NOW + SECOND, OF_THE_FUTURE)
    await start_without(scene, "patch.cbor", "time.cbor")
    await rejected(scene, "not_yet_valid")
    assert scene.clock.now_ns() < THEN
    await scene.command(sheet_at(NOW + 2 * SECOND, REISSUED))
    await scene.runs(eq="1.0.0")
    assert scene.floors.of("gain") == THEN + 1


async def test_a_mixer_that_lost_the_high_serial_is_heard_once_the_floors_are_removed_too(
    scene: Scene,
) -> None:
    scene.mixer.sheet = sheet_at(NOW + SECOND, BY_THE_RIGHT_CLOCK)
    await start_without(scene, "patch.cbor", "time.cbor")
    await rejected(scene, "downgrade")
    await start_without(scene, "serials.cbor")
    await scene.runs(eq="1.0.0")
    assert scene.floors.of("gain") == NOW + SECOND


@pytest.mark.parametrize(("ends", "runs"), [(THEN + DAY, True), (THEN - DAY, False)])
async def test_a_deny_list_of_the_future_goes_on_to_say_the_time_and_signatures_must_outlast_it(
    scene: Scene, ends: int, runs: bool
) -> None:
    await scene.deny(deny_list(1, time_ns=THEN))
    again = module(serial=THEN + 1, issued=NOW, expires=ends)
    scene.mixer.has(again)
    scene.mixer.sheet = sheet_at(NOW + SECOND, again)
    await start_without(scene, "patch.cbor", "time.cbor")
    if runs:
        await scene.runs(eq="1.0.0")
    else:
        await rejected(scene, "expired")
    assert scene.clock.now_ns() >= THEN
