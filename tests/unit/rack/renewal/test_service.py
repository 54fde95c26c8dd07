"""A rack's identity renewed while it runs: taken, shown, proved and promoted, and unmoved by what is forged."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from nacl.signing import SigningKey

from stagebox.bus import BusClient, BusMessage, Cause, Failure
from stagebox.certificates import to_pem
from stagebox.errors import BusError, PassportError, StorageError, TlsError
from stagebox.passport import PassportStatus
from stagebox_rack.identity.lock import InUseError, locked
from stagebox_rack.identity.staging import DISK, Disk
from stagebox_rack.identity.store import IdentityStore
from stagebox_rack.identity.takeover import Takeover
from stagebox_rack.renewal import https
from stagebox_rack.renewal.exchange import accept_passport
from stagebox_rack.renewal.once import renew_once
from stagebox_rack.renewal.service import Edges, RenewalPolicy, RenewalService
from stagebox_rack.state import RackIdentity, StatePaths
from support.issuer import MACHINE, Issuer
from support.pki import DAY, NOW

OTHER = SigningKey(bytes([9]) * 32)
REFUSED = Failure(Cause.AUTHORIZATION_REFUSED, "")


class Bus:
    """The snake: admits by passport secret, and hands requests to ``reply``."""

    def __init__(self, reply: Callable[[bytes], bytes]) -> None:
        self.reply = reply
        self.connected = True
        self.admitted: Callable[[str], bool] = lambda _secret: True
        self.takeover: Takeover
        self.asked: list[bytes] = []

    async def request(self, subject: str, payload: bytes, *, timeout: float) -> BusMessage:
        assert subject == "rack.stage-left.req.renew"
        self.asked.append(payload)
        return BusMessage("", self.reply(payload), "", None)

    async def swap_certificate(self) -> None:
        if not self.connect():
            raise TlsError("not admitted")

    def retry_now(self) -> None:
        self.connect()

    def connect(self) -> bool:
        credentials = self.takeover.credentials
        credentials.context()
        if not self.admitted(credentials.secret()):
            self.takeover.on_failed(REFUSED)
            return False
        self.connected = True
        self.takeover.on_connected()
        return True


class Desk:
    """The application's side, noting everything."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.alerts: list[tuple[str, dict[str, Any]]] = []
        self.statuses: list[PassportStatus] = []
        self.signing: list[bytes] = []
        self.durable: Callable[[], int] = lambda: 0
        self.serial_when_obeyed: list[int] = []

    async def obey(self, status: PassportStatus) -> None:
        self.statuses.append(status)
        self.serial_when_obeyed.append(self.durable())

    async def proved(self, previous: RackIdentity, identity: RackIdentity) -> None:
        self.signing.append(identity.public)

    def event(self, name: str, detail: dict[str, Any]) -> None:
        self.events.append((name, detail))

    def alert(self, name: str, detail: dict[str, Any]) -> None:
        self.alerts.append((name, detail))

    def names(self) -> list[str]:
        return [name for name, _ in self.events]


