"""``stagebox audit`` against a running mixer: what was done is listed, and what was written verifies."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from stagebox.audit_chain import Head
from stagebox.cli import host
from stagebox.identity import Role
from support.cluster import Cluster, RunningMixer, running_mixer

Capture = pytest.CaptureFixture[str]


async def audit(mixer: RunningMixer, role: Role, *args: str) -> int:
    identity = str(mixer.cluster.client(role))
    return await asyncio.to_thread(host.run, ["audit", *args, "--mixer", mixer.https, "--identity", identity])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


async def test_what_an_operator_lists_is_what_was_done_and_it_verifies(
    mixer: RunningMixer, tmp_path: Path, capsys: Capture
) -> None:
    await mixer.enroll(tmp_path / "rack", "stage-left")
    capsys.readouterr()  # the mixer of this process logs
    assert await audit(mixer, Role.OPERATOR, "list", "--rack", "stage-left", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["action"] for row in rows][:2] == ["token_create", "enroll"]
    assert await audit(mixer, Role.OPERATOR, "verify", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["rows"] >= 2
    assert await audit(mixer, Role.OPERATOR, "verify", "--expect", report["head"]) == 0
    assert await audit(mixer, Role.OPERATOR, "verify", "--expect", f"1:{'a' * 64}") == 77


async def test_a_viewer_does_not_read_the_audit(mixer: RunningMixer, capsys: Capture) -> None:
    assert await audit(mixer, Role.VIEWER, "list") == 77
    assert capsys.readouterr().out == ""


async def test_the_chain_goes_on_over_a_restart(cluster: Cluster, tmp_path: Path, capsys: Capture) -> None:
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        await mixer.create_token("stage-left")
        assert await audit(mixer, Role.OPERATOR, "verify", "--json") == 0
        noted = Head.parse(json.loads(capsys.readouterr().out)["head"])
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        await mixer.create_token("stage-right")
        assert await audit(mixer, Role.OPERATOR, "verify", "--json", "--expect", str(noted)) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["last"] > noted.seq
        assert report["rewound"] == []
