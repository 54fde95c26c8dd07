"""The directory of trusted vendors: read anew when it changes, and no file is taken for more than it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from stagebox.control.denylist import DenyList, denied
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.vendors import Vendors
from support.modules import VENDOR, make_vendor
from support.patched import trust

KEY = VENDOR.root.key_id


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    trust(directory, VENDOR)
    return directory


def problems(vendors: Vendors) -> dict[str, str]:
    return {item.file: item.problem for item in vendors.all()}


def test_a_vendor_is_trusted_for_what_its_file_says(keys: Path) -> None:
    vendors = Vendors(keys)
    assert vendors.find(KEY) == VENDOR.root
    assert vendors.find(bytes(16)) is None
    assert problems(vendors) == {"tone-works.toml": ""}


def test_without_a_directory_nobody_is_trusted(tmp_path: Path) -> None:
    vendors = Vendors(tmp_path / "keys")
    assert vendors.all() == ()
    trust(tmp_path / "keys", VENDOR)
    assert vendors.find(KEY) is not None


def test_a_file_that_comes_changes_or_goes_counts_at_the_next_look(keys: Path) -> None:
    vendors, other = Vendors(keys), make_vendor(2, owner="night-owls")
    assert vendors.find(other.root.key_id) is None
    path = trust(keys, other)
    assert vendors.find(other.root.key_id) == other.root
    trust(keys, other, revoked=True)
    found = vendors.find(other.root.key_id)
    assert found is not None
    assert found.revoked
    path.unlink()
    assert vendors.find(other.root.key_id) is None
    assert vendors.find(KEY) is not None


def test_a_change_is_seen_although_size_and_time_were_set_back(keys: Path) -> None:
    vendors, path = Vendors(keys), keys / "tone-works.toml"
    assert vendors.find(KEY) is not None
    before = path.stat()
    text = path.read_text()
    path.write_text(text.replace("revoked = false", "revoked = true "))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    found = vendors.find(KEY)
    assert found is not None
    assert found.revoked


def test_files_that_did_not_change_are_not_read_again(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vendors = Vendors(keys)
    assert vendors.find(KEY) is not None

    def read(*_: object) -> None:
        raise AssertionError("it was opened")

    monkeypatch.setattr(os, "open", read)
    assert vendors.find(KEY) is not None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_as_good_as_none(keys: Path, mode: int) -> None:
    vendors, path = Vendors(keys), keys / "tone-works.toml"
    path.chmod(mode)
    with capture_logs() as logs:
        assert vendors.find(KEY) is None
    assert "written by others" in problems(vendors)["tone-works.toml"]
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["vendor_root_unusable"]
    path.chmod(0o644)
    assert vendors.find(KEY) is not None


def test_a_directory_that_others_may_write_trusts_nobody(keys: Path) -> None:
    vendors = Vendors(keys)
    assert vendors.find(KEY) is not None
    keys.chmod(0o777)
    assert vendors.find(KEY) is None
    assert "written by others" in problems(vendors)["."]
    keys.chmod(0o700)
    assert vendors.find(KEY) is not None


def test_a_file_of_somebody_elses_is_not_used(keys: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(keys / "tone-works.toml", 4242, -1)
    vendors = Vendors(keys)
    assert vendors.find(KEY) is None
    assert "user 4242" in problems(vendors)["tone-works.toml"]


def test_what_is_no_root_is_listed_with_the_reason_and_hides_no_other(keys: Path, tmp_path: Path) -> None:
    (keys / "broken.toml").write_text("owner = ")
    (keys / "bytes.toml").write_bytes(b"\xff\xfe")
    (keys / "huge.toml").write_text("#" * (64 << 10))
    (keys / "directory.toml").mkdir()
    os.mkfifo(keys / "pipe.toml", 0o600)
    trust(tmp_path / "elsewhere", make_vendor(3, owner="elsewhere"))
    (keys / "link.toml").symlink_to(tmp_path / "elsewhere" / "elsewhere.toml")
    (keys / "README").write_text("not looked at")
    (keys / ".hidden.toml").write_text("nor this")
    for path in (keys / "broken.toml", keys / "bytes.toml", keys / "huge.toml"):
        path.chmod(0o600)
    vendors = Vendors(keys)
    found = problems(vendors)
    assert found.pop("tone-works.toml") == ""
    assert set(found) == {
        "broken.toml", "bytes.toml", "huge.toml", "directory.toml", "pipe.toml", "link.toml",
    }  # fmt: skip
    assert all(found.values())
    assert vendors.find(KEY) is not None
    assert vendors.find(make_vendor(3).root.key_id) is None


def test_two_files_with_one_key_trust_neither(keys: Path) -> None:
    text = (keys / "tone-works.toml").read_text()
    (keys / "wider.toml").write_text(text.replace('modules = ["*"]', 'modules = ["a*"]'))
    (keys / "wider.toml").chmod(0o600)
    vendors = Vendors(keys)
    assert vendors.find(KEY) is None
    assert all("same key" in problem for problem in problems(vendors).values())
    (keys / "wider.toml").unlink()
    assert vendors.find(KEY) is not None


def test_more_files_than_the_limit_are_listed_and_not_read(keys: Path) -> None:
    for number in range(LIMITS.vendor_roots):
        (keys / f"a-{number:03d}.toml").touch(0o600)
    vendors = Vendors(keys)
    assert "more than" in problems(vendors)["tone-works.toml"]
    assert vendors.find(KEY) is None


def test_a_denied_vendor_is_revoked_whatever_its_file_says(keys: Path) -> None:
    vendors, nobody = Vendors(keys), DenyList("flux-test")
    assert vendors.under(nobody).find(KEY) == VENDOR.root
    found = vendors.under(nobody.with_denied(denied("vendor", KEY.hex()), now_ns=1)).find(KEY)
    assert found is not None
    assert found.revoked
    assert found.reason
    other = nobody.with_denied(denied("vendor", "00" * 16), now_ns=1)
    assert vendors.under(other).find(KEY) == VENDOR.root
    assert vendors.under(other).find(bytes(16)) is None
