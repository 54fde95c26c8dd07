"""The HTTPS API refuses whoever may not, and whatever it cannot take, with one shape of answer and no secrets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stagebox import subjects
from stagebox.audit_chain import ChainVerifier
from stagebox.bus import BusMessage
from stagebox.certificates import (
    build_csr,
    fingerprint,
    load_certificates,
    parse_der_chain,
    public_ed25519,
    to_der,
)
from stagebox.control.command import Ack, AckResult, open_command
from stagebox.control.fields import payload_digest
from stagebox.control.renewal import Renewal, RenewalRequest
from stagebox.control.request import Answer, Request, Verb, open_answer
from stagebox.envelope import DOMAIN_ANSWER, open_envelope
from stagebox.errors import InputError, StageboxError, VerificationError
from stagebox.identity import Role
from stagebox.keyfiles import load_ed25519
from stagebox.mixer_api import MixerApi
from stagebox_mixer import app
from stagebox_mixer.api import racks as rack_routes
from stagebox_mixer.api import server
from stagebox_mixer.limits import LIMITS
from stagebox_rack.state import RackIdentity
from support.cluster import Cluster, RunningMixer, identity_tls
from support.rackside import connected, rack_options

SECRET = "sbt-secret-token-0123456789"
ADMIN_ROUTES = (
    ("POST", "/api/v1/tokens", {"rack": "stage-left"}),
    ("POST", "/api/v1/racks/stage-left/approve", None),
    ("POST", "/api/v1/racks/stage-left/suspend", {"reason": "moved"}),
    ("DELETE", "/api/v1/racks/stage-left", None),
    ("POST", "/api/v1/denied", {"kind": "rack", "value": "stage-left", "reason": "stolen"}),
    ("DELETE", "/api/v1/denied/rack/stage-left", None),
    ("DELETE", "/api/v1/tokens/0123456789abcdef", None),
)
READ_ROUTES = (
    ("GET", "/api/v1/racks", None),
    ("GET", "/api/v1/racks/stage-left", None),
    ("GET", "/api/v1/tokens", None),
    ("GET", "/api/v1/denied", None),
    ("GET", "/api/v1/audit", None),
    ("GET", "/metrics", None),
)

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


async def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_own_head(mixer: RunningMixer) -> None:
    took = []
    async with mixer.api(None) as api:
        for _ in range(20):
            began = time.perf_counter()
            await api.get("/healthz")
            took.append(time.perf_counter() - began)
    assert min(took) < 0.03  # delayed acknowledgements take 40 ms, every time


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


async def test_a_mixer_that_lost_the_bus_for_good_or_its_api_is_not_healthy(
    mixer: RunningMixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "LIMITS", dataclasses.replace(LIMITS, bus_away_s=0.05))
    live = next(bus for bus in mixer.mixer._buses if bus._options.name == "live")
    assert mixer.mixer.healthy()
    await live.close()
    assert mixer.mixer.healthy()  # it may come back
    await asyncio.sleep(0.1)
    assert not mixer.mixer.healthy()
    monkeypatch.setattr(app, "LIMITS", LIMITS)
    assert mixer.mixer.healthy()
    assert mixer.mixer._api is not None
    await mixer.mixer._api.stop()
    assert not mixer.mixer.healthy()


async def _stalled(mixer: RunningMixer, sent: bytes) -> float:
    """Open a connection, send something and wait until the mixer ends it; return how long that took."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", mixer.mixer.https_port, ssl=mixer.cluster.client_tls(None), server_hostname="localhost"
    )
    began = time.perf_counter()
    writer.write(sent)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            await reader.read()
    writer.close()
    return time.perf_counter() - began


