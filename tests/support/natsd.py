"""A plain real nats-server for bus tests: WebSocket over mutual TLS 1.3, and a loopback TCP port.

Certificates are made here, independent of the packages under test, so a bug there cannot hide itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import ipaddress
import json
import shutil
import signal
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stagebox.bus import BUS_LIMITS
from support.pki import key_usage
from support.ports import free_port

_DAY = datetime.timedelta(days=1)

# Limits of a bus client for tests: what takes seconds on a bad network takes a moment here.
QUICK = dataclasses.replace(
    BUS_LIMITS, connect_timeout=1.0, backoff_base=0.01, backoff_cap=0.05, close_timeout=0.3
)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, in memory and on disk."""

    certificate: x509.Certificate
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
    certificate_path: Path
    key_path: Path


class Authority:
    """A throw-away root CA that writes what it issues below ``directory``."""

    def __init__(self, directory: Path, name: str = "test-ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 30 * _DAY)
            .not_valid_after(now + 30 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(key_usage(True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = self.certificate.public_bytes(Encoding.PEM)
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(self.pem)

    def issue(
        self,
        name: str,
        *,
        server: bool = False,
        uri: str | None = None,
        days: int = 10,
        key: ed25519.Ed25519PrivateKey | None = None,
        hostname: str = "localhost",
    ) -> Issued:
        """Issue a leaf; negative ``days`` makes it expired already."""
        now = datetime.datetime.now(datetime.UTC)
        leaf_key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
        leaf_key = (
            ec.generate_private_key(ec.SECP256R1()) if server else key or ed25519.Ed25519PrivateKey.generate()
        )
        names: list[x509.GeneralName] = []
        if server:
            names = [x509.DNSName(hostname), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        names += [x509.UniformResourceIdentifier(uri)] if uri else []
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        public = leaf_key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + min(days, 0) * _DAY - _DAY)
            .not_valid_after(now + days * _DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        certificate_path, key_path = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        certificate_path.write_bytes(certificate.public_bytes(Encoding.PEM))
        key_path.write_bytes(leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key_path.chmod(0o600)
        return Issued(certificate, leaf_key, certificate_path, key_path)

    def context(self, client: Issued | None, *, trust: bytes | None = None) -> ssl.SSLContext:
        """Return a TLS 1.3 client context."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=(trust or self.pem).decode())
        if client is not None:
            context.load_cert_chain(client.certificate_path, client.key_path)
        return context


class NatsServer:
    """One nats-server process; keeps its ports over :meth:`stop` and :meth:`start`.

    ``extra`` is added to the configuration (for instance an ``authorization`` block), ``store`` to JetStream's.
    """

    def __init__(
        self,
        directory: Path,
        authority: Authority,
        *,
        extra: str = "",
        server: Issued | None = None,
        client_certificates: bool = True,
        jetstream: bool = True,
        store: str = "",
    ) -> None:
        self._directory = directory
        self._authority = authority
        self._server = server if server is not None else authority.issue("server", server=True)
        self._extra = extra
        self._verify = client_certificates
        self._jetstream = jetstream
        self._store = store
        self._process: asyncio.subprocess.Process | None = None
        self.websocket_port = free_port()
        self.tcp_port = free_port()

    @property
    def wss(self) -> str:
        """The address of the WebSocket listener."""
        return f"wss://127.0.0.1:{self.websocket_port}"

    @property
    def tcp(self) -> str:
        """The address of the loopback listener."""
        return f"nats://127.0.0.1:{self.tcp_port}"

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    def _configuration(self) -> str:
        store = json.dumps(str(self._directory / "js"))
        jetstream = f"jetstream {{ store_dir: {store}\n{self._store} }}" if self._jetstream else ""
        return f"""
listen: "127.0.0.1:{self.tcp_port}"
server_name: test
websocket {{
  listen: "127.0.0.1:{self.websocket_port}"
  handshake_timeout: "2s"
  tls {{
    cert_file: {json.dumps(str(self._server.certificate_path))}
    key_file: {json.dumps(str(self._server.key_path))}
    ca_file: {json.dumps(str(self._authority.path))}
    verify: {str(self._verify).lower()}
    min_version: "1.3"
  }}
}}
{jetstream}
{self._extra}
"""

    async def start(self) -> None:
        """Start and wait until it accepts connections."""
        configuration = self._directory / "nats.conf"
        configuration.write_text(self._configuration())
        binary = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
        with (self._directory / "nats.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                binary, "-c", str(configuration), stdout=log, stderr=log
            )
        async with asyncio.timeout(10):
            for port in (self.tcp_port, self.websocket_port):
                await self._wait_for(port)

    async def _wait_for(self, port: int) -> None:
        while True:
            assert self._process is not None
            if self._process.returncode is not None:
                raise RuntimeError(f"nats-server ended: {self.log()[-2000:]}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return

    async def stop(self, *, kill: bool = False) -> None:
        """Stop it; ``kill`` gives it no chance to say goodbye."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        await process.wait()

    def reload(self) -> None:
        """Make it read its configuration and certificates again."""
        assert self._process is not None
        (self._directory / "nats.conf").write_text(self._configuration())
        self._process.send_signal(signal.SIGHUP)

    def suspend(self, suspended: bool) -> None:
        """Freeze or thaw the process: a peer that is there but says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if suspended else signal.SIGCONT)

    def log(self) -> str:
        """What it has logged."""
        return (self._directory / "nats.log").read_text()
