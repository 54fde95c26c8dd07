"""The life of an identity, whole: a real mixer and a real rack, and what an attacker does in between."""

from __future__ import annotations

import asyncio
import datetime
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stagebox import envelope, subjects
from stagebox.bus import BusClient, Failure
from stagebox.bus.causes import Cause
from stagebox.certificates import build_csr, to_pem
from stagebox.control.command import AckResult, Command, CommandVerb, open_ack, open_command
from stagebox.errors import BusError, TlsError, VerificationError
from stagebox.identity import Role
from stagebox.passport import PassportStatus
from stagebox_rack import state
from stagebox_rack.limits import LIMITS
from stagebox_rack.state import StatePaths
from support.cluster import MACHINE, Cluster, RunningMixer, running_mixer
from support.ports import free_port
from support.racks import age_certificate, hear, relay, running_rack
from support.rackside import rack_options

RACK = "stage-left"
DAY = datetime.timedelta(days=1)
DUE = {"issued": 2.9 * DAY, "life": 3.5 * DAY}
ENDED = {"issued": 2.9 * DAY, "life": 1 * DAY}


async def until(condition: Callable[[], Awaitable[Any]], timeout: float = 15.0) -> Any:
    """Ask again until something true comes back."""
    async with asyncio.timeout(timeout):
        found = await condition()
        while not found:
            await asyncio.sleep(0.02)
            found = await condition()
    return found