@pytest.mark.parametrize("sent", [
    b"",
    b"GET /healthz HTTP/1.1\r\nHost: ",
    b"POST /api/v1/racks/renew HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx",
])  # fmt: skip
async def test_a_connection_that_never_finishes_a_request_is_ended(
    mixer: RunningMixer, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LIMITS", dataclasses.replace(LIMITS, api_request_s=0.2))
    assert 0.1 < await _stalled(mixer, sent) < 2


async def test_one_source_does_not_hold_all_connections(
    mixer: RunningMixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LIMITS", dataclasses.replace(LIMITS, api_connections_per_source=5))
    tls, port = mixer.cluster.client_tls(None), mixer.mixer.https_port
    held = [
        await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost")
        for _ in range(5)
    ]
    assert await _stalled(mixer, b"") < 1
    for _, writer in held:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    async with mixer.api(None) as api:
        assert (await api.get("/healthz")).status_code == 200


# Tokens


async def test_a_token_is_listed_without_itself_and_a_revoked_one_enrolls_nobody(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    token = await mixer.create_token("stage-left", machine_id=0x2A)
    async with mixer.api(Role.ADMIN) as api:
        listed = await api.get("/api/v1/tokens")
        (shown,) = listed.json()["tokens"]
        assert token not in listed.text
        assert (shown["rack"], shown["state"], shown["machine_id"]) == (
            "stage-left",
            "issued",
            f"{0x2A:016x}",
        )
        assert (
            abs(shown["expires_at_ns"] - shown["created_at_ns"] - LIMITS.token_default_ttl_s * 10**9) < 10**9
        )
        revoked = await api.delete(f"/api/v1/tokens/{shown['id']}")
        assert (revoked.status_code, revoked.json()["state"]) == (200, "revoked")
        assert (await api.delete("/api/v1/tokens/0123456789abcdef")).status_code == 400
    with pytest.raises(StageboxError, match="revoked"):
        await mixer.redeem(tmp_path / "rack", token, machine=0x2A)
    assert (await mixer.audit_rows(action="token_revoke"))[0]["subject"] == "stage-left"


# Standing


async def test_a_suspended_rack_is_shown_so_and_why_is_in_the_audit(
    mixer: RunningMixer, rack: RackIdentity
) -> None:
    async with mixer.api(Role.ADMIN) as api:
        answer = await api.post("/api/v1/racks/stage-left/suspend", json={"reason": "moved to the store"})
        listed = await api.get("/api/v1/racks", params={"status": "suspended"})
        active = await api.get("/api/v1/racks", params={"status": "active"})
    assert answer.json()["status"] == "suspended"
    assert answer.json()["pending"]["serial"] == rack.passport.serial + 1
    assert [entry["name"] for entry in listed.json()["racks"]] == ["stage-left"]
    assert active.json()["racks"] == []
    (row,) = await mixer.audit_rows(action="suspend")
    assert (row["subject"], row["reason"]) == ("stage-left", "moved to the store")


async def test_a_removed_rack_comes_back_with_a_new_token_and_a_higher_serial(
    mixer: RunningMixer, rack: RackIdentity, tmp_path: Path
) -> None:
    async with mixer.api(Role.ADMIN) as api:
        assert (await api.delete("/api/v1/racks/stage-left")).json()["status"] == "removed"
        assert (await api.get("/api/v1/racks")).json()["racks"] == []
        assert (await api.delete("/api/v1/racks/stage-left")).status_code == 404
        again = await mixer.enroll(tmp_path / "again", "stage-left")
        assert [entry["name"] for entry in (await api.get("/api/v1/racks")).json()["racks"]] == ["stage-left"]
    assert again.passport.serial > rack.passport.serial


async def test_a_ban_ends_the_live_connection_and_the_answer_says_so(
    mixer: RunningMixer, rack: RackIdentity
) -> None:
    lost = asyncio.Event()
    async with connected(rack_options(rack)) as bus, mixer.api(Role.ADMIN) as api:
        bus.on_disconnected(lambda _failure: lost.set())
        assert (await api.get("/api/v1/racks/stage-left")).json()["connected"] is True
        began = time.monotonic()
        answer = await api.post(
            "/api/v1/denied", json={"kind": "rack", "value": "stage-left", "reason": "stolen"}
        )
        async with asyncio.timeout(2):
            await lost.wait()
        assert time.monotonic() - began < 1.0
        shown = (await api.get("/api/v1/racks/stage-left")).json()
    assert (answer.json()["kicked"], answer.json()["racks"]) == (1, ["stage-left"])
    assert shown["connected"] is False
    assert (shown["denied"]["kind"], shown["denied"]["reason"]) == ("rack", "stolen")


async def test_a_banned_admin_is_nobody_until_another_lifts_the_ban(
    mixer: RunningMixer, cluster: Cluster
) -> None:
    lost = cluster.client(Role.ADMIN, "lost-laptop")
    own = fingerprint(load_certificates(lost / "client.crt")[0])
    ban = {"kind": "certificate", "value": own, "reason": "laptop lost"}
    tls = identity_tls(lost)
    async with (
        mixer.api(Role.ADMIN) as api,
        httpx.AsyncClient(base_url=mixer.https, verify=tls, trust_env=False) as theirs,
    ):
        assert (await theirs.get("/api/v1/racks")).status_code == 200
        assert (await theirs.post("/api/v1/denied", json=ban)).status_code == 400  # not themselves
        assert (await api.post("/api/v1/denied", json=ban)).status_code == 200
        refused = await theirs.get("/api/v1/racks")  # the same kept-alive connection
        assert (refused.status_code, problem(refused)["error"]) == (403, "denied")
        assert (await theirs.delete(f"/api/v1/denied/certificate/{own}")).status_code == 403
        assert (await api.delete(f"/api/v1/denied/certificate/{own}")).status_code == 200
        assert (await theirs.get("/api/v1/racks")).status_code == 200
    row = await mixer.wait_audit(action="api", reason="denied")
    assert row["actor"].endswith("/client/admin/lost-laptop")


# Renewal over HTTPS


def renewal(rack: RackIdentity) -> Request:
    csr = x509.load_pem_x509_csr(build_csr(load_ed25519(rack.paths.identity_key), "stagebox-rack"))
    body = RenewalRequest(
        csr=csr.public_bytes(Encoding.DER),
        passport=rack.paths.passport.read_bytes(),
        chain=tuple(to_der(load_certificates(rack.paths.certificate))),
    )
    passport = rack.passport
    return Request(
        passport.cluster_id,
        passport.name,
        Verb.RENEW.value,
        secrets.token_bytes(16),
        time.time_ns(),
        body.body(),
    )


async def test_a_rack_renews_over_https_without_a_certificate_and_twice_is_once(
    mixer: RunningMixer, rack: RackIdentity
) -> None:
    request = renewal(rack)
    async with mixer.api(None) as api:
        first = await api.post("/api/v1/racks/renew", content=request.seal(rack.key))
        again = await api.post("/api/v1/racks/renew", content=request.seal(rack.key))
    answers = [open_answer(each.content, rack.passport.cluster_public, request) for each in (first, again)]
    assert [answer.error for answer in answers] == ["", ""]
    got = [Renewal.from_body(answer.body) for answer in answers]
    assert (got[0].chain, got[0].passport) == (got[1].chain, got[1].passport)
    assert public_ed25519(parse_der_chain(got[0].chain, "chain")[0]) == rack.public
    async with mixer.api(Role.VIEWER) as api:
        assert (await api.get("/api/v1/racks/stage-left")).json()["pending"][
            "serial"
        ] == rack.passport.serial + 1
        assert "stagebox_renewals_total 1.0" in (await api.get("/metrics")).text.splitlines()


async def test_a_refused_renewal_is_a_signed_answer(mixer: RunningMixer, rack: RackIdentity) -> None:
    request = renewal(rack)
    async with mixer.api(Role.ADMIN) as admin, mixer.api(None) as api:
        await admin.post("/api/v1/denied", json={"kind": "rack", "value": "stage-left", "reason": "stolen"})
        refused = await api.post("/api/v1/racks/renew", content=request.seal(rack.key))
        garbage = await api.post("/api/v1/racks/renew", content=b"\xff" * 100)
    assert refused.status_code == garbage.status_code == 200
    assert open_answer(refused.content, rack.passport.cluster_public, request).error == "denied"
    answer = Answer.decode(open_envelope(DOMAIN_ANSWER, garbage.content, rack.passport.cluster_public))
    assert (answer.error, answer.rack) == ("malformed", "")


async def test_what_cannot_be_read_is_refused_without_an_error_of_ours(
    mixer: RunningMixer, rack: RackIdentity
) -> None:
    request = renewal(rack)
    certificate = next(iter(request.body["Chain"]))
    unreadable = certificate.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x63", 1)
    asked = dataclasses.replace(request, body={**request.body, "Chain": [unreadable]})
    key = der_csr(rack).replace(bytes.fromhex("06032b6570"), bytes.fromhex("06032b6572"), 1)
    csr = b"-----BEGIN CERTIFICATE REQUEST-----\n%s-----END CERTIFICATE REQUEST-----\n" % (
        base64.encodebytes(key)
    )
    async with mixer.api(None) as api:
        answer = await api.post("/api/v1/racks/renew", content=asked.seal(rack.key))
        enroll = {"token": SECRET, "csr": csr.decode("ascii"), "machine_id": 1}
        enrolled = await api.post("/api/v1/racks/enroll", json=enroll)
    assert answer.status_code == 200
    assert open_answer(answer.content, rack.passport.cluster_public, asked).error == "malformed"
    assert (enrolled.status_code, problem(enrolled)["error"]) == (400, "invalid")


def der_csr(rack: RackIdentity) -> bytes:
    csr = build_csr(load_ed25519(rack.paths.identity_key), "stagebox-rack")
    return x509.load_pem_x509_csr(csr).public_bytes(Encoding.DER)


async def test_a_flood_of_items_does_not_hold_the_mixer(mixer: RunningMixer) -> None:
    body = b"\x9a" + (60_000).to_bytes(4, "big") + b"\x80" * 60_000
    async with mixer.api(None) as api:
        await api.post("/api/v1/racks/renew", content=body)
        began = time.perf_counter()
        for _ in range(20):
            assert (await api.post("/api/v1/racks/renew", content=body)).status_code == 200
        assert time.perf_counter() - began < 1  # decoded to the end: 70 ms each


# Commands


async def test_a_check_shows_a_rack_that_signs_and_says_when_there_is_none(
    mixer: RunningMixer, rack: RackIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(rack_options(rack)) as bus, mixer.api(Role.OPERATOR) as api:

        def obey(message: BusMessage) -> None:
            command, payload = open_command(message.payload, rack.passport.cluster_public)
            ack = Ack(
                command.cluster,
                command.rack,
                command.seq,
                payload_digest(payload),
                bytes(16),
                5,
                AckResult.DONE,
            )
            bus.publish(subjects.ack("stage-left"), ack.seal(rack.key))

        await bus.subscribe(subjects.command("stage-left"), callback=obey)
        answer = (await api.post("/api/v1/racks/stage-left/check")).json()
    assert (answer["rack"], answer["result"], answer["seq"]) == ("stage-left", "done", 1)
    assert 0 < answer["round_trip_ms"] < 1000
    monkeypatch.setattr(rack_routes, "LIMITS", dataclasses.replace(LIMITS, check_wait_s=0.2))
    async with mixer.api(Role.OPERATOR) as api:
        silent = await api.post("/api/v1/racks/stage-left/check")
    assert (silent.status_code, problem(silent)["error"]) == (504, "unanswered")


# Audit and metrics


async def test_the_audit_leaves_the_mixer_as_rows_that_prove_themselves(
    mixer: RunningMixer, rack: RackIdentity
) -> None:
    verifier, after = ChainVerifier([]), 0
    async with mixer.api(Role.OPERATOR) as api:
        while True:
            page = (await api.get("/api/v1/audit", params={"after": after, "limit": 1})).json()
            if not page["rows"]:
                break
            for row in page["rows"]:
                verifier.add(row["seq"], row["data"].encode())
                after = row["seq"]
    assert verifier.finish(page["last"]).rows == page["last"] == after >= 2
    async with mixer.api(Role.VIEWER) as api:
        refused = await api.get("/api/v1/audit")
    assert (refused.status_code, problem(refused)["error"]) == (403, "forbidden")


async def test_metrics_show_what_was_admitted_and_when_its_certificate_ends(
    mixer: RunningMixer, rack: RackIdentity
) -> None:
    async with connected(rack_options(rack)), mixer.api(Role.VIEWER) as api:
        lines = (await api.get("/metrics")).text.splitlines()
    end = load_certificates(rack.paths.certificate)[0].not_valid_after_utc.timestamp()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['stagebox_rack_certificate_not_after_seconds{rack="stage-left"}']) == end
    assert float(values['stagebox_rack_expires_unrenewed{rack="stage-left"}']) == 0
    assert float(values["stagebox_admissions_total"]) >= 1
    assert float(values["stagebox_audit_last_sequence"]) >= len(await mixer.audit_rows(action="enroll"))
    assert float(values["stagebox_healthy"]) == 1


async def test_the_command_lines_client_and_the_mixer_understand_each_other(
    mixer: RunningMixer, cluster: Cluster, rack: RackIdentity
) -> None:
    name, machine = "stage-left", f"{rack.passport.machine_id:016x}"

    def administer() -> None:
        with MixerApi(mixer.https, cluster.client(Role.ADMIN)) as api:
            made = api.create_token(name, 60, None)
            assert [token["state"] for token in api.tokens()] == ["issued", "used"]
            assert api.revoke_token(made["id"])["state"] == "revoked"
            assert api.suspend(name, "moved")["status"] == "suspended"
            assert [entry["name"] for entry in api.racks("suspended")] == [name]
            assert api.activate(name)["status"] == "active"
            assert api.rotate_secret(name)["pending"]["serial"] == rack.passport.serial + 3
            assert api.deny("machine", machine, "stolen")["racks"] == [name]
            assert [ban["reason"] for ban in api.denied()["denied"]] == ["stolen"]
            with pytest.raises(VerificationError, match="denied"):
                api.activate(name)
            assert api.clear("machine", machine, "found")["epoch"] == 2
            assert api.rack(name)["denied"] is None
            with pytest.raises(InputError, match="not pending"):
                api.approve(name)
            assert api.remove(name, "sold")["status"] == "removed"
            with pytest.raises(InputError, match="no rack 'stage-left' is registered"):
                api.check(name)
            actions = [json.loads(row["data"])["action"] for row in api.audit(0, 100)["rows"]]
            steps = ["suspend", "activate", "rotate_secret", "deny", "clear", "remove"]
            assert [action for action in actions if action in steps] == steps

    await asyncio.to_thread(administer)