@dataclasses.dataclass
class Bench:
    """One rack with its services, and the cluster that answers."""

    issuer: Issuer
    store: IdentityStore
    takeover: Takeover
    bus: Bus
    desk: Desk
    service: RenewalService
    wall: list[float]

    @property
    def on_disk(self) -> dict[str, bytes]:
        root = self.store.paths.directory
        return {
            str(p.relative_to(root)): p.read_bytes()
            for p in root.rglob("*")
            if p.is_file() and p.suffix != ".lock"
        }

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - any condition
                await asyncio.sleep(0.005)

    async def as_time_goes_by(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.wall[0] += 60
                self.takeover.changed.set()
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def bench(
    directory: Path,
    *,
    policy: RenewalPolicy | None = None,
    ends_in: float = 5 * DAY.total_seconds(),
    disk: Disk = DISK,
    **enroll: Any,
) -> AsyncIterator[Bench]:
    """Run the renewals of a rack whose certificate ends ``ends_in`` seconds from now."""
    issuer, desk = Issuer(), Desk()
    ends = NOW + ends_in * (DAY / DAY.total_seconds())
    store = IdentityStore(issuer.enroll(directory, not_after=ends, **enroll).paths, MACHINE, disk)
    wall = [0.0]
    bus = Bus(issuer.answer)
    takeover = Takeover(store, store.open(), desk, wall=lambda: time.time() + wall[0])
    bus.takeover = takeover
    takeover.attach(bus)
    takeover.begin()
    desk.durable = lambda: store.open().newest.passport.serial
    service = RenewalService(
        takeover, cast(BusClient, bus), store.paths, policy or RenewalPolicy(),
        event=desk.event, alert=desk.alert,
        edges=Edges(lambda: time.time() + wall[0], random.Random(1)),
    )  # fmt: skip
    task = asyncio.create_task(service.run())
    try:
        yield Bench(issuer, store, takeover, bus, desk, service, wall)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await takeover.close()


async def test_a_due_certificate_is_renewed_over_the_snake_shown_and_promoted(tmp_path: Path) -> None:
    async with bench(tmp_path / "state") as rack:
        await rack.until(lambda: "identity_renewed" in rack.desk.names())
        held = rack.store.open()
        assert (held.main.passport.serial, held.staged) == (2, None)
        assert held.main.chain[0].not_valid_after_utc == NOW + 30 * DAY
        assert rack.takeover.held.main.passport.serial == 2
        assert len(rack.bus.asked) == 1
        assert rack.desk.alerts == [] or rack.desk.alerts[0][0] == "certificate_expiring"


async def test_the_old_identity_stays_until_the_mixer_admits_the_new_one(tmp_path: Path) -> None:
    async with bench(tmp_path / "state") as rack:
        rack.bus.admitted = lambda secret: secret == "secret-1"
        await rack.until(lambda: rack.store.open().staged is not None)
        await asyncio.sleep(0.05)
        held = rack.store.open()
        assert held.main.passport.serial == 1
        assert "identity_renewed" not in rack.desk.names()
        rack.bus.admitted = lambda _secret: True
        rack.takeover.show_again()
        await rack.until(lambda: "identity_renewed" in rack.desk.names())
        assert rack.store.open().main.passport.serial == 2


async def test_the_same_request_is_repeated_until_it_is_answered(tmp_path: Path) -> None:
    async with bench(tmp_path / "state") as rack:
        answers = iter([BusError("lost"), BusError("lost")])

        def reply(data: bytes) -> bytes:
            for error in answers:
                raise error
            return rack.issuer.answer(data)

        rack.bus.reply = reply
        for _ in range(2):
            count = len(rack.bus.asked)
            await rack.until(lambda count=count: len(rack.bus.asked) > count)  # type: ignore[misc]
            rack.wall[0] += 120
            rack.takeover.changed.set()
        await rack.until(lambda: "identity_renewed" in rack.desk.names())
        assert len(rack.bus.asked) == 3
        assert len(set(rack.bus.asked)) == 1
        assert rack.desk.names().count("renewal_failed") == 1


@pytest.mark.parametrize("forged", [True, False])
async def test_a_refusal_forged_or_genuine_changes_nothing_on_the_rack(tmp_path: Path, forged: bool) -> None:
    async with bench(tmp_path / "state") as rack:
        before = rack.on_disk
        key = OTHER if forged else None
        rack.bus.reply = lambda data: rack.issuer.reply(data, error="denied", message="denied", key=key)
        await rack.until(lambda: "renewal_failed" in rack.desk.names())
        assert rack.on_disk == before
        assert (rack.desk.statuses, rack.desk.signing) == ([], [])
        assert "denied" in rack.service.problem or forged
        rack.bus.reply = rack.issuer.answer
        rack.wall[0] += 120
        rack.takeover.changed.set()
        await rack.until(lambda: "identity_renewed" in rack.desk.names())


async def test_a_certificate_that_nears_its_end_unrenewed_is_an_alert_with_the_reason(tmp_path: Path) -> None:
    async with bench(tmp_path / "state") as rack:
        rack.bus.reply = lambda data: rack.issuer.reply(data, error="too_soon", message="wait")
        await rack.until(lambda: bool(rack.desk.alerts))
        name, detail = rack.desk.alerts[0]
        assert (name, detail["not_after"]) == ("certificate_expiring", int((NOW + 5 * DAY).timestamp()))
        assert "too_soon" in detail["reason"]
        assert rack.service.facts()["renewal_overdue"] is True


async def test_an_ended_certificate_is_renewed_over_https_and_the_rack_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[str] = []
    async with bench(tmp_path / "state", ends_in=-60 * DAY.total_seconds()) as rack:
        rack.bus.connected = False

        def post(mixer: Any, _roots: bytes, data: bytes) -> bytes:
            posted.append(mixer.url)
            return rack.issuer.answer(data)

        monkeypatch.setattr(https, "post", post)
        rack.wall[0] += 10
        rack.takeover.changed.set()
        await rack.until(lambda: "identity_renewed" in rack.desk.names())
        assert posted == ["https://mixer:8443"]
        assert rack.bus.connected


async def test_who_is_refused_for_a_minute_asks_over_https_though_nothing_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path / "state", ends_in=29 * DAY.total_seconds()) as rack:
        rack.bus.connected = False
        monkeypatch.setattr(https, "post", lambda _mixer, _roots, data: rack.issuer.answer(data))
        rack.takeover.on_failed(REFUSED)
        await asyncio.sleep(0.05)
        assert rack.issuer.answers == {}
        rack.wall[0] += 70
        rack.takeover.changed.set()
        await asyncio.sleep(0)
        rack.wall[0] += 10
        await rack.until(lambda: rack.takeover.changed.set() or "identity_renewed" in rack.desk.names())  # type: ignore[func-returns-value]


