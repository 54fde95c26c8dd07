"""The doors accept TLS 1.3 only, on both ports, and nothing in plaintext."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stagebox.identity import Role
from support.cluster import Cluster, RunningMixer, make_cluster

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def handshake(port: int, context: ssl.SSLContext) -> str | None:
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    version: str | None = writer.get_extra_info("ssl_object").version()
    writer.close()
    await writer.wait_closed()
    return version


@pytest.mark.parametrize("port", ["snake_port", "https_port"])
async def test_tls_1_3_is_spoken_and_tls_1_2_refused(
    mixer: RunningMixer, cluster: Cluster, port: str
) -> None:
    number: int = getattr(mixer.mixer, port)
    context = cluster.client_tls(Role.VIEWER)
    assert await handshake(number, context) == "TLSv1.3"
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    # The same client, told to speak TLS 1.2; asyncio's server resets where nats-server sends the alert.
    with pytest.raises((ssl.SSLError, ConnectionResetError), match=r"(?i)alert protocol version|^$"):
        await handshake(number, context)


@pytest.mark.parametrize("port", ["snake_port", "https_port"])
async def test_plaintext_gets_no_service(mixer: RunningMixer, port: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", getattr(mixer.mixer, port))
    writer.write(UPGRADE)
    try:
        async with asyncio.timeout(8):
            answer = await reader.read(4096)
    except ConnectionResetError:
        answer = b""
    writer.close()
    assert not answer.startswith(b"HTTP/1.1 101")
    assert b"INFO" not in answer
    assert answer == b"" or b"400 Bad Request" in answer or answer[0] == 0x15  # a TLS alert


async def test_the_snake_asks_for_a_client_certificate_in_the_handshake(
    mixer: RunningMixer, cluster: Cluster
) -> None:
    _, writer = reader_writer = await asyncio.open_connection(
        "127.0.0.1", mixer.mixer.snake_port, ssl=cluster.client_tls(None), server_hostname="localhost"
    )
    writer.write(UPGRADE)
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate required"):
        await reader_writer[0].read(4096)
    writer.close()


async def test_a_client_of_another_cluster_does_not_believe_the_mixer(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    other = make_cluster(tmp_path / "other", "flux-test", datetime.now(UTC))
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(mixer.mixer.snake_port, other.client_tls(Role.VIEWER))
