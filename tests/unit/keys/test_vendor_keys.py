from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import structlog
from nacl.signing import SigningKey

from stagebox.cli import host
from stagebox.errors import InputError, KeyFileError, ModuleError
from stagebox.keyfiles import load_ed25519, signing_key
from stagebox.modules import vendor_root
from stagebox.modules.capabilities import Capability
from stagebox.modules.vendor_root import VendorRoot, VendorRoots
from stagebox.modules.verification import Signed, verify_vendor
from stagebox_keys.inspection import inspect
from stagebox_keys.module_signing import Claim, sign_module
from stagebox_keys.vendor import generate_vendor
from support.modules import unsigned_module

Capture = pytest.CaptureFixture[str]
PASSPHRASE = b"correct horse"
CLAIM = Claim("acme", "acme-gain", "1.2.0", (Capability.AUDIO,))


@pytest.fixture
def clean_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in list(os.environ):
        if variable.startswith("STAGEBOX_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        yield
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:], logging.raiseExceptions = before[0], before[2]
    root.setLevel(before[1])


def run(*args: str) -> int:
    return host.run(["keys", "gen-vendor", *args])


def of(directory: Path, passphrase: bytes | None = None) -> tuple[SigningKey, VendorRoot]:
    """The key and the root file that are in a vendor's directory."""
    key = signing_key(load_ed25519(directory / "vendor.key", passphrase))
    return key, vendor_root.parse((directory / "vendor.toml").read_text(), "vendor.toml")


def believed(data: bytes, root: VendorRoot, now: datetime) -> Signed:
    return verify_vendor(data, VendorRoots([root]), now_ns=int(now.timestamp()) * 10**9)


def test_a_vendors_key_signs_what_its_root_file_lets_a_mixer_believe(tmp_path: Path, now: datetime) -> None:
    generate_vendor(tmp_path / "acme", "acme", None, now)
    key, root = of(tmp_path / "acme")
    signed = believed(sign_module(unsigned_module(), CLAIM, key, now, days=30, root=root), root, now)
    assert (signed.statement.signer, signed.statement.name) == ("acme", "acme-gain")
    assert signed.statement.expires - signed.statement.issued == 30 * 86_400 * 10**9


def test_the_key_is_private_and_the_root_file_is_for_everybody(tmp_path: Path, now: datetime) -> None:
    made = generate_vendor(tmp_path / "acme", "acme", PASSPHRASE, now)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "acme").iterdir()}
    assert modes == {"vendor.key": 0o600, "vendor.toml": 0o644}
    assert stat.S_IMODE((tmp_path / "acme").stat().st_mode) == 0o700
    assert made.encrypted
    key, root = of(tmp_path / "acme", PASSPHRASE)
    assert bytes(key.verify_key) == root.public == made.root.public
    with pytest.raises(KeyFileError, match="does not open"):
        of(tmp_path / "acme", b"wrong horse")


def test_what_a_vendor_does_not_ask_for_it_does_not_get(tmp_path: Path, now: datetime) -> None:
    usual = generate_vendor(tmp_path / "usual", "acme", None, now).root
    assert Capability.CLOCK not in usual.capabilities
    assert usual.modules == ("*",)
    narrow = generate_vendor(
        tmp_path / "narrow", "acme", None, now, capabilities=[Capability.AUDIO], modules=["acme-*"], days=1
    ).root
    assert narrow.capabilities == (Capability.AUDIO,)
    assert narrow.allows_name("acme-eq")
    assert not narrow.allows_name("eq")
    assert narrow.not_after - narrow.not_before == (86_400 + 300) * 10**9


