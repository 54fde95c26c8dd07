from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import ssl
import time
from collections.abc import Coroutine
from pathlib import Path

import nkeys
import pytest
from nacl.signing import SigningKey
from structlog.testing import capture_logs

from stagebox.bus import BusClient, BusLimits, BusMessage, BusOptions, Cause, Failure, nkey
from stagebox.bus.transport import CoalescingWebSocketTransport
from stagebox.errors import BusError, StageboxError, TlsError
from support.leaks import eventually, no_leaks
from support.natsd import QUICK, Authority, NatsServer
from support.ports import free_port


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    return authority.context(authority.issue("rack"))


def client(
    server: NatsServer | str,
    context: ssl.SSLContext | None,
    *,
    limits: BusLimits = QUICK,
    give_up: float | None = None,
) -> BusClient:
    address = server if isinstance(server, str) else server.wss
    return BusClient(BusOptions((address,), "test", context, limits=limits, give_up_after=give_up))


async def failure_of(bus: BusClient, timeout: float = 5.0) -> tuple[Failure, StageboxError, float]:
    started = time.monotonic()
    await bus.start()
    with pytest.raises((BusError, TlsError)) as caught:
        await bus.wait_connected(timeout)
    took = time.monotonic() - started
    failure = bus.last_failure
    await bus.close()
    assert failure is not None
    return failure, caught.value, took