async def test_a_staged_identity_refused_while_the_old_one_is_connected_is_no_reason_to_ask_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[bytes] = []
    monkeypatch.setattr(https, "post", lambda _mixer, _roots, data: posted.append(data) or b"")  # type: ignore[func-returns-value]
    async with bench(tmp_path / "state") as rack:
        shown: list[str] = []
        rack.bus.admitted = lambda secret: bool(shown.append(secret))  # type: ignore[func-returns-value]
        await rack.until(lambda: shown == ["secret-2"])
        rack.bus.connected = False  # hours later the network goes: nobody refused us
        for _ in range(3):
            rack.wall[0] += 100
            rack.takeover.changed.set()
            await asyncio.sleep(0.02)
    assert posted == []


async def test_a_full_disk_is_tried_again_with_the_same_request_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    class Full(Disk):
        full = True

        def write(self, path: Path, data: bytes, mode: int) -> None:
            if self.full and path.name == "rack.pem":
                raise StorageError("no space left")
            super().write(path, data, mode)

    disk = Full()
    async with bench(tmp_path / "state", disk=disk) as rack:
        await rack.as_time_goes_by(lambda: len(rack.bus.asked) >= 3)
        await rack.until(lambda: not list(rack.store.paths.next.iterdir()))
        disk.full = False
        await rack.as_time_goes_by(lambda: "identity_renewed" in rack.desk.names())
        assert len(set(rack.bus.asked)) == 1


async def test_an_error_nobody_foresaw_is_a_failed_renewal_and_not_the_end_of_the_rack(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path / "state") as rack:

        def odd(_data: bytes) -> bytes:
            raise ValueError("odd")

        rack.bus.reply = odd
        await rack.until(lambda: rack.service.problem == "the renewal failed: ValueError")
        rack.bus.reply = rack.issuer.answer
        rack.wall[0] += 120
        rack.takeover.changed.set()
        await rack.until(lambda: "identity_renewed" in rack.desk.names())


async def test_another_user_does_not_renew_and_leaves_no_file_that_the_rack_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Issuer().enroll(tmp_path / "state")
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(StorageError, match="belongs to another user") as refused:
        await asyncio.to_thread(renew_once, store, RenewalPolicy(), force=True)
    assert "sudo -u" in str(refused.value.remedy)
    assert not store.paths.renewal_lock.exists()


async def test_who_is_not_enrolled_is_told_so_and_nothing_is_made(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path / "none")
    with pytest.raises(PassportError, match="not enrolled"):
        await asyncio.to_thread(renew_once, IdentityStore(paths, MACHINE), RenewalPolicy())
    paths.directory.mkdir()
    with pytest.raises(PassportError, match="not enrolled"):
        await asyncio.to_thread(renew_once, IdentityStore(paths, MACHINE), RenewalPolicy())
    assert not list(paths.directory.iterdir())


async def test_a_rekey_signs_with_the_new_key_only_once_it_is_proved(tmp_path: Path) -> None:
    async with bench(tmp_path / "state", policy=RenewalPolicy(rekey=True)) as rack:
        first = rack.takeover.held.main.public
        rack.bus.admitted = lambda secret: secret == "secret-1"
        await rack.until(lambda: rack.takeover.held.staged is not None)
        assert rack.desk.signing == []
        rack.bus.admitted = lambda _secret: True
        rack.takeover.show_again()
        await rack.until(lambda: bool(rack.desk.signing))
        assert rack.desk.signing[0] != first
        assert rack.store.open().main.public == rack.desk.signing[0]


