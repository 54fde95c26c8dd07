"""Leases through the real mixer to a real rack: audio comes with the first and goes with the last."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stagebox.control.command import CommandVerb
from stagebox.control.listen import Listen
from stagebox.identity import Role
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.listening import service as listening_module
from support.cluster import RunningMixer, make_cluster, running_mixer
from support.racks import Heard, hear, relay, running_rack
from support.rackside import until


@pytest.fixture
async def mixer(tmp_path: Path) -> AsyncIterator[RunningMixer]:
    cluster = make_cluster(tmp_path, "flux-test", datetime.now(UTC))
    async with running_mixer(cluster, tmp_path / "data") as running:
        await running.enroll(tmp_path / "rack", "left")
        yield running


async def call(
    mixer: RunningMixer, role: Role, method: str, path: str, **options: Any
) -> tuple[int, dict[str, Any]]:
    async with mixer.api(role) as api:
        answer = await api.request(method, f"/api/v1/racks/{path}", **options)
    found: dict[str, Any] = answer.json()
    return answer.status_code, found


async def listen(mixer: RunningMixer, role: Role = Role.VIEWER, **body: Any) -> tuple[int, dict[str, Any]]:
    return await call(mixer, role, "POST", "left/listen", json={"bus": "main", **body})


async def release(mixer: RunningMixer, lease: str, role: Role = Role.VIEWER) -> tuple[int, dict[str, Any]]:
    return await call(mixer, role, "DELETE", f"left/listen/main/{lease}")


async def quiet(heard: Heard) -> None:
    """Wait until nothing has come for half a second."""

    async def nothing_new() -> bool:
        before = len(heard.messages)
        await asyncio.sleep(0.5)
        return len(heard.messages) == before

    await until(nothing_new, 5)


async def test_two_listeners_share_and_the_last_one_ends_it(mixer: RunningMixer, tmp_path: Path) -> None:
    async with running_rack(tmp_path / "rack"), relay(mixer) as bus:
        packets = await hear(bus, "rack.left.audio.>")
        status, one = await listen(mixer)
        assert status == 200, one
        assert one["subject"] == "rack.left.audio.main"
        await packets.next(10)
        _, two = await listen(mixer, Role.OPERATOR)
        commands = await mixer.audit_rows(action="command")
        assert len(commands) == 1, "the second one costs the rack nothing"
        await release(mixer, one["lease"])
        await packets.next(25)
        await release(mixer, two["lease"], Role.OPERATOR)
        await quiet(packets)
        rows = await mixer.audit_rows(action="listen")
        assert [row["subject"] for row in rows] == ["left", "left"]


async def test_a_lease_is_renewed_by_its_id_and_belongs_to_who_took_it(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    async with running_rack(tmp_path / "rack"):
        _, mine = await listen(mixer)
        _, again = await listen(mixer, lease=mine["lease"])
        assert again["lease"] == mine["lease"]
        status, refused = await listen(mixer, Role.OPERATOR, lease=mine["lease"])
        assert (status, refused["message"]) == (400, "this lease is somebody else's")
        assert (await release(mixer, mine["lease"], Role.OPERATOR))[0] == 400
        assert (await release(mixer, mine["lease"]))[0] == 200
        assert (await release(mixer, mine["lease"]))[0] == 200, "gone already is no error"


async def test_a_listener_that_vanishes_is_forgotten(
    mixer: RunningMixer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening_module, "LIMITS", dataclasses.replace(LIMITS, listen_min_s=1))
    async with running_rack(tmp_path / "rack"), relay(mixer) as bus:
        packets = await hear(bus, "rack.left.audio.>")
        assert (await listen(mixer, ttl_s=1))[0] == 200
        await packets.next(10)
        await quiet(packets)


async def test_a_rack_alone_ends_what_nobody_renews(mixer: RunningMixer, tmp_path: Path) -> None:
    """The mixer is gone, say: the rack's own lease ends."""
    async with running_rack(tmp_path / "rack"), relay(mixer) as bus:
        packets = await hear(bus, "rack.left.audio.>")
        commands = mixer.mixer._membership.commands  # type: ignore[union-attr]
        await commands.send("left", CommandVerb.LISTEN, Listen("main", b"x" * 16, 1).args(), actor="test")
        await packets.next(10)
        await quiet(packets)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"bus": "nope"}, 409, "unknown_bus"),
        ({"bus": "Not A Name"}, 400, "invalid"),
        ({"ttl_s": 4}, 400, "invalid"),
        ({"ttl_s": 61}, 400, "invalid"),
        ({"ttl_s": "30"}, 422, "invalid_request"),
    ],
)
async def test_what_cannot_be_is_refused_with_its_reason(
    mixer: RunningMixer, tmp_path: Path, body: dict[str, Any], status: int, error: str
) -> None:
    async with running_rack(tmp_path / "rack"):
        answered, problem = await listen(mixer, **body)
        assert (answered, problem["error"]) == (status, error), problem
        assert problem["message"]


async def test_a_suspended_rack_sends_nothing_and_says_so(mixer: RunningMixer, tmp_path: Path) -> None:
    async with running_rack(tmp_path / "rack"), relay(mixer) as bus:
        packets = await hear(bus, "rack.left.audio.>")
        _, lease = await listen(mixer)
        await packets.next(5)
        async with mixer.api(Role.ADMIN) as api:
            assert (await api.post("/api/v1/racks/left/suspend")).status_code == 200
        statuses = await hear(bus, "rack.left.status")
        await statuses.status("suspended")
        await quiet(packets)
        answered, problem = await listen(mixer, Role.OPERATOR, ttl_s=60)
        # The mixer still thinks that the rack holds its lease, or asks and is refused: either way nothing comes.
        assert answered in (200, 409), problem
        assert lease["lease"]


async def test_a_rack_that_does_not_know_the_command_is_said_to_be_too_old(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    async with running_rack(tmp_path / "rack") as rack:
        del rack._control._commands._handlers["listen"]  # type: ignore[union-attr]
        answered, problem = await listen(mixer)
        assert (answered, problem["error"]) == (409, "unknown_verb")
        assert "too old" in problem["message"]


async def test_loudness_starts_again_on_command_and_a_wrong_name_is_refused(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    async with running_rack(tmp_path / "rack"):
        assert (await call(mixer, Role.OPERATOR, "POST", "left/reset-meters"))[0] == 200
        named = {"source": "main", "programme": "all"}
        assert (await call(mixer, Role.OPERATOR, "POST", "left/reset-meters", json=named))[0] == 200
        status, problem = await call(mixer, Role.OPERATOR, "POST", "left/reset-meters", json={"source": "x"})
        assert (status, problem["error"]) == (409, "unknown_source")
        assert (await call(mixer, Role.VIEWER, "POST", "left/reset-meters"))[0] == 403


async def test_a_rack_that_is_away_is_said_not_to_answer(mixer: RunningMixer, tmp_path: Path) -> None:
    status, problem = await listen(mixer)
    assert (status, problem["error"]) == (504, "unanswered")
    assert (await call(mixer, Role.VIEWER, "POST", "right/listen", json={"bus": "main"}))[0] == 404
