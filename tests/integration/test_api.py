"""The HTTPS API refuses whoever may not, and whatever it cannot take, with one shape of answer and no secrets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from stagebox.identity import Role
from stagebox_mixer.limits import LIMITS
from support.cluster import Cluster, RunningMixer

SECRET = "sbt-secret-token-0123456789"
ADMIN_ROUTES = (
    ("POST", "/api/v1/tokens", {"rack": "stage-left"}),
    ("POST", "/api/v1/racks/stage-left/approve", None),
)
READ_ROUTES = (("GET", "/api/v1/racks", None), ("GET", "/api/v1/racks/stage-left", None))

SENSELESS: list[object] = [
    {"rack": "Stage Left"},
    {"rack": "x" * 64},
    {"rack": 5},
    {"rack": "stage-left", "machine_id": -1},
    {"rack": "stage-left", "machine_id": 1 << 64},
    {"rack": "stage-left", "ttl_s": "900"},
    {},
    [],
]
MALFORMED = [
    f'{{"token": "{SECRET}", "csr": '.encode(),
    f'{{"token": ["{SECRET}"], "csr": "x", "machine_id": 1}}'.encode(),
    f'{{"token": "{SECRET}", "csr": 5, "machine_id": 1}}'.encode(),
    f'{{"token": "{SECRET}", "csr": "x", "machine_id": 0}}'.encode(),
    f'{{"token": "{SECRET}", "csr": "not a CSR", "machine_id": 1}}'.encode(),
    f'{{"token": "{SECRET}{"x" * 300}", "csr": "x", "machine_id": 1}}'.encode(),
    f'{{"token": "\\ud800{SECRET}", "csr": "x", "machine_id": 1}}'.encode(),
    f'["{SECRET}"]'.encode(),
    f'"{SECRET}"'.encode(),
    b"\xff\xfe" + SECRET.encode(),
    SECRET.encode(),
    b"[" * 60_000,
    b"",
]


def problem(answer: httpx.Response) -> dict[str, str]:
    body: dict[str, str] = answer.json()
    assert set(body) == {"error", "message", "remedy"}
    return body


async def test_without_a_certificate_every_administrative_route_is_refused(mixer: RunningMixer) -> None:
    async with mixer.api(None) as api:
        for method, path, body in (*ADMIN_ROUTES, *READ_ROUTES):
            answer = await api.request(method, path, json=body)
            assert answer.status_code == 403, path
            assert problem(answer)["message"] == "this request needs a client certificate"
            assert "gen-client --role admin" in problem(answer)["remedy"]
    assert not await mixer.audit_rows(action="token_create")
    assert await mixer.registry.tokens.keys() == []


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
async def test_a_lesser_role_reads_and_may_not_administer(mixer: RunningMixer, role: Role) -> None:
    async with mixer.api(role) as api:
        for method, path, body in ADMIN_ROUTES:
            answer = await api.request(method, path, json=body)
            assert answer.status_code == 403, path
            assert f"has the role {role.value}, this needs admin" in problem(answer)["message"]
            assert problem(answer)["remedy"] == "use a certificate with the role admin"
        assert (await api.get("/api/v1/racks")).json() == {"v": 1, "racks": []}
    assert await mixer.registry.tokens.keys() == []


async def test_a_racks_certificate_is_nobody_to_the_api(
    mixer: RunningMixer, cluster: Cluster, tmp_path: Path
) -> None:
    rack = await mixer.enroll(tmp_path / "rack", "stage-left")
    async with httpx.AsyncClient(base_url=mixer.https, verify=rack.tls_context(), trust_env=False) as api:
        answer = await api.get("/api/v1/racks")
    assert answer.status_code == 403
    assert "not that of a person or tool" in problem(answer)["message"]


async def test_an_admin_sees_racks_without_secrets(mixer: RunningMixer, tmp_path: Path) -> None:
    rack = await mixer.enroll(tmp_path / "rack", "stage-left")
    async with mixer.api(Role.ADMIN) as api:
        listed = await api.get("/api/v1/racks")
        shown = await api.get("/api/v1/racks/stage-left")
        missing = await api.get("/api/v1/racks/stage-right")
        illegal = await api.get("/api/v1/racks/Stage_Left")
    assert [entry["name"] for entry in listed.json()["racks"]] == ["stage-left"]
    assert shown.json()["public_key"] == rack.passport.rack_public.hex()
    assert shown.json()["wal"] == []
    assert rack.passport.secret not in listed.text + shown.text
    assert "secret" not in listed.text + shown.text
    assert (missing.status_code, problem(missing)["error"]) == (404, "not_found")
    assert (illegal.status_code, problem(illegal)["error"]) == (400, "invalid")


async def test_a_token_lives_a_day_at_most(mixer: RunningMixer) -> None:
    async with mixer.api(Role.ADMIN) as api:
        for ttl_s in (0, -1, 24 * 3600 + 1):
            answer = await api.post("/api/v1/tokens", json={"rack": "stage-left", "ttl_s": ttl_s})
            assert answer.status_code == 400, ttl_s
            assert "token lifetime" in problem(answer)["message"]
    assert await mixer.registry.tokens.keys() == []


async def test_only_the_hash_of_a_token_is_stored(mixer: RunningMixer, tmp_path: Path) -> None:
    token = await mixer.create_token("stage-left")
    keys = await mixer.registry.tokens.keys()
    stored = await mixer.registry.tokens.get(keys[0])
    assert stored is not None
    assert token.encode() not in stored.entry.encode()
    assert token not in keys[0]
    assert token not in json.dumps(await mixer.audit_rows())


async def test_a_token_request_that_makes_no_sense_is_refused(mixer: RunningMixer) -> None:
    async with mixer.api(Role.ADMIN) as api:
        for body in SENSELESS:
            answer = await api.post("/api/v1/tokens", json=body)
            assert answer.status_code in (400, 422), body
            problem(answer)
    assert await mixer.registry.tokens.keys() == []


async def test_a_body_over_the_limit_is_refused_unread(mixer: RunningMixer) -> None:
    body = json.dumps({"token": SECRET, "csr": "x" * LIMITS.request_body_bytes, "machine_id": 1}).encode()
    async with mixer.api(None) as api:
        answer = await api.post("/api/v1/racks/enroll", content=body)
    assert (answer.status_code, problem(answer)["error"]) == (413, "too_large")
    assert SECRET not in answer.text


async def test_a_chunked_body_is_refused(mixer: RunningMixer) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"token": "'
        yield SECRET.encode()

    async with mixer.api(None) as api:
        answer = await api.post("/api/v1/racks/enroll", content=chunks())
    assert (answer.status_code, problem(answer)["error"]) == (411, "length_required")


async def test_a_nonsense_content_length_is_refused(mixer: RunningMixer, cluster: Cluster) -> None:
    for length in ("-1", "+5", "1e3", "99999999999999999999999999", "²"):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", mixer.mixer.https_port, ssl=cluster.client_tls(None), server_hostname="localhost"
        )
        head = f"POST /api/v1/racks/enroll HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        writer.write(head.encode("latin-1"))
        async with asyncio.timeout(5):
            status = await reader.readline()
        writer.close()
        assert status.split()[1] in (b"400", b"411", b"413"), length


async def test_a_malformed_request_never_echoes_the_token(
    mixer: RunningMixer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with mixer.api(None) as api:
        for body in MALFORMED:
            answer = await api.post(
                "/api/v1/racks/enroll", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code in (400, 422), body[:80]
            problem(answer)
            assert SECRET not in answer.text
    output = capsys.readouterr()
    assert SECRET not in output.out + output.err


async def test_an_unknown_route_answers_in_the_same_shape(mixer: RunningMixer) -> None:
    async with mixer.api(None) as api:
        missing, wrong = await api.get("/api/v2/racks"), await api.get("/api/v1/racks/enroll/")
        method = await api.delete("/healthz")
    assert (missing.status_code, problem(missing)["error"]) == (404, "not_found")
    assert wrong.status_code in (307, 404)
    assert (method.status_code, problem(method)["error"]) == (405, "method_not_allowed")


async def test_the_health_page_names_nobody(mixer: RunningMixer, tmp_path: Path) -> None:
    await mixer.enroll(tmp_path / "rack", "stage-left")
    async with mixer.api(None) as api:
        answer = await api.get("/healthz")
    assert answer.json()["status"] == "ok"
    assert "stage-left" not in answer.text


async def test_while_nats_is_away_the_api_says_so_and_no_token_is_made(mixer: RunningMixer) -> None:
    assert mixer.mixer.nats is not None
    pid = mixer.mixer.nats.pid
    assert pid is not None
    async with mixer.api(Role.ADMIN) as api:
        await api.get("/api/v1/racks")  # the TLS connection stands before the bus goes away
        os.kill(pid, signal.SIGSTOP)
        try:
            answer = await api.get("/api/v1/racks")
        finally:
            os.kill(pid, signal.SIGCONT)
    assert (answer.status_code, problem(answer)["error"]) == (503, "unavailable")


async def test_a_mixer_whose_ingest_ended_says_so_and_is_not_healthy(mixer: RunningMixer) -> None:
    async with mixer.api(None) as api:
        assert (await api.get("/healthz")).status_code == 200
        assert mixer.mixer.healthy()
        assert mixer.mixer._ingest is not None
        await mixer.mixer._ingest.stop()
        answer = await api.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["status"] == "failing"
    assert not mixer.mixer.healthy()
