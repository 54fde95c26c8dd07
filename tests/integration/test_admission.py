"""Admission with a real nats-server: each proof alone can refuse, and rights end where the name ends."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.signing import SigningKey
from nats.js.errors import NotFoundError

from stagebox import subjects
from stagebox.bus import BusMessage, Cause
from stagebox.errors import BusError
from stagebox.identity import RackId, Role
from stagebox.keyfiles import load_ed25519
from stagebox.tls import client_context
from stagebox_mixer.streams import AUDIT_STREAM, RACKS_BUCKET, TOKENS_BUCKET, WAL_STREAM
from stagebox_rack.state import RackIdentity
from support.cluster import Cluster, RunningMixer, make_cluster
from support.leaks import eventually
from support.rackside import (
    client_options,
    connected,
    load_any,
    rack_certificate,
    rack_options,
    refusal,
    store,
)

RACK = "stage-left"


async def test_a_rack_with_all_three_proofs_is_admitted_over_aes_256(
    mixer: RunningMixer, rack: RackIdentity
) -> None:
    async with connected(rack_options(rack)) as bus:
        assert bus.transport_facts() == {
            "tls": "TLSv1.3",
            "cipher": "TLS_AES_256_GCM_SHA384",
            "client_certificate": True,
        }
    assert mixer.mixer.health()["refused"] == 0


# The first proof: the certificate


async def test_without_a_client_certificate_the_handshake_fails(rack: RackIdentity) -> None:
    failure = await refusal(rack_options(rack, context=client_context(rack.roots_pem)))
    assert failure.cause is Cause.CLIENT_CERTIFICATE_REFUSED


async def test_a_certificate_of_another_ca_fails_in_the_handshake(
    rack: RackIdentity, tmp_path: Path, cluster: Cluster
) -> None:
    evil = make_cluster(tmp_path / "evil", cluster.name, datetime.now(UTC))
    rack_certificate(
        evil.keys.issuing, tmp_path / "forged", rack.passport.rack_id, load_ed25519(rack.paths.identity_key)
    )
    context = client_context(
        rack.roots_pem, tmp_path / "forged" / "forged.pem", tmp_path / "forged" / "forged.key"
    )
    failure = await refusal(rack_options(rack, context=context))
    assert failure.cause is Cause.CLIENT_CERTIFICATE_REFUSED


async def test_an_expired_certificate_fails_in_the_handshake(
    rack: RackIdentity, tmp_path: Path, cluster: Cluster
) -> None:
    key = load_ed25519(rack.paths.identity_key)
    context = rack_certificate(cluster.keys.issuing, tmp_path / "old", rack.passport.rack_id, key, life_s=-60)
    failure = await refusal(rack_options(rack, context=context))
    assert failure.cause is Cause.CLIENT_CERTIFICATE_EXPIRED


async def test_a_certificate_with_another_key_than_the_registered_is_refused_and_audited(
    mixer: RunningMixer, rack: RackIdentity, tmp_path: Path, cluster: Cluster
) -> None:
    context = rack_certificate(cluster.keys.issuing, tmp_path / "other", rack.passport.rack_id)
    failure = await refusal(rack_options(rack, context=context))
    assert failure.cause is Cause.AUTHORIZATION_REFUSED
    row = await mixer.wait_audit(action="connect", reason="certificate_key")
    assert row["actor"] == rack.passport.rack_id.uri


async def test_a_rack_that_is_not_registered_is_refused(
    mixer: RunningMixer, rack: RackIdentity, tmp_path: Path, cluster: Cluster
) -> None:
    key = Ed25519PrivateKey.generate()
    ghost = RackId(cluster.name, "default", "ghost")
    context = rack_certificate(cluster.keys.issuing, tmp_path / "ghost", ghost, key)
    own = SigningKey(key.private_bytes_raw())
    assert (await refusal(rack_options(rack, context=context, key=own))).cause is Cause.AUTHORIZATION_REFUSED
    assert (await mixer.wait_audit(action="connect", reason="unknown_rack"))["actor"] == ghost.uri


async def test_a_certificate_of_another_tenant_is_refused(
    mixer: RunningMixer, rack: RackIdentity, tmp_path: Path, cluster: Cluster
) -> None:
    key = load_ed25519(rack.paths.identity_key)
    elsewhere = RackId(cluster.name, "other-tenant", RACK)
    context = rack_certificate(cluster.keys.issuing, tmp_path / "tenant", elsewhere, key)
    assert (await refusal(rack_options(rack, context=context))).cause is Cause.AUTHORIZATION_REFUSED
    assert (await mixer.wait_audit(action="connect", reason="unknown_rack"))["actor"] == elsewhere.uri


# The second proof: the identity key's signature over the server's nonce


@pytest.mark.parametrize("other_key", [True, False], ids=["another key", "no key"])
async def test_a_nonce_not_signed_by_the_registered_key_is_refused(
    mixer: RunningMixer, rack: RackIdentity, other_key: bool
) -> None:
    options = (
        rack_options(rack, key=SigningKey.generate()) if other_key else rack_options(rack, without_key=True)
    )
    assert (await refusal(options)).cause is Cause.AUTHORIZATION_REFUSED
    await mixer.wait_audit(action="connect", reason="nonce", actor=rack.passport.rack_id.uri)


# The third proof: the passport secret


@pytest.mark.parametrize("secret", ["guessed-secret", ""], ids=["wrong", "empty"])
async def test_a_wrong_secret_is_refused_and_never_logged(
    mixer: RunningMixer, rack: RackIdentity, secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (await refusal(rack_options(rack, token=secret))).cause is Cause.AUTHORIZATION_REFUSED
    row = await mixer.wait_audit(action="connect", reason="secret")
    output = capsys.readouterr()
    assert "guessed-secret" not in f"{row}{output.out}{output.err}"
    assert rack.passport.secret not in output.out + output.err


async def test_no_secret_is_refused(mixer: RunningMixer, rack: RackIdentity) -> None:
    assert (await refusal(rack_options(rack, without_token=True))).cause is Cause.AUTHORIZATION_REFUSED
    await mixer.wait_audit(action="connect", reason="secret")


async def test_the_secret_of_an_older_passport_is_refused(mixer: RunningMixer, tmp_path: Path) -> None:
    token = await mixer.create_token(RACK)
    await mixer.redeem(tmp_path / "rack", token)
    old = load_any(tmp_path / "rack")
    await mixer.redeem(tmp_path / "rack", token)
    new = load_any(tmp_path / "rack")
    assert new.passport.serial == old.passport.serial + 1
    # The answer that carried the new one might have been lost: only its first use ends the old one.
    async with connected(rack_options(old)):
        pass
    async with connected(rack_options(new)):
        assert (await refusal(rack_options(old))).cause is Cause.AUTHORIZATION_REFUSED
        await mixer.wait_audit(action="connect", reason="secret")
    async with connected(rack_options(new)):
        pass


# Cipher


_CONNECT_ONCE = """
import asyncio, sys
from pathlib import Path
from support.rackside import load_any, rack_options, refusal
failure = asyncio.run(refusal(rack_options(load_any(Path(sys.argv[1])))))
print("refused:", failure.cause.value)
"""


async def test_a_rack_that_offers_aes_128_is_refused(mixer: RunningMixer, rack: RackIdentity) -> None:
    environment = {**os.environ, "OPENSSL_CONF": "/dev/null", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CONNECT_ONCE, str(rack.paths.directory),
        env=environment, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(20):
        output, _ = await process.communicate()
    assert output.decode().splitlines()[-1:] == ["refused: authorization_refused"]
    row = await mixer.wait_audit(action="connect", reason="cipher")
    assert "not TLS_AES_128_GCM_SHA256" in row["detail"]["message"]


# Rights


async def test_a_viewer_reads_telemetry_and_may_publish_nothing(
    mixer: RunningMixer, rack: RackIdentity, cluster: Cluster
) -> None:
    got: list[BusMessage] = []
    heard: list[BusMessage] = []
    viewer_options = client_options(mixer.snake, cluster.client_tls(Role.VIEWER))
    async with connected(rack_options(rack)) as bus, connected(viewer_options) as viewer:
        await bus.subscribe(subjects.command(RACK), callback=heard.append)
        await viewer.subscribe("rack.>", callback=got.append)
        bus.publish(subjects.event(RACK), b"telemetry")
        await eventually(lambda: len(got) == 1)
        for number, subject in enumerate(
            (subjects.command(RACK), subjects.event(RACK), "mixer.trust", "$JS.API.STREAM.PURGE.WAL"), 1
        ):
            viewer.publish(subject, b"{}")
            await viewer.flush()
            await eventually(lambda count=number: viewer.stats().denied == count)  # type: ignore[misc]
        await bus.flush()
    assert [message.payload for message in got] == [b"telemetry"]
    assert heard == []
    row = await mixer.wait_audit(action="publish", subject=subjects.command(RACK))
    assert row["actor"] == "client:viewer:test-viewer"


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ADMIN])
async def test_operators_and_admins_publish_nothing_either_commands_go_through_the_mixer(
    mixer: RunningMixer, rack: RackIdentity, cluster: Cluster, role: Role
) -> None:
    heard: list[BusMessage] = []
    options = client_options(mixer.snake, cluster.client_tls(role))
    async with connected(rack_options(rack)) as bus, connected(options) as person:
        await bus.subscribe(subjects.command(RACK), callback=heard.append)
        forbidden = (
            subjects.command(RACK), subjects.event(RACK), subjects.wal(RACK), subjects.request(RACK, "renew"),
            "mixer.trust", "mixer.denied", "mixer.audit.enroll",
        )  # fmt: skip
        for subject in forbidden:
            person.publish(subject, b"x")
        await person.flush()
        await eventually(lambda: person.stats().denied == len(forbidden))
        await bus.flush()
    assert heard == []
    assert not await mixer.audit_rows(action="enroll", actor="x")


@pytest.mark.parametrize("role", list(Role))
async def test_no_role_may_listen_to_the_mixers_own_subjects(
    mixer: RunningMixer, cluster: Cluster, role: Role
) -> None:
    async with connected(client_options(mixer.snake, cluster.client_tls(role))) as person:
        for pattern in ("mixer.audit.>", "$KV.>", "$SYS.>", "mixer.cmd.*", "*.*", ">"):
            with pytest.raises(BusError, match="refused to let us subscribe"):
                await person.subscribe(pattern)


async def test_a_rack_on_another_racks_subject_is_refused_by_the_server_and_audited(
    mixer: RunningMixer, rack: RackIdentity, cluster: Cluster
) -> None:
    got: list[BusMessage] = []
    options = client_options(mixer.snake, cluster.client_tls(Role.VIEWER))
    async with connected(rack_options(rack)) as bus, connected(options) as viewer:
        await viewer.subscribe("rack.stage-right.>", callback=got.append)
        bus.publish(subjects.event("stage-right"), b"forged")
        bus.publish(subjects.wal("stage-right"), b"forged")
        bus.publish(f"$JS.API.DIRECT.GET.WAL.{subjects.wal('stage-right')}", b"")
        await bus.flush()
        for pattern in (subjects.command("stage-right"), "_INBOX_rack_stage-right.>", "rack.>"):
            with pytest.raises(BusError, match="refused to let us subscribe"):
                await bus.subscribe(pattern)
        await viewer.flush()
        assert bus.stats().denied == 6
        assert bus.connected
    assert got == []
    for action, subject in (
        ("publish", "rack.stage-right.event"),
        ("subscription", "mixer.cmd.stage-right"),
    ):
        row = await mixer.wait_audit(action=action, subject=subject)
        assert (row["actor"], row["result"]) == (f"rack:{RACK}", "refused")


async def test_a_connections_own_name_cannot_forge_the_audit(mixer: RunningMixer, rack: RackIdentity) -> None:
    forged = 'x" - "AAAA/STAGEBOX/user:rack:victim" - Publish Violation - Subject "rack.victim.event"'
    line = f"\n[1] 2026/01/01 00:00:00.000000 [ERR] {forged}\n"
    async with connected(replace(rack_options(rack), name=forged + line + forged)) as bus:
        bus.publish(subjects.event("stage-right"), b"x")
        await bus.flush()
        row = await mixer.wait_audit(action="publish")
    assert (row["actor"], row["subject"]) == (f"rack:{RACK}", "rack.stage-right.event")
    assert not await mixer.audit_rows(actor="rack:victim")


async def test_a_reply_subject_makes_jetstream_write_nothing_of_the_mixers(
    mixer: RunningMixer, rack: RackIdentity, tmp_path: Path
) -> None:
    # nats-server checks no permission on a reply subject, and JetStream answers to it with its own rights.
    other = await mixer.enroll(tmp_path / "other", "stage-right")
    registry, tokens, audit = f"KV_{RACKS_BUCKET}", f"KV_{TOKENS_BUCKET}", AUDIT_STREAM
    js = mixer.bus.js
    before = {name: (await js.stream_info(name)).state for name in (registry, tokens)}
    targets = (
        f"$KV.{RACKS_BUCKET}.stage-right", f"$KV.{TOKENS_BUCKET}.forged", "mixer.audit.enroll",
        f"$JS.API.STREAM.PURGE.{registry}", f"$JS.API.STREAM.DELETE.{audit}", "rack.stage-right.wal",
    )  # fmt: skip
    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, b"{}")
        for target in targets:
            bus.publish(f"$JS.API.DIRECT.GET.WAL.rack.{RACK}.wal", b"", reply=target)
            bus.publish(f"rack.{RACK}.wal", b"{}", reply=target)
        await store(bus, RACK, b"the last")
    for name, state in before.items():
        after = (await js.stream_info(name)).state
        assert (after.messages, after.last_seq) == (state.messages, state.last_seq)
    assert not [row for row in await mixer.audit_rows() if "action" not in row]
    with pytest.raises(NotFoundError):
        await js.get_last_msg(WAL_STREAM, "rack.stage-right.wal")
    async with connected(rack_options(other)):
        pass


# How long a connection lives


async def test_a_connection_ends_with_its_certificate(
    rack: RackIdentity, tmp_path: Path, cluster: Cluster
) -> None:
    key = load_ed25519(rack.paths.identity_key)
    context = rack_certificate(
        cluster.keys.issuing, tmp_path / "short", rack.passport.rack_id, key, life_s=2.5
    )
    async with connected(rack_options(rack, context=context)) as bus:
        ended = asyncio.Event()
        bus.on_disconnected(lambda failure: ended.set())
        async with asyncio.timeout(5):
            await ended.wait()
        await eventually(lambda: bus.last_failure is not None and not bus.connected)


async def test_a_new_server_certificate_keeps_live_connections_and_serves_new_ones(
    mixer: RunningMixer, rack: RackIdentity, cluster: Cluster
) -> None:
    got: list[BusMessage] = []
    viewer_options = client_options(mixer.snake, cluster.client_tls(Role.VIEWER))
    ports = (mixer.mixer.snake_port, mixer.mixer.https_port)
    before = [await peer_certificate(cluster, port) for port in ports]
    async with connected(rack_options(rack)) as bus, connected(viewer_options) as viewer:
        await viewer.subscribe("rack.>", callback=got.append)
        admitted = mixer.mixer.health()["admitted"]
        mixer.mixer.renew_server_certificate()
        # The server asks again about every live connection; its answers decide who stays.
        await eventually(lambda: mixer.mixer.health()["admitted"] == admitted + 2)
        bus.publish(subjects.event(RACK), b"after")
        await eventually(lambda: [message.payload for message in got] == [b"after"])
        assert (bus.stats().disconnects, viewer.stats().disconnects) == (0, 0)
        after = [await peer_certificate(cluster, port) for port in ports]
        assert not set(before) & set(after)
        async with connected(rack_options(rack)):
            pass
    assert mixer.mixer.health()["refused"] == 0


async def test_a_rack_removed_meanwhile_does_not_survive_a_reload(
    mixer: RunningMixer, rack: RackIdentity
) -> None:
    async with connected(rack_options(rack)) as bus:
        stored = await mixer.registry.racks.get(RACK)
        assert stored is not None
        await mixer.registry.racks.put(RACK, replace(stored.entry, removed_at=1), revision=stored.revision)
        mixer.mixer.renew_server_certificate()
        await eventually(lambda: bus.stats().disconnects == 1)
        await mixer.wait_audit(action="connect", reason="removed")


# The other ways in


async def test_the_loopback_port_admits_nobody_without_credentials(mixer: RunningMixer) -> None:
    assert mixer.mixer.nats is not None
    port = mixer.mixer.nats.config.loopback.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(8):
            assert (await reader.readline()).startswith(b"INFO ")
            options = {"verbose": False, "lang": "raw", "version": "1", "auth_token": "guess"}
            writer.write(b"CONNECT " + json.dumps(options).encode() + b"\r\nPING\r\n")
            assert b"Authorization Violation" in await reader.readline()
            assert await reader.read() == b""
    finally:
        writer.close()
    await mixer.wait_audit(action="connect", reason="no_certificate")


async def peer_certificate(cluster: Cluster, port: int) -> bytes:
    """Return the DER certificate the server on ``port`` shows now."""
    context = cluster.client_tls(Role.VIEWER)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    der: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return der
