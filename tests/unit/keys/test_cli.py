from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from stagebox.cli import host

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
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
    return host.run(["keys", *args])


def test_a_cluster_and_a_client_from_the_command_line(tmp_path: Path, capsys: Capture) -> None:
    assert run("gen-cluster", "--dir", "cluster", "--name", "flux-prod", "--no-passphrase", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["cluster"] == "flux-prod"
    assert made["encrypted"] is False
    assert {str(path.relative_to("cluster")) for path in Path("cluster").rglob("*") if path.is_file()} == set(
        made["files"]
    )
    client = ("gen-client", "--dir", "cluster", "--role", "viewer", "--name", "wall", "--out", "wall")
    assert run(*client, "--json") == 0
    assert json.loads(capsys.readouterr().out)["identity"] == "spiffe://flux-prod/client/viewer/wall"
    assert run("inspect", "wall", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert ["spiffe://flux-prod/client/viewer/wall"] in [item.get("names") for item in facts]
    assert run("inspect", "cluster/ca.pem", "--json") == 0
    [root] = json.loads(capsys.readouterr().out)
    assert root["fingerprint"] == made["ca_pin"]


def test_what_is_printed_says_what_to_take_away(capsys: Capture) -> None:
    assert run("gen-cluster", "--dir", "c", "--name", "venue", "--no-passphrase") == 0
    out = capsys.readouterr().out
    assert "c/offline/" in out
    assert "take it off this machine" in out
    assert "NOT encrypted" in out
    assert "CA pin   sha256:" in out


def test_without_a_terminal_a_passphrase_is_demanded_and_nothing_made(
    tmp_path: Path, capsys: Capture
) -> None:
    assert run("gen-cluster", "--dir", "c", "--name", "venue") == 64
    err = capsys.readouterr().err
    assert "no passphrase was given and there is no terminal" in err
    assert "--passphrase-file" in err
    assert list(tmp_path.iterdir()) == []


def test_a_second_cluster_in_the_same_place_is_refused(capsys: Capture) -> None:
    assert run("gen-cluster", "--dir", "c", "--name", "venue", "--no-passphrase") == 0
    capsys.readouterr()
    assert run("gen-cluster", "--dir", "c", "--name", "venue", "--no-passphrase") == 66
    assert "never overwritten" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["file", "environment"])
def test_a_passphrase_by_file_or_environment_encrypts_and_opens(
    way: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    option: tuple[str, ...] = ()
    if way == "file":
        Path("pass").write_text("correct horse\n")
        Path("pass").chmod(0o600)
        option = ("--passphrase-file", "pass")
    else:
        monkeypatch.setenv("STAGEBOX_KEYS_PASSPHRASE", "correct horse")
    assert run("gen-cluster", "--dir", "c", "--name", "venue", *option) == 0
    assert b"ENCRYPTED" in Path("c/mixer/issuing-ca.key").read_bytes()
    client = ("gen-client", "--dir", "c", "--role", "admin", "--name", "ops", "--out", "ops")
    assert run(*client, *option) == 0
    monkeypatch.setenv("STAGEBOX_KEYS_PASSPHRASE", "wrong horse")
    other = ("gen-client", "--dir", "c", "--role", "admin", "--name", "ops", "--out", "ops2")
    capsys.readouterr()
    assert run(*other) == 66
    out, err = capsys.readouterr()
    assert "does not open with this passphrase" in err
    assert "horse" not in out + err
    assert not Path("ops2").exists()


def test_two_ways_that_contradict_each_other_are_refused(capsys: Capture) -> None:
    assert run("gen-cluster", "--dir", "c", "--name", "v", "--no-passphrase", "--passphrase-file", "p") == 64
    assert "contradict" in capsys.readouterr().err


def test_inspecting_a_damaged_directory_exits_with_1(capsys: Capture) -> None:
    assert run("gen-cluster", "--dir", "c", "--name", "venue", "--no-passphrase") == 0
    key = Path("c/mixer/storage.key")
    key.write_bytes(key.read_bytes()[:50])
    capsys.readouterr()
    assert run("inspect", "c/mixer") == 1
    assert "storage.key is truncated or damaged" in capsys.readouterr().out


def test_the_client_profile_is_a_configuration_file(capsys: Capture) -> None:
    assert run("gen-cluster", "--dir", "c", "--name", "venue", "--no-passphrase") == 0
    assert run("gen-client", "--dir", "c", "--role", "admin", "--name", "ops", "--out", "ops") == 0
    capsys.readouterr()
    assert host.run(["--config", "ops/profile.toml", "config", "show", "--json"]) == 0
    client = json.loads(capsys.readouterr().out)["client"]
    assert client["identity"] == {"value": str(Path("ops").absolute()), "origin": "file ops/profile.toml"}
