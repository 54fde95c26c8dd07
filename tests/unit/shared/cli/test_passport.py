from __future__ import annotations

import json
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from stagebox import passport
from stagebox.cli import host
from stagebox.keyfiles import encode_public
from stagebox.passport import Passport, PassportStatus

Capture = pytest.CaptureFixture[str]
CLUSTER = SigningKey(bytes(range(32)))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A passport and the pin that verifies it."""
    issued = passport.issue(
        Passport(
            cluster_id="venue",
            machine_id=0xDEADBEEF,
            name="stage-left",
            tenant="default",
            status=PassportStatus.ACTIVE,
            secret="hunter22-secret",
            cluster_public=bytes(CLUSTER.verify_key),
            rack_public=bytes(32),
            serial=3,
            issued_at=1_700_000_000_000_000_000,
            not_after=(1 << 64) - 1,
            extra={"Colour\x1b[31m": "red"},
        ),
        CLUSTER,
    )
    state, pin = tmp_path / "state.flux", tmp_path / "cluster.pub"
    state.write_bytes(issued)
    pin.write_bytes(encode_public(bytes(CLUSTER.verify_key)))
    return state, pin


def inspect(files: tuple[Path, Path], *args: str) -> int:
    return host.run(["passport", "inspect", str(files[0]), "--pin", str(files[1]), *args])


def test_a_verified_passport_is_shown_without_its_secret(files: tuple[Path, Path], capsys: Capture) -> None:
    assert inspect(files, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["verified"] is True
    assert shown["identity"] == "spiffe://venue/tenant/default/rack/stage-left"
    assert (shown["serial"], shown["machine_id"]) == (3, "00000000deadbeef")
    assert shown["issued_at"] == "2023-11-14T22:13:20+00:00"
    assert inspect(files) == 0
    text = capsys.readouterr().out
    assert "hunter22" not in text + json.dumps(shown)
    assert "\x1b" not in text


@pytest.mark.parametrize("at", [10, 60, -1])
def test_a_flipped_bit_stops_with_78_and_shows_nothing(
    files: tuple[Path, Path], capsys: Capture, at: int
) -> None:
    data = bytearray(files[0].read_bytes())
    data[at] ^= 1
    files[0].write_bytes(data)
    assert inspect(files) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: the passport")


def test_a_pin_of_another_cluster_stops_with_78(files: tuple[Path, Path], capsys: Capture) -> None:
    files[1].write_bytes(encode_public(bytes(SigningKey(bytes(32)).verify_key)))
    assert inspect(files) == 78
    assert "of another cluster" in capsys.readouterr().err


def test_a_pin_that_is_no_key_is_named(files: tuple[Path, Path], capsys: Capture) -> None:
    files[1].write_text("hello")
    assert inspect(files) == 66
    assert "cluster.pub is not a PEM public key" in capsys.readouterr().err