async def test_a_suspension_is_obeyed_before_anything_is_written_and_durable_before_it_is_answered(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path / "state", ends_in=29 * DAY.total_seconds()) as rack:
        public = rack.takeover.held.main.public
        flux = rack.issuer.flux(rack.issuer.passport(public, status=PassportStatus.SUSPENDED))
        await rack.takeover.take(lambda held: accept_passport(flux, held=held, machine_id=MACHINE))
        assert rack.desk.statuses == [PassportStatus.SUSPENDED]
        assert rack.desk.serial_when_obeyed == [1]
        assert rack.store.open().newest.passport.status is PassportStatus.SUSPENDED
        flux = rack.issuer.flux(rack.issuer.passport(public))
        await rack.takeover.take(lambda held: accept_passport(flux, held=held, machine_id=MACHINE))
        assert rack.desk.statuses[-1] is PassportStatus.ACTIVE
        assert rack.desk.serial_when_obeyed[-1] == 3


async def test_what_another_process_staged_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path / "state", ends_in=29 * DAY.total_seconds()) as rack:
        monkeypatch.setattr(https, "post", lambda _mixer, _roots, data: rack.issuer.answer(data))
        other = IdentityStore(rack.store.paths, MACHINE)
        assert not (await asyncio.to_thread(renew_once, other, RenewalPolicy())).renewed
        outcome = await asyncio.to_thread(renew_once, other, RenewalPolicy(), force=True, rekey=True)
        assert (outcome.renewed, outcome.serial) == (True, 2)
        await rack.takeover.look()
        await rack.until(lambda: "identity_renewed" in rack.desk.names())
        assert rack.store.open().main.passport.serial == 2


async def test_no_second_key_is_made_while_one_waits_to_be_proved(tmp_path: Path) -> None:
    issuer = Issuer()
    store = issuer.enroll(tmp_path / "state")
    held = store.open()
    store.stage(held, issuer.issue(OTHER))
    with pytest.raises(BusError, match="waits to be proved"):
        await asyncio.to_thread(renew_once, store, RenewalPolicy(), force=True, rekey=True)


@pytest.mark.parametrize("answer", [b'{"message": "no such route"}', b"<html>", b"\xa2"])
async def test_a_mixer_that_knows_no_renewal_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    store = Issuer().enroll(tmp_path / "state")
    monkeypatch.setattr(https, "post", lambda *_: answer)
    with pytest.raises(BusError, match="https://mixer:8443 does not answer like a mixer that renews") as told:
        await asyncio.to_thread(renew_once, store, RenewalPolicy(), force=True)
    assert "upgrade the mixer" in str(told.value.remedy)


async def test_two_never_renew_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path / "state", ends_in=29 * DAY.total_seconds()) as rack:
        with locked(rack.store.paths.renewal_lock), pytest.raises(InUseError, match="another process"):
            await asyncio.to_thread(
                renew_once, IdentityStore(rack.store.paths, MACHINE), RenewalPolicy(), force=True
            )


async def test_a_staged_file_that_does_not_verify_moves_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path / "state", ends_in=29 * DAY.total_seconds()) as rack:
        other = IdentityStore(rack.store.paths, MACHINE)
        forger = Issuer(authority=OTHER, serial=8)
        staged = rack.store.paths.next / f"{9:020d}-{1:06d}"
        staged.mkdir(parents=True)
        key = SigningKey.generate()
        made = forger.issue(key)
        for name, content in (
            ("identity.key", made.material().key_pem),
            ("rack.pem", made.material().certificate_pem),
            ("state.flux", made.flux),
        ):
            (staged / name).write_bytes(content)
            (staged / name).chmod(0o600)
        await rack.takeover.look()
        assert rack.takeover.held.staged is None
        assert other.open().newest.passport.serial == 1
        assert (staged / "state.flux").exists()


async def test_the_operators_command_renews_the_certificate_under_the_passport_held(tmp_path: Path) -> None:
    later = tmp_path / "later.pem"
    policy = RenewalPolicy(command=("/bin/sh", "-c", f'cp {later} "$STAGEBOX_RENEW_OUT"'))
    async with bench(tmp_path / "state", policy=policy) as rack:
        await rack.until(lambda: "renewal_failed" in rack.desk.names())  # there is nothing to copy yet
        identity = rack.takeover.held.main
        later.write_bytes(to_pem(rack.issuer.chain(identity.public, not_after=NOW + 60 * DAY)))
        rack.wall[0] += 120
        rack.takeover.changed.set()
        await rack.until(lambda: "identity_renewed" in rack.desk.names())
        main = rack.store.open().main
        assert (main.passport, main.chain[0].not_valid_after_utc) == (identity.passport, NOW + 60 * DAY)
        assert rack.bus.asked == []
        assert rack.service.facts()["managed_by"] == "operator"