async def post(mixer: RunningMixer, path: str, **body: object) -> dict[str, Any]:
    async with mixer.api(Role.ADMIN) as api:
        answer = await api.post(f"/api/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def delete(mixer: RunningMixer, path: str) -> None:
    async with mixer.api(Role.ADMIN) as api:
        answer = await api.delete(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.text


def held(directory: Path) -> state.RackIdentity:
    return state.load(StatePaths(directory), machine_id=MACHINE)


async def refused(identity: state.RackIdentity) -> Failure:
    """Try to connect; return why that failed."""
    failed: asyncio.Future[Failure] = asyncio.get_running_loop().create_future()
    async with BusClient(rack_options(identity)) as bus:

        def note(failure: Failure) -> None:
            if not failed.done():
                failed.set_result(failure)

        bus.on_attempt_failed(note)
        async with asyncio.timeout(10):
            failure = await failed
        assert not bus.connected
    return failure


@pytest.fixture
def impatient() -> Iterator[None]:
    """Let a refused rack turn to HTTPS after a moment; everything else stays as it is."""
    before = LIMITS.renew_refused_for
    object.__setattr__(LIMITS, "renew_refused_for", 0.3)
    yield
    object.__setattr__(LIMITS, "renew_refused_for", before)


# --- renewal ------------------------------------------------------------------------------------------


async def test_a_rack_renews_unattended_and_proves_the_new_identity_before_the_old_one_dies(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    before = await mixer.enroll(tmp_path / "rack", RACK)
    age_certificate(mixer.cluster, tmp_path / "rack", RACK, **DUE)
    async with running_rack(tmp_path / "rack"):
        await mixer.wait_audit(15, action="renew", result="ok", subject=RACK)
        await mixer.wait_audit(15, action="confirm", result="ok", subject=RACK)

        async def promoted() -> bool:
            return held(tmp_path / "rack").passport.serial == before.passport.serial + 1

        await until(promoted)
    after = held(tmp_path / "rack")
    left = after.chain[0].not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left > 29 * DAY
    assert after.passport.secret != before.passport.secret
    assert (await refused(before)).cause is Cause.AUTHORIZATION_REFUSED
    async with BusClient(rack_options(after)) as bus:
        await bus.wait_connected(10)


async def test_a_rekeyed_rack_comes_back_with_its_new_key_and_its_journal_stays_whole(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    before = await mixer.enroll(tmp_path / "rack", RACK)
    age_certificate(mixer.cluster, tmp_path / "rack", RACK, **DUE)
    async with running_rack(tmp_path / "rack", rekey_on_renewal=True):
        await mixer.wait_audit(15, action="confirm", result="ok", subject=RACK)

        async def rekeyed() -> bool:
            return held(tmp_path / "rack").key != before.key

        await until(rekeyed)
    entry = await mixer.registry.rack(RACK)
    assert entry is not None
    assert entry.rack_public == bytes(held(tmp_path / "rack").key.verify_key)
    assert bytes(before.key.verify_key) in entry.earlier_keys
    assert await mixer.audit_rows(action="wal_batch", result="refused") == []


async def test_a_rack_whose_certificate_has_ended_recovers_over_https_and_every_use_is_counted(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    await mixer.enroll(tmp_path / "rack", RACK)
    age_certificate(mixer.cluster, tmp_path / "rack", RACK, **ENDED)
    async with running_rack(tmp_path / "rack"):
        await mixer.wait_audit(20, action="renew_grace", result="ok", subject=RACK)
        await mixer.wait_audit(20, action="confirm", result="ok", subject=RACK)
    entry = await mixer.registry.rack(RACK)
    assert entry is not None
    assert entry.grace_uses == 1


async def test_an_ended_certificate_beyond_the_grace_needs_a_new_token(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with running_mixer(cluster, tmp_path / "data", grace_days=1) as mixer:
        await mixer.enroll(tmp_path / "rack", RACK)
        age_certificate(cluster, tmp_path / "rack", RACK, **ENDED)
        async with running_rack(tmp_path / "rack"):
            await mixer.wait_audit(20, action="renew", result="refused", reason="grace_ended")
        before = held(tmp_path / "rack").passport.serial
        await mixer.redeem(tmp_path / "rack", await mixer.create_token(RACK))
        assert held(tmp_path / "rack").passport.serial > before
        async with BusClient(rack_options(held(tmp_path / "rack"))) as bus:
            await bus.wait_connected(10)


# --- standing -----------------------------------------------------------------------------------------


async def test_a_suspended_rack_stops_capture_at_once_and_only_says_that_it_lives(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    await mixer.enroll(tmp_path / "rack", RACK)
    async with relay(mixer) as bus, running_rack(tmp_path / "rack"):
        meters = await hear(bus, subjects.meter(RACK, "main"))
        statuses = await hear(bus, subjects.status(RACK))
        await meters.next()
        await post(mixer, f"racks/{RACK}/suspend", reason="moved")
        await statuses.status("suspended")
        silent_since = len(meters.messages)
        others = await hear(bus, "rack.>")
        await statuses.next(2)
        assert len(meters.messages) == silent_since
        kinds = {message.subject.split(".")[2] for message in others.messages}
        assert kinds <= {"status", "ack", "req"}
        assert held(tmp_path / "rack").passport.status is PassportStatus.SUSPENDED
        await post(mixer, f"racks/{RACK}/activate", reason="back")
        await meters.next()


async def test_a_pending_rack_begins_to_capture_when_it_is_approved(cluster: Cluster, tmp_path: Path) -> None:
    async with running_mixer(cluster, tmp_path / "data", auto_approve=False) as mixer:
        await mixer.enroll(tmp_path / "rack", RACK)
        async with relay(mixer) as bus:
            meters = await hear(bus, subjects.meter(RACK, "main"))
            statuses = await hear(bus, subjects.status(RACK))
            async with running_rack(tmp_path / "rack"):
                await statuses.status("pending")
                assert meters.messages == []
                await post(mixer, f"racks/{RACK}/approve")
                await meters.next()


async def test_a_denied_rack_is_kicked_refused_and_comes_back_only_when_it_is_cleared(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    identity = await mixer.enroll(tmp_path / "rack", RACK)
    async with BusClient(rack_options(identity)) as bus:
        await bus.wait_connected(10)
        lost = asyncio.Event()
        bus.on_disconnected(lambda _failure: lost.set())
        await post(mixer, "denied", kind="rack", value=RACK, reason="stolen")
        async with asyncio.timeout(1):
            await lost.wait()
        await mixer.wait_audit(action="connect", result="refused", reason="denied")
        assert not bus.connected
        await delete(mixer, f"denied/rack/{RACK}")
        await bus.wait_connected(10)


async def test_a_rack_denied_while_it_was_off_is_refused_at_bus_and_renewal_and_forgets_nothing(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    await mixer.enroll(tmp_path / "rack", RACK)
    age_certificate(mixer.cluster, tmp_path / "rack", RACK, **ENDED)
    files = {path: path.read_bytes() for path in (tmp_path / "rack").glob("*") if path.is_file()}
    await post(mixer, "denied", kind="machine", value=f"{MACHINE:016x}", reason="stolen")
    async with running_rack(tmp_path / "rack"):
        await mixer.wait_audit(20, action="renew", result="refused", reason="denied")
    assert {path: path.read_bytes() for path in files} == files
    await delete(mixer, f"denied/machine/{MACHINE:016x}")
    async with running_rack(tmp_path / "rack"):
        await mixer.wait_audit(20, action="confirm", result="ok", subject=RACK)


async def test_a_removed_rack_is_gone_and_its_name_goes_on_with_higher_serials(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    stolen = await mixer.enroll(tmp_path / "stolen", RACK)
    await delete(mixer, f"racks/{RACK}")
    assert (await refused(stolen)).cause is Cause.AUTHORIZATION_REFUSED
    fresh = await mixer.enroll(tmp_path / "fresh", RACK, machine=MACHINE)
    assert fresh.passport.serial > stolen.passport.serial
    assert (await refused(stolen)).cause is Cause.AUTHORIZATION_REFUSED


# --- attacks ------------------------------------------------------------------------------------------


async def test_of_two_boxes_with_one_disk_the_second_is_locked_out_by_the_first_renewal(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    await mixer.enroll(tmp_path / "rack", RACK)
    age_certificate(mixer.cluster, tmp_path / "rack", RACK, **DUE)
    shutil.copytree(tmp_path / "rack", tmp_path / "clone")
    async with running_rack(tmp_path / "rack"):
        await mixer.wait_audit(15, action="confirm", result="ok", subject=RACK)
        async with running_rack(tmp_path / "clone"):
            await mixer.wait_audit(15, action="connect", result="refused", reason="secret")
            # What the clone shows is what it copied: renewal is no way in either.
            assert (await refused(held(tmp_path / "clone"))).cause is Cause.AUTHORIZATION_REFUSED


@pytest.mark.parametrize("missing", ["secret", "key"])
async def test_a_certificate_without_the_secret_or_the_secret_without_the_key_is_nobody(
    mixer: RunningMixer, tmp_path: Path, missing: str
) -> None:
    identity = await mixer.enroll(tmp_path / "rack", RACK)
    other = await mixer.enroll(tmp_path / "other", "stage-right", machine=MACHINE + 1)
    if missing == "secret":
        options, reason = rack_options(identity, token="guessed"), "secret"
    else:
        # The thief has the passport, and a certificate in the rack's name for a key of his own.
        csr = build_csr(Ed25519PrivateKey.from_private_bytes(bytes(other.key)), "stagebox-rack")
        issuing = mixer.cluster.keys.issuing
        leaf = issuing.sign_rack(csr, identity.passport.rack_id, now=datetime.datetime.now(datetime.UTC))
        other.paths.certificate.write_bytes(to_pem([leaf]) + issuing.chain_pem)
        options, reason = (
            rack_options(identity, key=other.key, context=other.tls_context()),
            "certificate_key",
        )
    async with BusClient(options) as bus:
        with pytest.raises((BusError, VerificationError, TlsError)):
            await bus.wait_connected(1)
    await mixer.wait_audit(action="connect", result="refused", reason=reason)


async def test_a_replayed_command_is_not_obeyed_again_and_an_older_one_never(
    mixer: RunningMixer, tmp_path: Path
) -> None:
    identity = await mixer.enroll(tmp_path / "rack", RACK)
    public = identity.passport.cluster_public
    async with relay(mixer) as bus, running_rack(tmp_path / "rack"):
        commands = await hear(bus, subjects.command(RACK))
        acks = await hear(bus, subjects.ack(RACK))
        await post(mixer, f"racks/{RACK}/suspend")
        await mixer.wait_audit(15, action="confirm", subject=RACK)
        await post(mixer, f"racks/{RACK}/activate")

        async def confirmed() -> bool:
            return len(await mixer.audit_rows(action="confirm", subject=RACK)) == 2

        await until(confirmed)
        suspending = next(
            message
            for message in commands.messages
            if open_command(message.payload, public)[0].verb == CommandVerb.PASSPORT
        )
        before = held(tmp_path / "rack").passport
        assert before.status is PassportStatus.ACTIVE
        heard = len(acks.messages)
        bus.publish(suspending.subject, suspending.payload)
        await mixer_and_rack_settle(bus, acks, heard)
        answer = open_ack(acks.messages[-1].payload, bytes(held(tmp_path / "rack").key.verify_key))
        assert answer.result is not AckResult.DONE
        assert answer.reason == "old_sequence"
        assert held(tmp_path / "rack").passport == before


async def mixer_and_rack_settle(bus: BusClient, acks: Any, heard: int) -> None:
    if len(acks.messages) == heard:
        await acks.next()


async def test_no_unsigned_byte_changes_a_rack_whatever_it_says(mixer: RunningMixer, tmp_path: Path) -> None:
    identity = await mixer.enroll(tmp_path / "rack", RACK)
    paths = StatePaths(tmp_path / "rack")
    files = {path: path.read_bytes() for path in (paths.passport, paths.certificate, paths.identity_key)}
    forged = Command(
        cluster=mixer.cluster.name,
        rack=RACK,
        seq=99,
        issued=1,
        expires=1 << 63,
        verb="passport",
        args={"Passport": paths.passport.read_bytes()},
    )
    async with relay(mixer) as bus, running_rack(tmp_path / "rack"):
        acks = await hear(bus, subjects.ack(RACK))
        alerts = await hear(bus, subjects.alert(RACK))
        meters = await hear(bus, subjects.meter(RACK, "main"))
        await meters.next()
        for payload in (
            b"denied",
            b'{"error": "denied"}',
            forged.encode(),
            envelope.seal(envelope.DOMAIN_COMMAND, forged.encode(), identity.key),
            envelope.seal(envelope.DOMAIN_PASSPORT, forged.encode(), identity.key),
        ):
            for subject in (subjects.command(RACK), subjects.TRUST, subjects.DENY_LIST):
                bus.publish(subject, payload)
        await alerts.next()
        await meters.next(2)
        assert acks.messages == []
        assert {path: path.read_bytes() for path in files} == files
        # A genuine command still gets through: what was forged used up no sequence.
        async with mixer.api(Role.OPERATOR) as api:
            answer = await api.post(f"/api/v1/racks/{RACK}/check")
        assert answer.json()["result"] == "done", answer.text


async def test_a_mixer_put_back_from_yesterday_lets_its_racks_back_in_and_keeps_its_bans(
    cluster: Cluster, tmp_path: Path, impatient: None
) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    ports = {"https_port": free_port(), "snake_port": free_port()}
    async with running_mixer(cluster, data, **ports) as mixer:
        await mixer.enroll(tmp_path / "rack", RACK)
        await mixer.enroll(tmp_path / "stolen", "stage-right", machine=MACHINE + 1)
    shutil.copytree(data, backup)
    age_certificate(cluster, tmp_path / "rack", RACK, **DUE)
    async with running_mixer(cluster, data, **ports) as mixer:
        await post(mixer, "denied", kind="rack", value="stage-right", reason="stolen")
        async with running_rack(tmp_path / "rack") as rack:
            await mixer.wait_audit(15, action="confirm", subject=RACK)
            await until(lambda: _has_deny_list(tmp_path / "rack"))
            assert rack.mode == "running"
    serial = held(tmp_path / "rack").passport.serial
    shutil.rmtree(data)
    shutil.rmtree(data.with_name("data-witness"))  # the worst case: nothing but the racks remembers
    shutil.copytree(backup, data)
    async with running_mixer(cluster, data, **ports) as mixer:
        async with running_rack(tmp_path / "rack"):
            await mixer.wait_audit(30, action="registry_behind", result="ok", subject=RACK)
            await mixer.wait_audit(30, action="confirm", result="ok", subject=RACK)

            async def banned_again() -> bool:
                async with mixer.api(Role.ADMIN) as api:
                    listed = (await api.get("/api/v1/denied")).json()["denied"]
                return any(item["value"] == "stage-right" for item in listed)

            await until(banned_again)
        assert held(tmp_path / "rack").passport.serial > serial
        stolen = state.load(StatePaths(tmp_path / "stolen"), machine_id=MACHINE + 1)
        assert (await refused(stolen)).cause is Cause.AUTHORIZATION_REFUSED


async def test_a_rack_enrolled_again_at_a_mixer_put_back_from_yesterday_gets_in_with_one_token(
    cluster: Cluster, tmp_path: Path
) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    async with running_mixer(cluster, data):
        pass
    shutil.copytree(data, backup)
    async with running_mixer(cluster, data) as mixer:
        await mixer.enroll(tmp_path / "rack", RACK)
        for _ in range(3):
            await mixer.redeem(tmp_path / "rack", await mixer.create_token(RACK))
    shutil.rmtree(data)
    shutil.copytree(backup, data)
    async with running_mixer(cluster, data) as mixer:
        before = held(tmp_path / "rack").passport.serial
        await mixer.redeem(tmp_path / "rack", await mixer.create_token(RACK))
        assert held(tmp_path / "rack").passport.serial > before
        async with BusClient(rack_options(held(tmp_path / "rack"))) as bus:
            await bus.wait_connected(10)


async def _has_deny_list(directory: Path) -> bool:
    return StatePaths(directory).denied.exists()
