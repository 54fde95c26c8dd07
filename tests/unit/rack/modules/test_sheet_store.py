"""The held patch sheet: only the pinned cluster's, only this rack's, only a newer one."""

from __future__ import annotations

from pathlib import Path

import pytest
from nacl.signing import SigningKey

from stagebox import envelope
from stagebox.errors import StorageError
from stagebox.modules.patch import Insert, PatchSheet, Point
from stagebox_rack.modules import sheet_store
from stagebox_rack.modules.sheet_store import SheetRefused, SheetStore

CLUSTER, RACK = "flux-prod", "stage-left"
KEY, OTHER_KEY = SigningKey(bytes(32)), SigningKey(bytes([9]) * 32)
INSERT = Insert("eq", "gain", "1.0.0", bytes(32), 100, Point.METERS, "main", params={"gain": 0.5})


def sealed(
    serial: int,
    *,
    key: SigningKey = KEY,
    domain: bytes = envelope.DOMAIN_PATCH,
    cluster: str = CLUSTER,
    rack: str = RACK,
    inserts: tuple[Insert, ...] = (INSERT,),
) -> bytes:
    return envelope.seal(domain, PatchSheet(cluster, rack, serial, inserts).encode(), key)


def opened(path: Path) -> SheetStore:
    made = SheetStore(path, cluster=CLUSTER, cluster_public=bytes(KEY.verify_key), rack=RACK)
    made.load()
    return made


def test_a_newer_sheet_is_taken_and_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "patch.cbor"
    found = opened(path)
    assert (found.sheet, found.serial) == (None, 0)
    assert found.offer(sealed(5))
    assert found.offer(sealed(6, inserts=()))
    again = opened(path)
    assert again.sheet == PatchSheet(CLUSTER, RACK, 6, ())
    assert path.read_bytes() == sealed(6, inserts=())
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_same_sheet_again_is_no_change(tmp_path: Path) -> None:
    found = opened(tmp_path / "patch.cbor")
    found.offer(sealed(5))
    held = found.sheet
    assert not found.offer(sealed(5))
    assert found.sheet is held


def test_a_sheet_with_fields_of_a_later_release_is_taken_and_kept_as_it_was_signed(tmp_path: Path) -> None:
    fields = {"Later": {"a": [1, None]}}
    sheet = PatchSheet(CLUSTER, RACK, 5, (INSERT,), extra=fields)
    later = envelope.seal(envelope.DOMAIN_PATCH, sheet.encode(), KEY)
    assert opened(tmp_path / "patch.cbor").offer(later)
    assert (tmp_path / "patch.cbor").read_bytes() == later
    again = opened(tmp_path / "patch.cbor").sheet
    assert again is not None
    assert (again.inserts, again.extra) == ((INSERT,), fields)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (sealed(4), "old_serial"),
        (sealed(5, inserts=()), "old_serial"),
        (sealed(9, key=OTHER_KEY), "signature"),
        (sealed(9, domain=envelope.DOMAIN_COMMAND), "signature"),
        (sealed(9, domain=envelope.DOMAIN_ANSWER), "signature"),
        (sealed(9, cluster="other"), "other_cluster"),
        (sealed(9, rack="stage-right"), "other_rack"),
        (sealed(9)[:-1], "malformed"),
        (sealed(9, inserts=(INSERT, INSERT)), "malformed"),
        (b"", "malformed"),
    ],
)
def test_any_other_sheet_is_refused_with_its_code_and_changes_nothing(
    tmp_path: Path, data: bytes, code: str
) -> None:
    path = tmp_path / "patch.cbor"
    found = opened(path)
    found.offer(sealed(5))
    with pytest.raises(SheetRefused) as caught:
        found.offer(data)
    assert caught.value.code == code
    assert found.serial == 5
    assert path.read_bytes() == sealed(5)


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", sealed(5, key=OTHER_KEY), sealed(5, cluster="other"), sealed(5, rack="stage-right")],
)
def test_a_planted_or_damaged_sheet_counts_as_none_and_a_genuine_one_replaces_it(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "patch.cbor"
    path.write_bytes(content)
    found = opened(path)
    assert found.sheet is None
    assert path.read_bytes() == content
    assert found.offer(sealed(1))
    assert opened(path).serial == 1


def test_a_sheet_that_cannot_be_kept_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(tmp_path / "patch.cbor")

    def full(*_: object, **__: object) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(sheet_store, "write_atomic", full)
    with pytest.raises(StorageError):
        found.offer(sealed(5))
    assert found.sheet is None
