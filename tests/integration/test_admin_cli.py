"""``stagebox admin`` over real mutual TLS against a server that speaks the mixer's API."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from stagebox.certificates import to_pem
from stagebox.cli import host
from stagebox.identity import Role
from stagebox.keyfiles import save_private_key
from stagebox.tls import server_context
from stagebox_keys.client import generate_client
from stagebox_keys.cluster import generate_cluster
from stagebox_keys.mixer_keys import load_mixer_keys

Answer = tuple[int, object]
Capture = pytest.CaptureFixture[str]
NOW = datetime.now(UTC)
BAN = {
    "kind": "rack",
    "value": "stage-left",
    "since_ns": 1_800_000_000_000_000_000,
    "reason": "stolen",
    "actor": "spiffe://venue/client/admin/ops",
}
RACK = {
    "name": "stage-left",
    "tenant": "default",
    "status": "pending",
    "machine_id": "00000000deadbeef",
    "certificate_not_after": 1_800_000_000_000_000_000,
    "wal": [{"journal": "ab", "last": 7}],
}


HEARTBEAT = {
    "time_ns": 1_790_000_000_000_000_000,
    "state": "running",
    "uptime_s": 90_061.0,
    "version": "0.1.0",
    "host": {
        "cpu_percent": 12.3,
        "cpu_count": 4,
        "memory_available": 1 << 30,
        "memory_total": 2 << 30,
        "temperature_c": 51.2,
        "addresses": {"eth0": ["192.0.2.7"]},
    },
    "clock": {"synchronised": True, "max_error_us": 1500},
    "wal": {"lag_records": 1234},
    "dropped": {"rack.stage-left.meter.main": 5},
    "handover_dropped": 2,
    "sources": [
        {"source": "main", "state": "error", "rate": 48_000, "channels": 2, "gaps": 1, "gap_frames": 4800,
         "xruns": 3, "overruns": 0, "reopens": 1, "clock_steps": 0, "reason": "the device was unplugged"}
    ],
    "buses": [
        {"name": "main", "source": "main", "mode": "stereo", "kbit": 128, "listening": True, "packets": 77,
         "overruns": 0, "clipped": 0}
    ],
}  # fmt: skip


class Api:
    """A mixer's API whose answers a test sets; it notes the requests and who made them."""

    def __init__(self) -> None:
        self.answer: Callable[[str, str, Any], Answer] = lambda method, path, body: (404, {})
        self.requests: list[tuple[str, str, Any]] = []
        self.peers: list[Any] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