def test_a_directory_that_holds_anything_is_never_touched(tmp_path: Path, now: datetime) -> None:
    generate_vendor(tmp_path / "acme", "acme", None, now)
    before = {path.name: path.read_bytes() for path in (tmp_path / "acme").iterdir()}
    with pytest.raises(KeyFileError, match="never overwritten"):
        generate_vendor(tmp_path / "acme", "acme", None, now)
    assert {path.name: path.read_bytes() for path in (tmp_path / "acme").iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"owner": "Acme Inc"}, "not a legal vendor name"),
        ({"days": 0}, "--days 0"),
        ({"days": 100_000}, "--days 100000"),
        ({"modules": ["ACME"]}, "matches no module name"),
    ],
)
def test_a_root_file_that_would_not_read_back_is_not_made(
    tmp_path: Path, now: datetime, changes: dict[str, object], complaint: str
) -> None:
    arguments = {"owner": "acme", **changes}
    with pytest.raises(InputError, match=complaint):
        generate_vendor(tmp_path / "acme", passphrase=None, now=now, **arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_inspect_says_what_a_vendors_files_are(tmp_path: Path, now: datetime) -> None:
    made = generate_vendor(tmp_path / "acme", "acme", PASSPHRASE, now)
    key, root = inspect(tmp_path / "acme", PASSPHRASE, now)
    assert key["key_id"] == root["key_id"] == made.root.key_id.hex()
    assert (root["kind"], root["owner"], root["state"]) == ("module vendor", "acme", "valid")
    assert root["modules"] == ["*"]
    later = inspect(tmp_path / "acme" / "vendor.toml", None, now + timedelta(days=731))
    assert later[0]["state"] == "expired"
    [closed] = inspect(tmp_path / "acme" / "vendor.key", None, now)
    assert "key_id" not in closed


def test_inspect_says_that_an_operator_revoked_a_vendor(tmp_path: Path, now: datetime) -> None:
    root = generate_vendor(tmp_path / "acme", "acme", None, now).root
    text = (
        root.render().replace("revoked = false", "revoked = true").replace('reason = ""', 'reason = "stolen"')
    )
    (tmp_path / "acme.toml").write_text(text)
    [facts] = inspect(tmp_path / "acme.toml", None, now)
    assert (facts["state"], facts["reason"]) == ("revoked", "stolen")


def test_a_root_file_with_another_key_id_is_not_described(tmp_path: Path, now: datetime) -> None:
    root = generate_vendor(tmp_path / "acme", "acme", None, now).root
    (tmp_path / "acme.toml").write_text(root.render().replace(root.key_id.hex(), "0" * 32))
    with pytest.raises(InputError, match="key_id"):
        inspect(tmp_path / "acme.toml", None, now)


@pytest.mark.parametrize(
    ("claim", "complaint"),
    [
        (Claim("acme", "other-gain", "1.0.0", (Capability.AUDIO,)), "may not sign a module 'other-gain'"),
        (Claim("acme", "acme-gain", "1.0.0", (Capability.AUDIO, Capability.LOG)), "may not ask for 'log'"),
        (Claim("acme", "acme-gain", "one", (Capability.AUDIO,)), "not a semantic version"),
    ],
)
def test_what_a_mixer_would_refuse_is_not_signed(
    tmp_path: Path, now: datetime, claim: Claim, complaint: str
) -> None:
    generate_vendor(tmp_path / "acme", "acme", None, now, capabilities=[Capability.AUDIO], modules=["acme-*"])
    key, root = of(tmp_path / "acme")
    with pytest.raises(InputError, match=complaint):
        sign_module(unsigned_module(), claim, key, now, days=30, root=root)


def test_another_vendors_root_beside_the_key_is_noticed(tmp_path: Path, now: datetime) -> None:
    generate_vendor(tmp_path / "acme", "acme", None, now)
    other = generate_vendor(tmp_path / "other", "other", None, now).root
    with pytest.raises(InputError, match="another key"):
        sign_module(unsigned_module(), CLAIM, of(tmp_path / "acme")[0], now, days=30, root=other)


@pytest.mark.parametrize("days", [0, 3654])
def test_a_signature_has_a_bounded_life(tmp_path: Path, now: datetime, days: int) -> None:
    generate_vendor(tmp_path / "acme", "acme", None, now)
    with pytest.raises(InputError, match=f"--days {days}"):
        sign_module(unsigned_module(), CLAIM, of(tmp_path / "acme")[0], now, days=days)


DAY = 86_400 * 10**9


def test_a_signature_ends_with_the_vendors_key_if_nobody_asks_for_less(tmp_path: Path, now: datetime) -> None:
    generate_vendor(tmp_path / "acme", "acme", None, now, days=90)
    key, root = of(tmp_path / "acme")
    signed = believed(sign_module(unsigned_module(), CLAIM, key, now, root=root), root, now)
    assert signed.statement.expires == root.not_after
    shorter = believed(sign_module(unsigned_module(), CLAIM, key, now, days=89, root=root), root, now)
    assert shorter.statement.expires - shorter.statement.issued == 89 * DAY


def test_without_a_wish_a_signature_lasts_two_years_under_a_key_that_lasts_longer(
    tmp_path: Path, now: datetime
) -> None:
    generate_vendor(tmp_path / "acme", "acme", None, now, days=3_000)
    key, root = of(tmp_path / "acme")
    for trusted in (root, None):
        signed = believed(sign_module(unsigned_module(), CLAIM, key, now, root=trusted), root, now)
        assert signed.statement.expires - signed.statement.issued == 730 * DAY


@pytest.mark.parametrize(
    ("later", "days", "remedy"),
    [
        (timedelta(), 91, "; or give at most --days 90"),
        (timedelta(days=1, seconds=1), 90, "; or give at most --days 88"),
        (timedelta(days=89, seconds=1), 1, "at the latest"),
    ],
)
def test_a_signature_that_would_outlive_the_vendors_key_is_refused_with_both_dates(
    tmp_path: Path, now: datetime, later: timedelta, days: int, remedy: str
) -> None:
    generate_vendor(tmp_path / "acme", "acme", None, now, days=90)
    key, root = of(tmp_path / "acme")
    with pytest.raises(InputError) as refused:
        sign_module(unsigned_module(), CLAIM, key, now + later, days=days, root=root)
    assert f"would end {(now + later + timedelta(days=days)).isoformat()}" in refused.value.message
    assert f"'acme', which ends {(now + timedelta(days=90)).isoformat()}" in refused.value.message
    assert refused.value.remedy is not None
    assert refused.value.remedy.endswith(remedy)


@pytest.mark.parametrize("later", [timedelta(days=-1), timedelta(days=90)])
def test_a_key_out_of_its_time_signs_nothing(tmp_path: Path, now: datetime, later: timedelta) -> None:
    generate_vendor(tmp_path / "acme", "acme", None, now, days=90)
    key, root = of(tmp_path / "acme")
    with pytest.raises(InputError, match=f"until {(now + timedelta(days=90)):%Y-%m-%d}"):
        sign_module(unsigned_module(), CLAIM, key, now + later, root=root)


def test_a_module_that_needs_more_than_it_claims_is_not_signed(tmp_path: Path, now: datetime) -> None:
    generate_vendor(tmp_path / "acme", "acme", None, now)
    telemetry = Claim("acme", "acme-gain", "1.0.0", (Capability.TELEMETRY,))
    with pytest.raises(ModuleError) as refused:
        sign_module(unsigned_module(), telemetry, of(tmp_path / "acme")[0], now, days=30)
    assert refused.value.code == "export_missing"


def test_a_vendor_from_the_command_line(clean_process: None, tmp_path: Path, capsys: Capture) -> None:
    assert run("--owner", "acme", "--out", "acme", "--no-passphrase", "--capability", "audio", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    root = of(tmp_path / "acme")[1]
    assert (made["owner"], made["key_id"], made["encrypted"]) == ("acme", root.key_id.hex(), False)
    assert made["capabilities"] == ["audio"]
    assert made["files"] == ["vendor.key", "vendor.toml"]
    assert run("--owner", "acme", "--out", "acme", "--no-passphrase") == 66
    assert "never overwritten" in capsys.readouterr().err


def test_what_is_printed_says_who_gets_which_file(clean_process: None, capsys: Capture) -> None:
    assert run("--owner", "acme", "--out", "acme", "--no-passphrase") == 0
    out = capsys.readouterr().out
    assert "NOT encrypted" in out
    assert "acme/vendor.toml  public" in out
    assert "data/wasm/keys" in out


def test_without_a_terminal_a_vendors_passphrase_is_demanded(
    clean_process: None, tmp_path: Path, capsys: Capture
) -> None:
    assert run("--owner", "acme", "--out", "acme") == 64
    assert "--passphrase-file" in capsys.readouterr().err
    assert run("--owner", "acme", "--out", "acme", "--no-passphrase", "--passphrase-file", "p") == 64
    assert "contradict" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_passphrase_file_protects_the_vendors_key(
    clean_process: None, tmp_path: Path, capsys: Capture
) -> None:
    Path("pass").write_text("correct horse\n")
    Path("pass").chmod(0o600)
    assert run("--owner", "acme", "--out", "acme", "--passphrase-file", "pass") == 0
    assert b"ENCRYPTED" in Path("acme/vendor.key").read_bytes()
    assert "correct" not in "".join(capsys.readouterr())
    of(tmp_path / "acme", PASSPHRASE)
