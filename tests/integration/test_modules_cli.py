"""``stagebox wasm`` against a running mixer: import, see, assign, take back, revoke, and errors that say what to do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stagebox.cli import host
from stagebox.identity import Role
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox_mixer.streams import ASSIGNMENTS_BUCKET, MODULES_BUCKET, WASM_OBJECTS
from support.cluster import RunningMixer
from support.modules import Vendor
from support.patched import signed_now, trust, vendor_now

Capture = pytest.CaptureFixture[str]


class Desk:
    """An administrator at a terminal."""

    def __init__(self, mixer: RunningMixer, vendor: Vendor, directory: Path, capsys: Capture) -> None:
        self.mixer = mixer
        self.vendor = vendor
        self.directory = directory
        self._capsys = capsys

    def file(self, version: str = "1.0.0", **fields: Any) -> str:
        path = self.directory / f"gain-{version}.wasm"
        path.write_bytes(signed_now(vendor=self.vendor, version=version, **fields))
        return str(path)

    async def wasm(self, *args: str, role: Role = Role.ADMIN, code: int = 0) -> str:
        """Run one command and return what it said: on standard output, or on standard error if it failed."""
        self._capsys.readouterr()  # the mixer of this process logs
        identity = str(self.mixer.cluster.client(role))
        command = ["wasm", *args, "--mixer", self.mixer.https, "--identity", identity]
        assert await asyncio.to_thread(host.run, command) == code, self._capsys.readouterr()
        said = self._capsys.readouterr()
        return said.err if code else said.out

    async def json(self, *args: str, role: Role = Role.ADMIN) -> Any:
        return json.loads(await self.wasm(*args, "--json", role=role))


@pytest.fixture
async def desk(
    mixer: RunningMixer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> AsyncIterator[Desk]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    vendor = vendor_now()
    trust(mixer.settings.vendor_keys, vendor)
    yield Desk(mixer, vendor, tmp_path, capsys)


async def test_a_module_from_its_file_to_a_rack_and_away_again(desk: Desk, tmp_path: Path) -> None:
    await desk.mixer.enroll(tmp_path / "rack", "stage-left")
    assert "no module is imported" in await desk.wasm("list")
    file = desk.file()
    said = await desk.wasm("import", file, "--reason", "ticket 17", "--limit", "memory_bytes=2097152")
    assert "imported  gain@1.0.0 of tone-works" in said
    assert "stagebox wasm assign gain@1.0.0" in said
    assert "nothing has changed" in await desk.wasm("import", file)
    (version,) = (await desk.json("show", "gain", role=Role.VIEWER))["versions"]
    assert version["limits"]["memory_bytes"] == 2 << 20
    shown = await desk.wasm("show", "gain@1.0.0")
    assert "param     gain: 0.0 to 4.0, 1.0 by default" in shown
    assert "it is not assigned" in shown
    place = ("--rack", "stage-*", "--point", "meters", "--source", "main", "--id", "eq")
    said = await desk.wasm("assign", "gain@1.0.0", *place, "--param", "gain=0.5")
    assert "meters/main" in said
    assert "100 %, 1 of 1 racks" in said
    await desk.wasm("import", desk.file("2.0.0"))
    made = await desk.json("assign", "gain@2.0.0", *place, "--percent", "0")
    assert (made["previous"], made["on"]) == ("1.0.0", [{"rack": "stage-left", "version": "1.0.0"}])
    listed = await desk.json("list", role=Role.VIEWER)
    assert [item["version"] for item in listed["modules"]] == ["1.0.0", "2.0.0"]
    assert [item["id"] for item in listed["assignments"]] == ["eq"]
    assert "no rack gets 2.0.0 at 1 %" in await desk.wasm("assign", "gain@2.0.0", *place, "--percent", "1")
    shown = await desk.wasm("show", "gain", role=Role.VIEWER)
    assert "as the racks said last" in shown
    assert "not there" in shown
    table = await desk.wasm("list")
    assert "before: 1.0.0" in table
    assert "gain@2.0.0" in table
    assert "serial" in await desk.wasm("reissue", "gain@1.0.0")
    said = await desk.wasm("revoke", "gain@2.0.0", "--reason", "backdoor", "--yes")
    assert "revoked everywhere" in said
    assert "gain@2.0.0" in said
    assert "2.0.0 is revoked, it runs nowhere" in await desk.wasm("list")
    assert "2.0.0 is revoked, it runs nowhere" in await desk.wasm("show", "gain")
    said = await desk.wasm("unassign", "eq", "--reason", "over")
    assert said.startswith("eq is removed")


async def test_what_the_mixer_cannot_read_is_shown_and_can_be_ended(desk: Desk) -> None:
    for version in ("1.0.0", "2.0.0"):
        await desk.wasm("import", desk.file(version))
    place = ("--rack", "*", "--point", "meters", "--source", "main", "--id", "eq")
    await desk.wasm("assign", "gain@1.0.0", *place)
    for bucket, key in ((MODULES_BUCKET, "gain.1.0.0"), (ASSIGNMENTS_BUCKET, "eq")):
        await (await desk.mixer.bus.js.key_value(bucket)).put(key, b"\xa0")
    listed = await desk.wasm("list", role=Role.VIEWER)
    assert "the mixer cannot read these, and they run nowhere" in listed
    assert "module gain@1.0.0" in listed
    assert "assignment eq" in listed
    said = await desk.json("list")
    assert [item["version"] for item in said["modules"]] == ["2.0.0"]
    assert [item.get("key") or item["id"] for item in said["unreadable"]] == ["gain.1.0.0", "eq"]
    assert "module gain@1.0.0" in await desk.wasm("show", "gain@1.0.0")
    assert "cannot be read" in await desk.wasm("import", desk.file(), code=77)
    assert "unassign it first" in await desk.wasm("assign", "gain@2.0.0", *place, code=65)
    assert "gain.1.0.0" in await desk.wasm("revoke", "--vendor", "tone-works", "--reason", "sold", "--yes")
    said = await desk.wasm("revoke", "gain@1.0.0", "--reason", "backdoor", "--yes")
    assert said.endswith("gain@1.0.0\n")
    assert (await desk.wasm("unassign", "eq")).startswith("eq is removed")
    assert "assignment eq" not in await desk.wasm("list")


async def test_a_repaired_import_does_not_look_as_if_nothing_had_changed(desk: Desk) -> None:
    file = desk.file()
    module = (await desk.json("import", file))["module"]
    objects = await desk.mixer.bus.js.object_store(WASM_OBJECTS)
    await objects.delete(module["digest"])
    said = await desk.wasm("import", file)
    assert "its file was lost at the mixer" in said
    assert "nothing has changed" not in said
    (again,) = (await desk.json("show", "gain"))["versions"]
    assert f"serial {again['serial']}" in said
    await objects.delete(again["digest"])
    answer = await desk.json("import", file)
    assert (answer["new"], answer["repaired"]) == (False, True)


async def test_vendors_are_listed_with_what_is_wrong_with_them(desk: Desk) -> None:
    directory = desk.mixer.settings.vendor_keys
    (directory / "odd.toml").write_text("owner =")
    table = await desk.wasm("vendors", role=Role.VIEWER)
    assert "not trusted: odd.toml is not TOML" in table
    assert desk.vendor.root.key_id.hex() in table
    said = await desk.wasm("revoke", "--vendor", "tone-works", "--reason", "key stolen", "--yes")
    assert desk.vendor.root.key_id.hex() in said
    assert "revoked" in await desk.wasm("vendors")
    assert "revoked" in await desk.wasm("import", desk.file(), code=77)
    for path in directory.iterdir():
        path.unlink()
    assert "no vendor is trusted" in await desk.wasm("vendors")


async def test_a_refused_import_says_why_and_what_to_do(desk: Desk, tmp_path: Path) -> None:
    altered = tmp_path / "altered.wasm"
    data = bytearray(Path(desk.file()).read_bytes())
    data[200] ^= 1
    altered.write_bytes(data)
    assert "the mixer refused" in await desk.wasm("import", str(altered), code=77)
    stranger = Desk(desk.mixer, vendor_now(9, owner="stranger"), tmp_path, desk._capsys)
    said = await stranger.wasm("import", stranger.file(), code=77)
    assert "put the vendor's root into the directory of trusted vendors" in said
    huge = tmp_path / "huge.wasm"
    huge.write_bytes(bytes(FORMAT.max_module_bytes + 1))
    assert "larger than" in await desk.wasm("import", str(huge), code=65)
    assert "cannot read" in await desk.wasm("import", str(tmp_path / "nothing.wasm"), code=65)
    assert "needs admin" in await desk.wasm("import", desk.file(), role=Role.OPERATOR, code=77)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("revoke", "gain", "--reason", "x", "--yes"), "names no version"),
        (("revoke", "--reason", "x", "--yes"), "name one thing"),
        (("revoke", "gain@1.0.0", "--vendor", "x", "--reason", "x", "--yes"), "name one thing"),
        (("revoke", "gain@1.0.0", "--reason", "x"), "say --yes"),
        (("show", "gain"), "no module 'gain' was imported"),
        (("show", "gain@"), "not a semantic version"),
        (("show", "@1.0.0"), "not a legal module name"),
        (("show", "a/b"), "not a legal module name"),
        (("unassign", ""), "not a legal assignment name"),
        (("unassign", "Bad Id"), "not a legal assignment name"),
        (("revoke", "--vendor", "a/b", "--reason", "x", "--yes"), "not a legal vendor name"),
        (("unassign", "eq"), "there is no assignment 'eq'"),
        (("assign", "gain@1.0.0", "--rack", "*", "--point", "meters", "--source", "main"), "was imported"),
        (("assign", "gain@1.0.0", "--rack", "*", "--point", "tap", "--param", "gain"), "finite number"),
        (("assign", "gain@1.0.0", "--rack", "*", "--point", "tap", "--param", "g=nan"), "finite number"),
        (
            ("assign", "gain@1.0.0", "--rack", "*", "--point", "tap", "--param", "g=1", "--param", "g=2"),
            "given twice",
        ),
        (("assign", "gain@1.0.0", "--rack", "*", "--point", "meters"), "meters needs --source NAME"),
        (
            ("assign", "gain@1.0.0", "--rack", "*", "--point", "monitor", "--source", "main"),
            "monitor needs --bus NAME",
        ),
        (("assign", "gain@one", "--rack", "*", "--point", "tap"), "not a semantic version"),
        (("import", __file__, "--limit", "magic=5"), "is no limit"),
    ],
)
async def test_what_makes_no_sense_is_said_in_plain_words(
    desk: Desk, args: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert words in " ".join((await desk.wasm(*args, code=65)).split())
