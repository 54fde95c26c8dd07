"""A registry with damage in it, at a real mixer: everything else goes on, and what must be stopped can be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from stagebox import cbor
from stagebox.control.request import Verb
from stagebox.identity import Role
from stagebox.modules.patch import PatchSheet
from stagebox_mixer.streams import ASSIGNMENTS_BUCKET, MODULES_BUCKET
from support.cluster import Cluster, RunningMixer
from support.modules import Vendor
from support.patched import PatchedRack, patched_rack, signed_now, trust, vendor_now

REASON = {"reason": "backdoor"}


class Stage:
    """A mixer with ``gain@1.0.0`` and ``gain@2.0.0`` on one rack, and ``other@1.0.0`` assigned too."""

    def __init__(self, mixer: RunningMixer, admin: httpx.AsyncClient, vendor: Vendor) -> None:
        self.mixer = mixer
        self.admin = admin
        self.vendor = vendor

    async def fill(self) -> None:
        for name, version in (("gain", "1.0.0"), ("gain", "2.0.0"), ("other", "1.0.0")):
            await self.take(name, version)
            await self.assign(name, version, f"{name}-{version[0]}")

    async def take(self, name: str, version: str) -> httpx.Response:
        file = signed_now(vendor=self.vendor, name=name, version=version)
        return await self.admin.post("/api/v1/modules", content=file, timeout=60)

    async def assign(self, name: str, version: str, assignment: str) -> httpx.Response:
        wanted = {"module": name, "version": version, "id": assignment, "racks": ["*"], "point": "meters"}
        return await self.admin.post("/api/v1/assignments", json={**wanted, "source": "main"})

    async def get(self, path: str) -> dict[str, Any]:
        answer = await self.admin.get(path)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def damage(self, bucket: str, key: str, how: str) -> None:
        """Write past the mixer what it cannot read."""
        kv = await self.mixer.bus.js.key_value(bucket)
        held = (await kv.get(key)).value
        assert held is not None
        fields = cbor.expect_map(cbor.decode(held, max_bytes=1 << 16), "entry")
        data = {
            "empty": b"",
            "nothing in it": b"\xa0",
            "cut off": held[:-9],
            "a later version": cbor.encode({**fields, "v": 2}),
            "a later capability": cbor.encode({**fields, "granted": ["telepathy"]}),
            "a later limit": cbor.encode({**fields, "limits": {"Threads": 4}}),
            "a later point": cbor.encode({**fields, "point": "stagebox"}),
            "another's": cbor.encode({**fields, "version": "9.0.0", "id": "elsewhere"}),
        }[how]
        await kv.put(key, data)

    async def revoked(self, path: str) -> dict[str, Any]:
        answer = await self.admin.post(f"/api/v1/{path}/revoke", json=REASON)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def denied(self) -> set[str]:
        return {item["value"] for item in (await self.get("/api/v1/denied"))["denied"]}

    async def digest(self, name: str, version: str) -> str:
        (found,) = (
            item["vendor_digest"]
            for item in (await self.get(f"/api/v1/modules/{name}"))["versions"]
            if item["version"] == version
        )
        return f"sha256:{found}"


@pytest.fixture
async def stage(mixer: RunningMixer) -> AsyncIterator[Stage]:
    vendor = vendor_now()
    trust(mixer.settings.vendor_keys, vendor)
    async with mixer.api(Role.ADMIN) as admin:
        stage = Stage(mixer, admin, vendor)
        await stage.fill()
        yield stage


@pytest.fixture
async def rack(stage: Stage, cluster: Cluster, tmp_path: Path) -> AsyncIterator[PatchedRack]:
    identity = await stage.mixer.enroll(tmp_path / "rack", "stage-left")
    async with patched_rack(identity, cluster.name, cluster.keys.authority.public) as connected:
        yield connected


def inserts(sheet: PatchSheet | None) -> list[str]:
    assert sheet is not None
    return [insert.id for insert in sheet.inserts]


MODULE_DAMAGE = [
    "empty", "nothing in it", "cut off", "a later version", "a later capability", "a later limit", "another's",
]  # fmt: skip


@pytest.mark.parametrize("how", MODULE_DAMAGE)
async def test_any_version_and_the_vendor_are_revoked_whatever_else_is_damaged(
    stage: Stage, rack: PatchedRack, how: str
) -> None:
    first, second = await stage.digest("gain", "1.0.0"), await stage.digest("gain", "2.0.0")
    other = await stage.digest("other", "1.0.0")
    piece = {"Digest": (await rack.sheet()).inserts[2].digest, "Offset": 0}  # type: ignore[union-attr]
    await stage.damage(MODULES_BUCKET, "other.1.0.0", how)
    await stage.damage(ASSIGNMENTS_BUCKET, "gain-2", "nothing in it")
    # It is listed as what it is, and is on no sheet; nothing else is missing.
    listed = await stage.get("/api/v1/modules")
    assert [(item["name"], item["version"]) for item in listed["modules"]] == [
        ("gain", "1.0.0"), ("gain", "2.0.0"),
    ]  # fmt: skip
    (odd,) = listed["unreadable"]
    assert (odd["key"], odd["name"], odd["version"]) == ("other.1.0.0", "other", "1.0.0")
    assert odd["problem"]
    assert (await stage.get("/api/v1/modules/other"))["unreadable"] == [odd]
    assignments = await stage.get("/api/v1/assignments")
    assert [item["id"] for item in assignments["assignments"]] == ["gain-1", "other-1"]
    assert [item["id"] for item in assignments["unreadable"]] == ["gain-2"]
    assert inserts(await rack.sheet()) == ["gain-1"]
    assert (await rack.ask(Verb.MODULE, piece)).error == "unknown_module"
    # Another version.
    await stage.revoked("modules/gain/1.0.0")
    assert first in await stage.denied()
    assert inserts(await rack.sheet()) == []
    # The damaged one itself, by the file that this cluster signed.
    assert (await stage.revoked("modules/other/1.0.0"))["modules"] == [
        {"name": "other", "version": "1.0.0", "vendor_digest": other.removeprefix("sha256:")}
    ]
    assert other in await stage.denied()
    assert second not in await stage.denied()
    # The vendor, by its name and by its key.
    for vendor in (stage.vendor.root.owner, stage.vendor.root.key_id.hex()):
        answer = await stage.revoked(f"vendors/{vendor}")
        assert answer["keys"] == [stage.vendor.root.key_id.hex()]
    assert stage.vendor.root.key_id.hex() in await stage.denied()


@pytest.mark.parametrize("how", ["empty", "cut off", "a later version", "a later point", "another's"])
async def test_a_damaged_assignment_hinders_no_other_and_can_be_removed(
    stage: Stage, rack: PatchedRack, how: str
) -> None:
    await stage.damage(ASSIGNMENTS_BUCKET, "gain-1", how)
    assert inserts(await rack.sheet()) == ["gain-2", "other-1"]
    assert (await stage.assign("gain", "2.0.0", "room")).status_code == 200
    assert inserts(await rack.told()) == ["gain-2", "other-1", "room"]
    for answer in (
        await stage.assign("gain", "1.0.0", "gain-1"),
        await stage.admin.get("/api/v1/assignments/gain-1"),
    ):
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid")
        assert "unassign" in answer.json()["remedy"]
    answer = await stage.admin.delete("/api/v1/assignments/gain-1")
    assert (answer.status_code, answer.json()) == (200, {"v": 1, "id": "gain-1"})
    assert (await stage.get("/api/v1/assignments"))["unreadable"] == []
    assert (await stage.assign("gain", "1.0.0", "gain-1")).status_code == 200
    await stage.revoked("modules/gain/2.0.0")
    assert inserts(await rack.sheet()) == ["other-1", "gain-1"]


async def test_what_no_client_would_write_as_a_key_hides_nothing_either(stage: Stage) -> None:
    for bucket in (MODULES_BUCKET, ASSIGNMENTS_BUCKET):
        await stage.mixer.bus.js.publish(f"$KV.{bucket}.schlüssel.$x", b"\xa0")
    listed = await stage.get("/api/v1/modules")
    assert len(listed["modules"]) == 3
    assert [(item["key"], item["name"]) for item in listed["unreadable"]] == [("schlüssel.$x", None)]
    await stage.revoked("modules/gain/1.0.0")
    answer = await stage.admin.delete("/api/v1/assignments/no such")
    assert (answer.status_code, answer.json()["error"]) == (404, "unknown_assignment")
    row = await stage.mixer.wait_audit(action="module_unassign", result="refused")
    assert (row["subject"], row["reason"]) == ("no such", "unknown_assignment")