def handler(api: Api) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length", "0"))
            body = json.loads(self.rfile.read(length)) if length else None
            api.requests.append((self.command, self.path, body))
            connection = self.connection
            api.peers.append(connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None)
            status, answer = api.answer(self.command, self.path, body)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_DELETE = do_GET

        def log_message(self, *args: Any) -> None:
            """Keep standard error for what is under test."""

    return Handler


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A refused handshake is expected here."""


@contextmanager
def serving(api: Api, context: ssl.SSLContext | None) -> Iterator[Api]:
    server = QuietServer(("127.0.0.1", 0), handler(api))
    if context is not None:
        # The handshake belongs to the connection's own thread, so that a refused one blocks nobody.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    api.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("admin") / "cluster"
    generate_cluster(directory, "venue", None, NOW - timedelta(days=10))
    keys = load_mixer_keys(directory / "mixer", None, now=NOW)
    key = generate_private_key(SECP256R1())
    leaf = keys.issuing.sign_server(key.public_key(), ["localhost"], [], now=NOW)
    save_private_key(directory / "server.key", key, None)
    (directory / "server.crt").write_bytes(to_pem([leaf, keys.issuing.certificate]))
    generate_client(directory, Role.ADMIN, "ops", directory / "ops", None, NOW)
    generate_client(directory, Role.ADMIN, "old", directory / "old", None, NOW - timedelta(days=3), days=2)
    return directory


@pytest.fixture
def api(cluster: Path) -> Iterator[Api]:
    context = server_context(
        (cluster / "ca.pem").read_bytes(),
        cluster / "server.crt",
        cluster / "server.key",
        client_certificate=ssl.CERT_REQUIRED,
    )
    with serving(Api(), context) as running:
        yield running


@pytest.fixture(autouse=True)
def clean_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in list(os.environ):
        if variable.startswith("STAGEBOX_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    yield
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:], logging.raiseExceptions = before[0], before[2]
    root.setLevel(before[1])


def admin(api: Api, identity: Path, *args: str) -> int:
    return host.run(["admin", *args, "--mixer", api.url, "--identity", str(identity)])


def test_token_create_asks_for_one_rack_and_prints_what_to_do(
    api: Api, cluster: Path, capsys: Capture
) -> None:
    made = {
        "token": "sbx-once",
        "rack": "stage-left",
        "expires_at": 1_800_000_000_000_000_000,
        "ca_pin": "sha256:ab",
        "mixer": "https://mixer:8443",
    }
    api.answer = lambda method, path, body: (200, made)
    assert admin(api, cluster / "ops", "token", "create", "--rack", "stage-left", "--ttl", "2h") == 0
    assert api.requests == [("POST", "/api/v1/tokens", {"rack": "stage-left", "ttl_s": 7200})]
    assert api.peers[0]["subjectAltName"] == (("URI", "spiffe://venue/client/admin/ops"),)
    out = capsys.readouterr().out
    assert "2027-01-15T08:00:00+00:00" in out
    assert "admin enroll --mixer https://mixer:8443 --token sbx-once --ca-pin sha256:ab" in out


def test_token_create_as_json_is_what_the_mixer_said(api: Api, cluster: Path, capsys: Capture) -> None:
    api.answer = lambda method, path, body: (200, {"token": "sbx-once", "rack": "a"})
    assert admin(api, cluster / "ops", "token", "create", "--rack", "a", "--machine-id", "2a", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"token": "sbx-once", "rack": "a"}
    assert api.requests[0][2] == {"rack": "a", "ttl_s": 900, "machine_id": 42}


def test_racks_are_listed_shown_and_approved(api: Api, cluster: Path, capsys: Capture) -> None:
    api.answer = lambda method, path, body: (200, {"racks": [RACK]} if path.endswith("racks") else RACK)
    assert admin(api, cluster / "ops", "racks", "list") == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["NAME", "TENANT", "STATUS", "PRESENCE"]
    assert row.split() == [
        "stage-left",
        "default",
        "pending",
        "–",
        "00000000deadbeef",
        "2027-01-15T08:00:00+00:00",
    ]
    assert admin(api, cluster / "ops", "racks", "show", "stage-left") == 0
    assert "wal.last     7" in capsys.readouterr().out
    assert admin(api, cluster / "ops", "racks", "approve", "stage-left", "--json") == 0
    assert json.loads(capsys.readouterr().out) == RACK
    assert api.requests[-1] == ("POST", "/api/v1/racks/stage-left/approve", {})


def test_a_racks_presence_and_heartbeat_are_shown(api: Api, cluster: Path, capsys: Capture) -> None:
    rack = {
        **RACK,
        "status": "active",
        "presence": {"state": "stale", "age_s": 17.2, "heard_ns": 1_790_000_000_000_000_000},
        "heartbeat": HEARTBEAT,
    }
    api.answer = lambda method, path, body: (200, {"racks": [rack]} if path.endswith("racks") else rack)
    assert admin(api, cluster / "ops", "racks", "list") == 0
    assert "stale, heard 17 s ago" in capsys.readouterr().out
    assert admin(api, cluster / "ops", "racks", "show", "stage-left") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in (
        "processor 12 % of 4 cores",
        "memory free 1,024 MiB of 2,048 MiB (50 %)",
        "temperature 51 °C",
        "address eth0 192.0.2.7",
        "synchronised yes",
        "behind 1,234 records",
        "main error 48000 2 1 4800 3 0 1 0 the device was unplugged",
        "main main stereo 128 yes 77 0 0",
        "bus 5",
        "between threads 2",
    ):
        assert part in shown, (part, shown)


def test_meters_are_reset_of_one_programme_or_all(api: Api, cluster: Path, capsys: Capture) -> None:
    api.answer = lambda method, path, body: (200, {"rack": "stage-left"})
    assert admin(api, cluster / "ops", "racks", "reset-meters", "stage-left") == 0
    assert api.requests[-1][:2] == ("POST", "/api/v1/racks/stage-left/reset-meters")
    options = ("--source", "main", "--programme", "all")
    assert admin(api, cluster / "ops", "racks", "reset-meters", "stage-left", *options) == 0
    assert api.requests[-1][2] == {"source": "main", "programme": "all"}
    api.answer = lambda method, path, body: (
        409,
        {"error": "unknown_source", "message": "there is no source 'x'"},
    )
    assert admin(api, cluster / "ops", "racks", "reset-meters", "stage-left", "--source", "x") != 0
    assert "there is no source 'x'" in capsys.readouterr().err


def test_the_list_says_what_the_status_does_not(api: Api, cluster: Path, capsys: Capture) -> None:
    rack = {**RACK, "status": "active", "denied": BAN, "problem": "the mixer is away"}
    api.answer = lambda method, path, body: (200, {"racks": [rack]})
    assert admin(api, cluster / "ops", "racks", "list", "--status", "denied") == 0
    assert api.requests == [("GET", "/api/v1/racks?status=denied", None)]
    assert (
        capsys.readouterr().out.splitlines()[1].endswith("denied: stolen; renewal fails: the mixer is away")
    )


@pytest.mark.parametrize("step", ["approve", "suspend", "activate", "rotate-secret"])
def test_a_step_carries_its_reason(api: Api, cluster: Path, capsys: Capture, step: str) -> None:
    api.answer = lambda method, path, body: (200, RACK)
    assert admin(api, cluster / "ops", "racks", step, "stage-left", "--reason", "it moved", "--json") == 0
    assert api.requests == [("POST", f"/api/v1/racks/stage-left/{step}", {"reason": "it moved"})]
    assert json.loads(capsys.readouterr().out) == RACK


def test_tokens_are_listed_and_revoked_by_id(api: Api, cluster: Path, capsys: Capture) -> None:
    token = {
        "id": "ab12",
        "rack": "stage-left",
        "state": "issued",
        "machine_id": None,
        "expires_at_ns": 1_800_000_000_000_000_000,
        "created_by": "spiffe://venue/client/admin/ops",
    }
    api.answer = lambda method, path, body: (200, {"tokens": [token]} if method == "GET" else token)
    assert admin(api, cluster / "ops", "token", "list") == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["ID", "RACK", "STATE"]
    assert row.split()[:5] == ["ab12", "stage-left", "issued", "any", "2027-01-15T08:00:00+00:00"]
    assert admin(api, cluster / "ops", "token", "revoke", "ab12") == 0
    assert api.requests[-1] == ("DELETE", "/api/v1/tokens/ab12", None)
    assert capsys.readouterr().out == "the token ab12 for rack stage-left is revoked\n"


@pytest.mark.parametrize(
    ("named", "sent"),
    [
        (("stage-left",), ("rack", "stage-left")),
        (("--machine-id", "BEEF"), ("machine", "000000000000beef")),
        (("--certificate", f"sha256:{'ab' * 32}"), ("certificate", f"sha256:{'ab' * 32}")),
    ],
)
def test_a_rack_a_machine_or_a_certificate_is_denied_and_cleared(
    api: Api, cluster: Path, capsys: Capture, named: tuple[str, ...], sent: tuple[str, str]
) -> None:
    kind, value = sent
    answer = {"kind": kind, "value": value, "epoch": 4, "kicked": 1, "problem": "", "racks": ["stage-left"]}
    api.answer = lambda method, path, body: (200, answer)
    assert admin(api, cluster / "ops", "racks", "deny", *named, "--reason", "stolen", "--yes") == 0
    assert api.requests == [("POST", "/api/v1/denied", {"kind": kind, "value": value, "reason": "stolen"})]
    assert capsys.readouterr().out.splitlines() == [
        f"denied: {kind} {value} (deny list 4)",
        "1 connection dropped",
        "racks it hits: stage-left",
    ]
    assert admin(api, cluster / "ops", "racks", "clear", *named, "--reason", "found") == 0
    assert api.requests[-1] == ("DELETE", f"/api/v1/denied/{kind}/{quote(value)}?reason=found", None)
    assert f"cleared: {kind} {value}" in capsys.readouterr().out


def test_bans_are_listed_with_who_and_why(api: Api, cluster: Path, capsys: Capture) -> None:
    api.answer = lambda method, path, body: (200, {"epoch": 4, "denied": [BAN]})
    assert admin(api, cluster / "ops", "racks", "denied") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "2027-01-15T08:00:00+00:00", "rack", "stage-left", "spiffe://venue/client/admin/ops", "stolen",
    ]  # fmt: skip
    api.answer = lambda method, path, body: (200, {"epoch": 5, "denied": []})
    assert admin(api, cluster / "ops", "racks", "denied") == 0
    assert capsys.readouterr().out == "nobody is denied (deny list 5)\n"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (("stage-left",), 2),
        (("--reason", "stolen"), 65),
        (("stage-left", "--machine-id", "2a", "--reason", "stolen"), 65),
        (("--certificate", "sha256:ab", "--reason", "stolen"), 65),
        (("Stage Left", "--reason", "stolen"), 65),
    ],
)
def test_a_ban_that_makes_no_sense_never_reaches_the_mixer(
    api: Api, cluster: Path, wrong: tuple[str, ...], code: int
) -> None:
    assert admin(api, cluster / "ops", "racks", "deny", *wrong) == code
    assert api.requests == []


class Terminal(io.StringIO):
    """A terminal at which something was typed."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "command",
    [("remove", "stage-left"), ("deny", "stage-left", "--reason", "stolen")],
    ids=lambda words: words[0],
)
def test_on_a_terminal_harm_is_done_only_after_a_yes(
    api: Api, cluster: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    api.answer = lambda method, path, body: (200, {**RACK, **BAN})
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert admin(api, cluster / "ops", "racks", *command) == 1
    output = capsys.readouterr()
    assert (api.requests, output.out) == ([], "")
    assert "nothing was changed" in output.err
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert admin(api, cluster / "ops", "racks", *command, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {**RACK, **BAN}
    monkeypatch.setattr("sys.stdin", Terminal(""))
    assert admin(api, cluster / "ops", "racks", *command, "--yes") == 0
    assert len(api.requests) == 2


def test_a_removal_says_why_and_what_remains_possible(api: Api, cluster: Path, capsys: Capture) -> None:
    api.answer = lambda method, path, body: (200, RACK)
    assert admin(api, cluster / "ops", "racks", "remove", "stage-left", "--reason", "sold & gone", "-y") == 0
    assert api.requests == [("DELETE", "/api/v1/racks/stage-left?reason=sold+%26+gone", None)]
    assert "rack stage-left is removed" in capsys.readouterr().out


def test_a_check_shows_the_proof_and_fails_if_the_rack_refused(
    api: Api, cluster: Path, capsys: Capture
) -> None:
    ack = {"rack": "stage-left", "seq": 7, "result": "done", "reason": "", "round_trip_ms": 3.2}
    api.answer = lambda method, path, body: (200, ack)
    assert admin(api, cluster / "ops", "racks", "check", "stage-left") == 0
    assert api.requests == [("POST", "/api/v1/racks/stage-left/check", {})]
    assert "stage-left has answered command 7 after 3.2 ms" in capsys.readouterr().out
    ack |= {"result": "refused", "reason": "old_sequence"}
    assert admin(api, cluster / "ops", "racks", "check", "stage-left") == 1
    assert "but refused: old_sequence" in capsys.readouterr().out


def test_a_name_cannot_leave_its_place_in_the_url(api: Api, cluster: Path) -> None:
    api.answer = lambda method, path, body: (404, {"error": "not_found", "message": "no such rack"})
    assert admin(api, cluster / "ops", "racks", "show", "../tokens?x=1") == 65
    assert api.requests[0][1] == "/api/v1/racks/..%2Ftokens%3Fx%3D1"


def test_control_characters_of_the_mixer_do_not_reach_the_terminal(
    api: Api, cluster: Path, capsys: Capture
) -> None:
    api.answer = lambda method, path, body: (200, {"racks": [{**RACK, "tenant": "x\x1b[2J"}]})
    assert admin(api, cluster / "ops", "racks", "list") == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "answer", "code", "complaint"),
    [
        (
            403,
            {"error": "forbidden", "message": "ops has the role viewer", "remedy": "use an admin"},
            77,
            "error: the mixer refused: ops has the role viewer\n  try: use an admin\n",
        ),
        (400, {"error": "invalid", "message": "ttl_s is over 86400"}, 65, "error: ttl_s is over 86400\n"),
        (503, {"error": "unavailable", "message": "no bus"}, 69, "error: the mixer failed: no bus\n"),
        (504, {"error": "unanswered", "message": "no ack"}, 69, "error: no ack\n"),
        (429, {"error": "x", "message": "too often"}, 69, "error: the mixer is too busy: too often\n"),
        (403, {"error": "denied", "message": "banned"}, 77, "error: the mixer refused: banned\n"),
        (404, b"<html>nginx</html>", 69, "answered 404 and not as a mixer does"),
        (200, b"[]", 69, "answered 200 and not as a mixer does"),
        (302, b"", 69, "answered 302 and not as a mixer does"),
    ],
)
def test_a_refusal_is_one_clear_line(
    api: Api, cluster: Path, capsys: Capture, status: int, answer: object, code: int, complaint: str
) -> None:
    api.answer = lambda method, path, body: (status, answer)
    assert admin(api, cluster / "ops", "racks", "list") == code
    assert complaint in capsys.readouterr().err


