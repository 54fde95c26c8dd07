"""Enrollment end to end: the rack's own code against a real mixer over real TLS, and against impostors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stagebox.errors import EnrollmentError, StageboxError, VerificationError
from stagebox.identity import Role
from stagebox.passport import PassportStatus
from stagebox_rack import state
from stagebox_rack.enrollment import enroll, parse_mixer_url
from stagebox_rack.state import StatePaths
from support.cluster import MACHINE, Cluster, RunningMixer, running_mixer
from support.natsd import Authority
from support.rackside import connected, load_any, rack_options

RACK = "stage-left"


async def test_a_token_gives_an_identity_that_connects_and_an_audit_row(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    passport = await mixer.redeem(tmp_path / "rack", await mixer.create_token(RACK))
    assert (passport.name, passport.serial, passport.status) == (RACK, 1, PassportStatus.ACTIVE)
    identity = state.load(StatePaths(tmp_path / "rack"), machine_id=MACHINE)
    async with connected(rack_options(identity)):
        pass
    created = await mixer.wait_audit(action="token_create", subject=RACK)
    assert created["actor"] == f"spiffe://{mixer.cluster.name}/client/admin/test-admin"
    row = await mixer.wait_audit(action="enroll", subject=RACK)
    assert row["result"] == "ok"
    assert row["detail"]["key"] == passport.rack_public.hex()
    assert created["time_ns"] < row["time_ns"]


async def test_a_wrong_token_is_refused_and_leaves_no_identity(mixer: RunningMixer, tmp_path: Path) -> None:
    with pytest.raises(EnrollmentError, match="token is not known"):
        await mixer.redeem(tmp_path / "rack", "sbt-guessed")
    assert not (tmp_path / "rack" / "state.flux").exists()
    row = await mixer.wait_audit(action="enroll", reason="unknown_token")
    assert row["result"] == "refused"
    assert "sbt-guessed" not in json.dumps(row)


async def test_an_expired_token_is_refused(mixer: RunningMixer, tmp_path: Path) -> None:
    token = await mixer.create_token(RACK, ttl_s=1)
    await asyncio.sleep(1.01)
    with pytest.raises(EnrollmentError, match="has expired") as caught:
        await mixer.redeem(tmp_path / "rack", token)
    assert "token create --rack stage-left" in str(caught.value.remedy)
    await mixer.wait_audit(action="enroll", reason="token_expired")


async def test_a_used_token_is_refused_to_another_key(mixer: RunningMixer, tmp_path: Path) -> None:
    token = await mixer.create_token(RACK)
    first = await mixer.redeem(tmp_path / "rack", token)
    with pytest.raises(EnrollmentError, match="already used by another key"):
        await mixer.redeem(tmp_path / "thief", token)
    await mixer.wait_audit(action="enroll", reason="token_reused")
    entry = await mixer.registry.rack(RACK)
    assert entry is not None
    assert entry.rack_public == first.rack_public


async def test_a_lost_reply_is_repeated_for_the_same_key_with_the_next_serial(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    token = await mixer.create_token(RACK)
    first = await mixer.redeem(tmp_path / "rack", token)
    (tmp_path / "rack" / "state.flux").unlink()  # the reply never arrived
    second = await mixer.redeem(tmp_path / "rack", token)
    assert second.serial == first.serial + 1
    assert second.rack_public == first.rack_public
    assert second.secret != first.secret
    await mixer.wait_audit(action="enroll", result="ok", reason="repeated")


async def test_a_token_for_another_rack_is_refused(mixer: RunningMixer, tmp_path: Path) -> None:
    token = await mixer.create_token("stage-right")
    with pytest.raises(EnrollmentError, match="is for rack 'stage-right', not for 'stage-left'"):
        await mixer.redeem(tmp_path / "rack", token, rack=RACK)
    await mixer.wait_audit(action="enroll", reason="other_rack")
    # The right rack has not lost its token by this.
    assert (await mixer.redeem(tmp_path / "right", token, rack="stage-right")).name == "stage-right"


async def test_a_token_bound_to_another_machine_is_refused(mixer: RunningMixer, tmp_path: Path) -> None:
    token = await mixer.create_token(RACK, machine_id=MACHINE)
    with pytest.raises(EnrollmentError, match="bound to another machine"):
        await mixer.redeem(tmp_path / "copy", token, machine=MACHINE + 1)
    await mixer.wait_audit(action="enroll", reason="other_machine")
    assert (await mixer.redeem(tmp_path / "rack", token)).machine_id == MACHINE


async def test_a_revoked_token_enrolls_nobody(mixer: RunningMixer, tmp_path: Path) -> None:
    async with mixer.api(Role.ADMIN) as api:
        made = (await api.post("/api/v1/tokens", json={"rack": RACK})).json()
        await mixer.redeem(tmp_path / "rack", made["token"])
        assert (await api.delete(f"/api/v1/tokens/{made['id']}")).json()["state"] == "revoked"
    (tmp_path / "rack" / "state.flux").unlink()
    with pytest.raises(EnrollmentError, match="was revoked"):
        await mixer.redeem(tmp_path / "rack", made["token"])
    await mixer.wait_audit(action="enroll", reason="token_revoked")


async def test_a_denied_rack_cannot_enroll_and_its_token_stays_good_for_when_it_is_cleared(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    token = await mixer.create_token(RACK)
    ban = {"kind": "machine", "value": f"{MACHINE:016x}"}
    async with mixer.api(Role.ADMIN) as api:
        assert (await api.post("/api/v1/denied", json={**ban, "reason": "stolen"})).status_code == 200
        with pytest.raises(EnrollmentError, match="is denied"):
            await mixer.redeem(tmp_path / "rack", token)
        refused = await api.post("/api/v1/tokens", json={"rack": RACK, "machine_id": MACHINE})
        assert (refused.status_code, refused.json()["error"]) == (403, "denied")
        await mixer.wait_audit(action="enroll", reason="denied")
        cleared = await api.delete(f"/api/v1/denied/{ban['kind']}/{ban['value']}")
        assert cleared.status_code == 200, cleared.text
    assert (await mixer.redeem(tmp_path / "rack", token)).serial == 1


async def test_the_shared_token_enrolls_named_racks_and_replaces_nobody(
    cluster: Cluster, tmp_path: Path
) -> None:
    secret = tmp_path / "shared.token"
    secret.write_text("one-token-for-the-whole-old-fleet\n")
    secret.chmod(0o600)
    shared = {"allow_shared_token": True, "shared_token_racks": (RACK,), "shared_token_file": secret}
    async with running_mixer(cluster, tmp_path / "data", **shared) as mixer:
        token = secret.read_text().strip()
        assert (await mixer.redeem(tmp_path / "rack", token, rack=RACK)).serial == 1
        with pytest.raises(EnrollmentError, match="never replaces an identity"):
            await mixer.redeem(tmp_path / "other", token, rack=RACK)
        with pytest.raises(EnrollmentError, match="may not enroll with the shared token"):
            await mixer.redeem(tmp_path / "right", token, rack="stage-right")


async def test_of_two_keys_at_once_exactly_one_gets_the_token(mixer: RunningMixer, tmp_path: Path) -> None:
    for attempt in range(4):
        name = f"rack-{attempt}"
        token = await mixer.create_token(name)
        results = await asyncio.gather(
            *(mixer.redeem(tmp_path / f"{name}-{number}", token) for number in range(3)),
            return_exceptions=True,
        )
        winners = [result for result in results if not isinstance(result, BaseException)]
        losers = [result for result in results if isinstance(result, EnrollmentError)]
        assert len(winners) == 1
        assert len(losers) == 2
        assert all("already used by another key" in loser.message for loser in losers)
        entry = await mixer.registry.rack(name)
        assert entry is not None
        assert (entry.rack_public, entry.serial) == (winners[0].rack_public, 1)


async def test_without_approval_a_rack_is_pending_until_an_operator_lets_it_in(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with running_mixer(cluster, tmp_path / "data", auto_approve=False) as mixer:
        token = await mixer.create_token(RACK)
        assert (await mixer.redeem(tmp_path / "rack", token)).status is PassportStatus.PENDING
        async with connected(rack_options(load_any(tmp_path / "rack"))):
            entry = await mixer.registry.rack(RACK)
            assert entry is not None
            assert entry.status is PassportStatus.PENDING
        async with mixer.api(Role.ADMIN) as api:
            answer = await api.post(f"/api/v1/racks/{RACK}/approve")
            assert answer.json()["status"] == "active"
            again = await api.post(f"/api/v1/racks/{RACK}/approve")
            assert (again.status_code, "not pending" in again.json()["message"]) == (400, True)
        row = await mixer.wait_audit(action="approve", subject=RACK)
        assert row["actor"] == f"spiffe://{cluster.name}/client/admin/test-admin"
        assert (await mixer.redeem(tmp_path / "rack", token)).status is PassportStatus.ACTIVE
        async with connected(rack_options(load_any(tmp_path / "rack"))):
            pass


async def test_approval_does_not_extend_to_another_key_of_the_same_name(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with running_mixer(cluster, tmp_path / "data", auto_approve=False) as mixer:
        await mixer.redeem(tmp_path / "old", await mixer.create_token(RACK))
        async with mixer.api(Role.ADMIN) as api:
            await api.post(f"/api/v1/racks/{RACK}/approve")
        fresh = await mixer.redeem(tmp_path / "new", await mixer.create_token(RACK))
        # The approval was an issue of its own: serial 2, for the old key.
        assert (fresh.status, fresh.serial) == (PassportStatus.PENDING, 3)
        rows = await mixer.audit_rows(action="enroll", result="ok")
        assert rows[-1]["detail"]["replaced_key"] == rows[0]["detail"]["key"]


async def test_a_state_directory_of_another_rack_is_not_taken_over(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    await mixer.enroll(tmp_path / "rack", RACK)
    before = (tmp_path / "rack" / "state.flux").read_bytes()
    token = await mixer.create_token("stage-right")
    with pytest.raises(EnrollmentError, match="is for rack 'stage-right', not for 'stage-left'"):
        await mixer.redeem(tmp_path / "rack", token)
    assert (tmp_path / "rack" / "state.flux").read_bytes() == before


# The token goes to nobody who has not proved to be the pinned cluster


async def test_a_wrong_pin_stops_before_the_token_is_sent(mixer: RunningMixer, tmp_path: Path) -> None:
    token = await mixer.create_token(RACK)
    with pytest.raises(VerificationError, match="the token was not sent"):
        await mixer.redeem(tmp_path / "rack", token, pin=f"sha256:{'0' * 64}")
    assert not await mixer.audit_rows(action="enroll")
    assert (await mixer.redeem(tmp_path / "rack", token)).serial == 1


@dataclass
class Impostor:
    """An HTTPS server of somebody else's, which answers with the CA it is told to and keeps what it hears."""

    ca: bytes
    port: int = 0
    heard: bytearray = field(default_factory=bytearray)
    requests: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heard += head
            self.requests.append(head.split(b"\r\n")[0].decode())
            body = json.dumps({"v": 1, "cluster": "flux-test", "ca": self.ca.decode()}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
            self.heard += await reader.read()
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def impostor(directory: Path, ca: bytes | None) -> AsyncIterator[Impostor]:
    authority = Authority(directory)
    server_identity = authority.issue("impostor", server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_identity.certificate_path, server_identity.key_path)
    made = Impostor(ca if ca is not None else authority.pem)
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("shows", ["its own CA", "the cluster's CA"])
async def test_an_impostor_never_hears_the_token(cluster: Cluster, tmp_path: Path, shows: str) -> None:
    from stagebox.certificates import root_pin

    ca = cluster.roots_pem if shows == "the cluster's CA" else None
    async with impostor(tmp_path / "impostor", ca) as server:
        with pytest.raises(StageboxError) as caught:
            await asyncio.to_thread(
                enroll,
                StatePaths(tmp_path / "rack"),
                mixer=parse_mixer_url(f"https://127.0.0.1:{server.port}"),
                token="sbt-secret-token",
                pin=root_pin(cluster.keys.issuing.root),
                machine_id=MACHINE,
                rack=None,
            )
        assert [line.split()[1] for line in server.requests] == ["/api/v1/trust"]
        assert b"sbt-secret-token" not in server.heard
    expected = "the token was not sent" if ca is None else "certificate verify failed"
    assert expected in caught.value.message
    assert not (tmp_path / "rack" / "state.flux").exists()