async def test_a_message_crosses_over_tls_1_3_with_our_certificate_and_nothing_is_left(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    async with no_leaks(0), client(server, context) as bus:
        await bus.wait_connected(5)
        received: asyncio.Queue[BusMessage] = asyncio.Queue()
        await bus.subscribe("rack.*.meter.>", received.put_nowait)
        assert bus.publish("rack.a.meter.main", b"frame", headers={"Kind": "x"})
        message = await asyncio.wait_for(received.get(), 2)
        assert (message.subject, message.payload, message.headers) == (
            "rack.a.meter.main",
            b"frame",
            {"Kind": "x"},
        )
        facts = bus.transport_facts()
        assert facts["tls"] == "TLSv1.3" and facts["client_certificate"] is True
        assert facts["cipher"].startswith("TLS_AES_")


async def test_a_server_that_asks_for_no_certificate_is_not_reported_as_having_ours(
    tmp_path: Path, authority: Authority, context: ssl.SSLContext
) -> None:
    server = NatsServer(tmp_path, authority, client_certificates=False)
    await server.start()
    async with client(server, context) as bus:
        await bus.wait_connected(5)
        assert bus.transport_facts()["client_certificate"] is False
    await server.stop()


async def test_requests_are_answered_and_unanswered_ones_say_why(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    async with no_leaks(0), client(server, context) as bus:
        await bus.wait_connected(5)

        def echo(message: BusMessage) -> None:
            bus.publish(message.reply, message.payload.upper())

        await bus.subscribe("echo", echo)
        await bus.subscribe("silent", lambda m: None)
        assert (await bus.request("echo", b"hello")).payload == b"HELLO"
        with pytest.raises(BusError, match="nobody answers on 'nobody'"):
            await bus.request("nobody")
        with pytest.raises(BusError, match=r"no answer on 'silent' within 0.05 s"):
            await bus.request("silent", timeout=0.05)


async def test_a_killed_server_is_survived_subscriptions_and_all_and_drops_are_counted(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    async with no_leaks(0):
        await server.stop()
        await server.start()
        async with client(server, context) as bus:
            await bus.wait_connected(5)
            received: asyncio.Queue[BusMessage] = asyncio.Queue()
            reasons: list[Failure] = []
            again = asyncio.Event()
            await bus.subscribe("rack.a.>", received.put_nowait)
            bus.on_disconnected(reasons.append)
            await server.stop(kill=True)
            await eventually(lambda: not bus.connected)
            assert bus.publish("rack.a.meter.main", b"lost") is False
            assert bus.publish("rack.a.audio.main", b"lost") is False
            with pytest.raises(BusError, match="not connected"):
                _ = bus.js
            with pytest.raises(BusError, match="not connected"):
                await bus.publish_confirmed("rack.a.wal", b"kept by its owner")
            bus.on_connected(again.set)
            await server.start()
            await asyncio.wait_for(again.wait(), 5)
            await bus.publish_confirmed("rack.a.meter.main", b"found")
            assert (await asyncio.wait_for(received.get(), 2)).payload == b"found"
            stats = bus.stats()
            assert stats.dropped == {"meter": 1, "audio": 1} and stats.dropped_because == {"disconnected": 2}
            assert (stats.connects, stats.disconnects, len(reasons)) == (2, 1, 1)
        await server.stop()


async def test_requests_in_flight_fail_at_once_when_the_connection_is_lost(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    async with client(server, context) as bus:
        await bus.wait_connected(5)
        await bus.subscribe("silent", lambda m: None)
        request = asyncio.create_task(bus.request("silent", timeout=30))
        await bus.flush()
        started = time.monotonic()
        await server.stop(kill=True)
        with pytest.raises(BusError, match="failed"):
            await request
        assert time.monotonic() - started < 2


async def test_a_peer_that_falls_silent_is_given_up_within_its_pings(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    limits = dataclasses.replace(QUICK, ping_interval=0.1)
    async with client(server, context, limits=limits) as bus:
        await bus.wait_connected(5)
        reasons: asyncio.Queue[Failure] = asyncio.Queue()
        bus.on_disconnected(reasons.put_nowait)
        server.suspend(True)
        try:
            failure = await asyncio.wait_for(reasons.get(), 2)
            await eventually(lambda: bus.stats().failed_attempts > 0)
        finally:
            server.suspend(False)
        assert failure.cause is Cause.PEER_SILENT
        await bus.wait_connected(5)


async def test_a_server_that_accepts_but_never_answers_hits_the_connect_deadline(
    context: ssl.SSLContext,
) -> None:
    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    held: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with no_leaks(0):
        limits = dataclasses.replace(QUICK, connect_timeout=0.3)
        bus = client(f"wss://127.0.0.1:{port}", context, limits=limits, give_up=0.1)
        failure, _, took = await failure_of(bus)
        for writer in held:
            writer.transport.abort()
    listener.close()
    assert failure.cause is Cause.TIMED_OUT and 0.3 <= took < 1.5


@pytest.mark.parametrize(
    "case", ["expired", "foreign", "none", "wrong-ca", "hostname", "tls-1.2", "refused", "not-tls"]
)
async def test_a_refused_handshake_names_its_cause_quickly_without_leaks_or_tracebacks(
    case: str, server: NatsServer, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Authority(tmp_path / "other", "other")
    good = authority.context(authority.issue("good"))
    old = authority.context(authority.issue("good-too"))
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    address = {
        "refused": f"wss://127.0.0.1:{free_port()}",
        "not-tls": f"wss://127.0.0.1:{server.tcp_port}",
    }.get(case, server.wss)
    context, cause = {
        "expired": (authority.context(authority.issue("old", days=-1)), Cause.CLIENT_CERTIFICATE_EXPIRED),
        "foreign": (authority.context(other.issue("foreign")), Cause.CLIENT_CERTIFICATE_REFUSED),
        "none": (authority.context(None), Cause.CLIENT_CERTIFICATE_REFUSED),
        "wrong-ca": (authority.context(authority.issue("x"), trust=other.pem), Cause.UNKNOWN_CA),
        "hostname": (good, Cause.HOSTNAME_MISMATCH),
        "tls-1.2": (old, Cause.TLS_VERSION),
        "refused": (good, Cause.CONNECTION_REFUSED),
        "not-tls": (good, Cause.NOT_TLS),
    }[case]
    async with no_leaks(0):
        hostname = "mixer.example" if case == "hostname" else None
        options = BusOptions(
            (address,), "test", context, limits=QUICK, give_up_after=0.2, server_hostname=hostname
        )
        failure, error, took = await failure_of(BusClient(options))
    assert failure.cause is cause, failure
    assert error.remedy and address in error.message and took < 2
    assert isinstance(error, TlsError if cause.is_tls else BusError)
    assert "Traceback" not in caplog.text


async def test_a_failure_is_logged_once_per_cause_and_its_end_once(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    await server.stop()
    with capture_logs() as logs:
        async with client(server, context) as bus:
            await eventually(lambda: bus.stats().failed_attempts >= 5)
            await server.start()
            await bus.wait_connected(5)
            attempts = bus.stats().failed_attempts
    events = [(entry["event"], entry.get("cause")) for entry in logs]
    assert events.count(("bus_connect_failed", "connection_refused")) == 1
    assert [entry["after_failures"] for entry in logs if entry["event"] == "bus_connected"] != [0]
    assert attempts >= 5 and len(events) <= 4


async def test_swapping_the_certificate_loses_no_message_and_answers_requests_in_flight(
    server: NatsServer, authority: Authority
) -> None:
    context = authority.context(authority.issue("first"))
    async with no_leaks(0), client(server, context) as bus:
        await bus.wait_connected(5)
        received: list[int] = []
        await bus.subscribe("count", lambda m: received.append(int(m.payload)))

        def answer_late(message: BusMessage) -> None:
            asyncio.get_running_loop().call_later(0.2, bus.publish, message.reply, b"late")

        await bus.subscribe("slow", answer_late)
        running = True

        async def produce() -> int:
            number = 0
            while running:
                assert bus.publish("count", b"%d" % number), "a swap must not drop"
                number += 1
                await asyncio.sleep(0.001)
            return number

        producer = asyncio.create_task(produce())
        answer = asyncio.create_task(bus.request("slow", timeout=5))
        await asyncio.sleep(0.05)
        second = authority.issue("second")
        context.load_cert_chain(second.certificate_path, second.key_path)
        await bus.swap_certificate()
        assert (await answer).payload == b"late"
        await asyncio.sleep(0.05)
        running = False
        sent = await producer
        await bus.flush()
        assert sorted(set(received)) == list(range(sent))
        assert bus.stats().disconnects == 0 and bus.stats().connects == 2


async def test_the_context_is_asked_for_at_every_attempt_and_a_failed_attempt_is_told_before_the_next(
    server: NatsServer, authority: Authority
) -> None:
    expired, good = (
        authority.context(authority.issue("old", days=-1)),
        authority.context(authority.issue("new")),
    )
    asked: list[ssl.SSLContext] = []
    failures: list[Failure] = []

    def choose() -> ssl.SSLContext:
        asked.append(good if failures else expired)
        return asked[-1]

    options = BusOptions((server.wss,), "test", choose, limits=QUICK)
    async with no_leaks(0), BusClient(options) as bus:
        bus.on_attempt_failed(failures.append)
        await bus.wait_connected(5)
        assert [failure.cause for failure in failures] == [Cause.CLIENT_CERTIFICATE_EXPIRED]
        assert asked == [expired, good]
        assert bus.transport_facts()["client_certificate"] is True
        await bus.swap_certificate()
        assert asked[2:] == [good]


async def test_a_swap_that_fails_is_told_like_any_attempt(server: NatsServer, authority: Authority) -> None:
    good, expired = (
        authority.context(authority.issue("new")),
        authority.context(authority.issue("old", days=-1)),
    )
    chosen = [good]
    async with (
        no_leaks(0),
        BusClient(BusOptions((server.wss,), "test", lambda: chosen[0], limits=QUICK)) as bus,
    ):
        failures: list[Failure] = []
        bus.on_attempt_failed(failures.append)
        await bus.wait_connected(5)
        chosen[0] = expired
        with pytest.raises(TlsError):
            await bus.swap_certificate()
        assert [failure.cause for failure in failures] == [Cause.CLIENT_CERTIFICATE_EXPIRED]
        assert bus.connected


async def test_a_context_that_cannot_be_had_is_a_failed_attempt_that_quotes_nothing(
    server: NatsServer,
) -> None:
    def broken() -> ssl.SSLContext:
        raise OSError("hunter22")

    options = BusOptions((server.wss,), "test", broken, limits=QUICK, give_up_after=1)
    failure, error, _ = await failure_of(BusClient(options))
    assert failure.cause is Cause.LOCAL
    assert "hunter22" not in str(error)


async def test_a_swap_that_fails_keeps_the_connection(server: NatsServer, authority: Authority) -> None:
    context = authority.context(authority.issue("first"))
    async with no_leaks(0), client(server, context) as bus:
        await bus.wait_connected(5)
        expired = authority.issue("expired", days=-1)
        context.load_cert_chain(expired.certificate_path, expired.key_path)
        with pytest.raises(TlsError, match="does not accept our certificate"):
            await bus.swap_certificate()
        await bus.publish_confirmed("still", b"here")


async def test_the_identity_key_and_token_reach_the_server_and_a_wrong_token_is_refused_as_such(
    tmp_path: Path, authority: Authority, context: ssl.SSLContext
) -> None:
    key = SigningKey.generate()
    user = {"nkey": nkey.user_public(bytes(key.verify_key))}
    server = NatsServer(tmp_path, authority, extra=f"authorization {{ users: [ {json.dumps(user)} ] }}")
    await server.start()
    options = BusOptions(
        (server.wss,), "rack", context, identity=lambda: key, token=lambda: "t", limits=QUICK
    )
    async with BusClient(options) as bus:
        await bus.wait_connected(5)
    stranger = dataclasses.replace(options, identity=SigningKey.generate, give_up_after=0.1)
    failure, error, _ = await failure_of(BusClient(stranger))
    assert failure.cause is Cause.AUTHORIZATION_REFUSED and "does not admit us" in error.message
    await server.stop()


async def test_a_credential_that_cannot_be_read_is_named_and_not_quoted(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    def broken() -> str:
        raise ValueError("the secret is hunter2")

    options = BusOptions((server.wss,), "rack", context, token=broken, limits=QUICK, give_up_after=0.1)
    failure, error, _ = await failure_of(BusClient(options))
    assert failure.cause is Cause.LOCAL
    assert "token" in error.message and "hunter2" not in error.message


async def test_what_the_server_does_not_permit_is_an_error_at_once_and_counted(
    tmp_path: Path, authority: Authority, context: ssl.SSLContext
) -> None:
    permissions = {"publish": ["rack.a.>"], "subscribe": ["rack.a.>", "_INBOX.>"]}
    key = SigningKey.generate()
    user = {"nkey": nkey.user_public(bytes(key.verify_key)), "permissions": permissions}
    server = NatsServer(tmp_path, authority, extra=f"authorization {{ users: [ {json.dumps(user)} ] }}")
    await server.start()
    options = BusOptions((server.wss,), "rack", context, identity=lambda: key, limits=QUICK)
    async with BusClient(options) as bus:
        await bus.wait_connected(5)
        await bus.subscribe("rack.a.meter.>", lambda m: None)
        with pytest.raises(BusError, match=r"refused to let us subscribe 'rack.B"):
            await bus.subscribe("rack.B.meter.>", lambda m: None)
        assert bus.publish("rack.b.meter.main", b"forged")
        await bus.flush()
        await eventually(lambda: bus.stats().denied == 2)
        assert bus.connected
    await server.stop()


async def test_a_user_jwt_and_its_key_enter_a_server_in_operator_mode(
    tmp_path: Path, authority: Authority
) -> None:
    operator = make_operator(tmp_path)
    server = NatsServer(tmp_path, authority, extra=operator.configuration, jetstream=False)
    await server.start()
    options = BusOptions(
        (server.tcp,),
        "mixer",
        None,
        identity=lambda: operator.user,
        user_jwt=lambda: operator.user_jwt,
        limits=QUICK,
    )
    async with no_leaks(0), BusClient(options) as bus:
        await bus.wait_connected(5)
        await bus.publish_confirmed("mixer.beacon", b"x")
        assert bus.transport_facts() == {"tls": None, "cipher": None, "client_certificate": False}
    await server.stop()


async def test_live_messages_beyond_the_backlog_bound_are_dropped_counted_and_never_raise(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    limits = dataclasses.replace(QUICK, live_pending_bytes=10_000)
    async with client(server, context, limits=limits) as bus:
        await bus.wait_connected(5)
        accepted = [bus.publish("rack.a.meter.main", bytes(1000)) for _ in range(100)]
        assert 5 <= sum(accepted) <= 10
        assert bus.publish("rack.a.meter.main\r\nPUB x 0", b"") is False
        await bus.flush()
        stats = bus.stats()
        assert stats.dropped == {"meter": 100 - sum(accepted), "other": 1}
        assert stats.dropped_because == {"backlog": 100 - sum(accepted), "malformed": 1}


async def test_a_message_larger_than_the_server_takes_is_dropped_here_and_the_connection_stays(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    limits = dataclasses.replace(QUICK, live_pending_bytes=8 << 20)
    async with client(server, context, limits=limits) as bus:
        await bus.wait_connected(5)
        assert bus.publish("rack.a.meter.main", bytes(2 << 20)) is False
        assert bus.stats().dropped_because == {"oversize": 1}
        await bus.publish_confirmed("rack.a.meter.main", b"small")


async def test_jetstream_works_and_a_new_connection_has_a_new_context(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    async with no_leaks(0), client(server, context) as bus:
        await bus.wait_connected(5)
        await bus.js.add_stream(name="WAL", subjects=["rack.*.wal"])
        first = bus.js
        assert (await first.publish("rack.a.wal", b"batch")).seq == 1
        await bus.swap_certificate()
        assert bus.js is not first
        assert (await bus.js.publish("rack.a.wal", b"batch")).seq == 2


async def test_closing_while_the_peer_is_frozen_does_not_hang(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    limits = dataclasses.replace(QUICK, drain_timeout=0.2, close_timeout=0.2)
    async with no_leaks(0):
        bus = client(server, context, limits=limits)
        await bus.start()
        await bus.wait_connected(5)
        server.suspend(True)
        try:
            bus.publish("rack.a.meter.main", bytes(100_000))
            started = time.monotonic()
            await bus.close()
            assert time.monotonic() - started < 1.5
        finally:
            server.suspend(False)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13])
async def test_closing_in_the_middle_of_losing_a_connection_leaves_nothing(
    turns: int, server: NatsServer, context: ssl.SSLContext
) -> None:
    async with no_leaks(0):
        bus = client(server, context)
        await bus.start()
        await bus.wait_connected(5)
        lost = asyncio.Event()
        bus.on_disconnected(lambda _failure: lost.set())
        await server.stop(kill=True)
        await asyncio.wait_for(lost.wait(), 5)
        for _ in range(turns):
            await asyncio.sleep(0)
        await bus.close()


async def test_closing_while_a_lost_connection_is_still_saying_goodbye_waits_for_it(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    async with no_leaks(0):
        bus = client(server, context, limits=dataclasses.replace(QUICK, ping_interval=0.05))
        await bus.start()
        await bus.wait_connected(5)
        lost = asyncio.Event()
        bus.on_disconnected(lambda _failure: lost.set())
        server.suspend(True)
        try:
            await asyncio.wait_for(lost.wait(), 5)
            await asyncio.sleep(0)
            await bus.close()
        finally:
            server.suspend(False)


async def test_a_flush_is_sent_after_everything_it_is_to_confirm(
    server: NatsServer, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    next_frame = CoalescingWebSocketTransport._next_frame

    def recorded(transport: CoalescingWebSocketTransport) -> bytes:
        sent.append(next_frame(transport))
        return sent[-1]

    async with client(server, context) as bus:
        await bus.wait_connected(5)
        monkeypatch.setattr(CoalescingWebSocketTransport, "_next_frame", recorded)
        await bus.subscribe("first", lambda m: None)
        bus.publish("second", b"payload")
        await bus.flush()
    wire = b"".join(sent)
    assert wire.index(b"SUB first") < wire.index(b"PING")
    assert wire.index(b"PUB second") < wire.index(b"PING", wire.index(b"PING") + 1)


async def refusal(request: Coroutine[None, None, BusMessage]) -> str:
    with pytest.raises(BusError) as caught:
        await request
    return caught.value.message


async def test_unsubscribing_after_a_reconnect_ends_the_interest_at_the_server(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    async with client(server, context) as bus:
        await bus.wait_connected(5)
        other = await bus.subscribe("other", lambda m: None)
        echo = await bus.subscribe("echo", lambda m: None)
        await bus.unsubscribe(other)  # so that the next connection numbers them differently
        await bus.swap_certificate()
        await bus.unsubscribe(echo)
        # The connection that was replaced may still be closing, and holds the interest until it has.
        async with asyncio.timeout(5):
            while "nobody answers" not in await refusal(bus.request("echo", timeout=0.2)):
                pass


async def test_a_second_server_is_tried_when_the_first_is_gone(
    server: NatsServer, context: ssl.SSLContext
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        dead = f"wss://127.0.0.1:{taken.getsockname()[1]}"
        options = BusOptions((dead, server.wss), "test", context, limits=QUICK, give_up_after=5)
        async with BusClient(options) as bus:
            await bus.wait_connected(5)
            assert bus.stats().server == server.wss


@dataclasses.dataclass
class Operator:
    configuration: str
    user: SigningKey
    user_jwt: str


def make_operator(directory: Path) -> Operator:
    """The smallest operator-mode setup: one operator, one account, one user."""
    import base64

    def named(prefix: int) -> tuple[nkeys.KeyPair, str]:
        pair = nkeys.from_seed(bytearray(nkeys.encode_seed(SigningKey.generate().encode(), prefix)))
        return pair, pair.public_key.decode()

    def text(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    def jwt(issuer: nkeys.KeyPair, subject: str, name: str, claims: dict[str, object]) -> str:
        head = text(b'{"typ":"JWT","alg":"ed25519-nkey"}')
        now = int(time.time())
        body = {
            "jti": name,
            "iat": now,
            "iss": issuer.public_key.decode(),
            "sub": subject,
            "name": name,
            "nats": claims,
        }
        signed = f"{head}.{text(json.dumps(body).encode())}"
        return f"{signed}.{text(issuer.sign(signed.encode()))}"

    operator, operator_name = named(nkeys.PREFIX_BYTE_OPERATOR)
    account, account_name = named(nkeys.PREFIX_BYTE_ACCOUNT)
    limits = {
        "subs": -1,
        "data": -1,
        "payload": -1,
        "imports": -1,
        "exports": -1,
        "conn": -1,
        "leaf": -1,
        "wildcards": True,
    }
    operator_jwt = jwt(operator, operator_name, "op", {"type": "operator", "version": 2})
    account_jwt = jwt(operator, account_name, "acc", {"type": "account", "version": 2, "limits": limits})
    user = SigningKey.generate()
    claims: dict[str, object] = {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}
    user_jwt = jwt(account, nkey.user_public(bytes(user.verify_key)), "mixer", claims)
    configuration = (
        f"operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {account_name}: {account_jwt} }}\n"
    )
    return Operator(configuration, user, user_jwt)