def test_an_unreachable_mixer_is_named(cluster: Path, capsys: Capture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        api = Api()
        api.port = taken.getsockname()[1]
        assert admin(api, cluster / "ops", "racks", "list") == 69
    err = capsys.readouterr().err
    assert f"error: cannot reach the mixer at {api.url}: Connection refused" in err
    assert "stagebox mixer run" in err


def test_a_mixer_of_another_cluster_is_not_believed(api: Api, tmp_path: Path, capsys: Capture) -> None:
    generate_cluster(tmp_path / "other", "venue", None, NOW)
    generate_client(tmp_path / "other", Role.ADMIN, "ops", tmp_path / "ops", None, NOW)
    assert admin(api, tmp_path / "ops", "racks", "list") == 77
    assert "did not prove that it belongs to this cluster" in capsys.readouterr().err
    assert api.requests == []


def test_a_name_the_certificate_does_not_carry_is_not_believed(
    api: Api, cluster: Path, capsys: Capture
) -> None:
    url = f"https://127.0.0.1:{api.port}"
    assert host.run(["admin", "racks", "list", "--identity", str(cluster / "ops"), "--mixer", url]) == 77
    assert "did not prove that it belongs to this cluster: IP address mismatch" in capsys.readouterr().err
    assert api.requests == []


def test_an_expired_client_certificate_is_said_to_be_refused(
    api: Api, cluster: Path, capsys: Capture
) -> None:
    assert admin(api, cluster / "old", "racks", "list") == 77
    err = capsys.readouterr().err
    assert "refused the TLS connection: certificate expired" in err
    assert "client.crt is current" in err
    assert api.requests == []


def test_a_plaintext_server_is_not_spoken_to(cluster: Path, capsys: Capture) -> None:
    with serving(Api(), None) as plain:
        assert admin(plain, cluster / "ops", "racks", "list") == 77
        assert plain.requests == []
    assert "does not speak TLS" in capsys.readouterr().err


def test_an_http_url_is_refused_before_anything_is_sent(cluster: Path, capsys: Capture) -> None:
    assert host.run(["admin", "racks", "list", "--mixer", "http://localhost:1"]) == 64
    assert "is not an https:// URL" in capsys.readouterr().err


def test_a_key_that_is_not_the_certificates_is_named(
    api: Api, cluster: Path, tmp_path: Path, capsys: Capture
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for name, source in (("ca.pem", "ops"), ("client.crt", "ops"), ("client.key", "old")):
        (mixed / name).write_bytes((cluster / source / name).read_bytes())
    assert admin(api, mixed, "racks", "list") == 77
    assert "with its key" in capsys.readouterr().err


@pytest.mark.parametrize("ttl", ["0", "soon", "-5m", "1w", ""])
def test_a_wrong_ttl_never_reaches_the_mixer(api: Api, cluster: Path, capsys: Capture, ttl: str) -> None:
    assert admin(api, cluster / "ops", "token", "create", "--rack", "a", f"--ttl={ttl}") == 65
    assert "is not a duration" in capsys.readouterr().err
    assert api.requests == []
