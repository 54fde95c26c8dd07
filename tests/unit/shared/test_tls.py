"""Real handshakes over memory, and the ClientHello the command really sends."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from stagebox import tls
from stagebox.cipher_policy import CIPHER_SUITE, OPENSSL_CONFIG
from stagebox.errors import TlsError
from support.pki import CLIENT, DAY, NOW, SERVER, Ca, Files, uri, write_files

RACK = "spiffe://flux-prod/tenant/default/rack/stage-left"


@dataclass(frozen=True)
class World:
    """One cluster's files, and those of a stranger."""

    ca: Ca
    server: Files
    rack: Files
    expired: Files
    stranger: Files


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    directory, ca = tmp_path_factory.mktemp("tls"), Ca()
    issuing = Ca("issuing", ca)
    server_key, rack_key = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    name = [x509.DNSName("mixer")]
    leaf = issuing.issue(rack_key.public_key(), [uri(RACK)])
    old = issuing.issue(rack_key.public_key(), [uri(RACK)], not_before=NOW - 3 * DAY, not_after=NOW - DAY)
    foreign = Ca("other").issue(rack_key.public_key(), [uri(RACK)], usage=CLIENT)
    server = issuing.issue(server_key.public_key(), name, usage=SERVER)
    return World(
        ca,
        write_files(directory, "server", [server, issuing.certificate], server_key),
        write_files(directory, "rack", [leaf, issuing.certificate], rack_key),
        write_files(directory, "expired", [old, issuing.certificate], rack_key),
        write_files(directory, "stranger", [foreign], rack_key),
    )


def server_context(world: World) -> ssl.SSLContext:
    return tls.server_context(
        world.ca.pem, world.server.certificate, world.server.key, client_certificate=ssl.CERT_REQUIRED
    )


def client_context(world: World, files: Files | None) -> ssl.SSLContext:
    if files is None:
        return tls.client_context(world.ca.pem)
    return tls.client_context(world.ca.pem, files.certificate, files.key)


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str = "mixer") -> ssl.SSLObject:
    """Let both ends speak through memory until the server has judged the client; return the client's end."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert not waiting, "the handshake did not end"
    ends[1].write(b"hello")
    assert ends[0].read(5) == b"hello"
    return ends[0]


def test_a_rack_and_a_mixer_agree_on_tls_1_3(world: World) -> None:
    end = handshake(client_context(world, world.rack), server_context(world))
    assert end.version() == "TLSv1.3"


@pytest.mark.parametrize("old_end", ["client", "server"])
def test_tls_1_2_is_refused_by_either_end(world: World, old_end: str) -> None:
    client, server = client_context(world, world.rack), server_context(world)
    old = client if old_end == "client" else server
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        handshake(client, server)


@pytest.mark.parametrize(
    ("who", "reason"),
    [("none", "peer did not return"), ("stranger", "verify failed"), ("expired", "expired")],
)
def test_a_client_without_a_good_certificate_is_refused(world: World, who: str, reason: str) -> None:
    files = {"none": None, "stranger": world.stranger, "expired": world.expired}[who]
    with pytest.raises(ssl.SSLError, match=reason):
        handshake(client_context(world, files), server_context(world))


def test_a_server_of_another_authority_or_name_is_refused(world: World) -> None:
    stranger = tls.client_context(Ca("other").pem, world.rack.certificate, world.rack.key)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(stranger, server_context(world))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
        handshake(client_context(world, world.rack), server_context(world), "mixer.evil.example")


def test_a_clients_certificate_does_not_serve(world: World) -> None:
    impostor = tls.server_context(
        world.ca.pem, world.rack.certificate, world.rack.key, client_certificate=ssl.CERT_NONE
    )
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client_context(world, None), impostor)


def test_a_certificate_is_swapped_on_the_live_context(world: World) -> None:
    context = client_context(world, world.expired)
    with pytest.raises(ssl.SSLError, match="expired"):
        handshake(context, server_context(world))
    tls.load_identity(context, world.rack.certificate, world.rack.key)
    assert handshake(context, server_context(world)).version() == "TLSv1.3"


def test_no_session_ticket_lets_a_client_skip_its_certificate(world: World) -> None:
    assert server_context(world).num_tickets == 0


def test_files_that_do_not_fit_are_a_tls_error_that_names_them(world: World, tmp_path: Path) -> None:
    for certificate, key in (
        (world.rack.certificate, world.server.key),
        (tmp_path / "missing.pem", world.rack.key),
        (world.rack.key, world.rack.key),
    ):
        with pytest.raises(TlsError, match=str(certificate)):
            tls.client_context(world.ca.pem, certificate, key)
    for bundle in (b"", b"nonsense", "é".encode(), world.ca.pem[:-40]):
        with pytest.raises(TlsError, match="CA bundle"):
            tls.client_context(bundle)


def test_an_encrypted_key_is_refused_instead_of_asking_on_the_terminal(world: World, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )  # fmt: skip

    key = load_pem_private_key(world.rack.key.read_bytes(), None)
    path = tmp_path / "locked.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(TlsError):
        tls.client_context(world.ca.pem, world.rack.certificate, path)


def test_the_policy_file_leaves_one_suite() -> None:
    code = "import stagebox.tls as tls; print(tls.offers_only_aes256())"
    for config, expected in ((OPENSSL_CONFIG, "True"), ("/dev/null", "False")):
        environment = {**os.environ, "OPENSSL_CONF": config}
        found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        assert found.stdout.decode().strip() == expected


def client_hello_suites(record: bytes) -> list[int]:
    """Return the cipher suites of a ClientHello (RFC 8446 §4.1.2)."""
    assert (record[0], record[5]) == (22, 1), "not a ClientHello"
    position = 5 + 4 + 2 + 32
    position += 1 + record[position]
    length = int.from_bytes(record[position : position + 2], "big")
    raw = record[position + 2 : position + 2 + length]
    return [int.from_bytes(raw[index : index + 2], "big") for index in range(0, length, 2)]


def test_the_stagebox_command_offers_aes_256_alone_on_the_wire(tmp_path: Path) -> None:
    hellos: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(15)

        def take_one() -> None:
            connection, _ = listener.accept()
            with connection:
                hellos.append(connection.recv(4096))

        thread = threading.Thread(target=take_one)
        thread.start()
        command = [sys.executable, "-m", "stagebox.cli", "admin", "enroll", "--token", "sbt-x", "--ca-pin"]
        command += ["sha256:" + "0" * 64, "--state-dir", str(tmp_path)]
        command += ["--mixer", f"https://127.0.0.1:{listener.getsockname()[1]}"]
        environment = {key: value for key, value in os.environ.items() if key != "OPENSSL_CONF"}
        done = subprocess.run(command, env=environment, capture_output=True, timeout=30, check=False)
        thread.join(5)
    assert done.returncode == 76, done.stderr.decode()
    suites = [
        suite for suite in client_hello_suites(hellos[0]) if suite != 0x00FF
    ]  # not the renegotiation mark
    assert (suites, CIPHER_SUITE) == ([0x1302], "TLS_AES_256_GCM_SHA384")
