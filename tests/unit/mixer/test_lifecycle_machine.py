"""A rack's identity over its life, whatever is lost, repeated, reordered or cut off by a crash.

The real services run on a memory that lets other operations in, or a crash, before and after every write. Two
devices want the same name. Replies, commands and requests are delivered late, twice, in any order, or never.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from stagebox import passport as passports
from stagebox.control.request import Answer
from stagebox.errors import BusError, InputError, VerificationError
from stagebox.passport import PassportStatus
from stagebox_keys.mixer_keys import MixerKeys
from stagebox_mixer.enrollment.machine import EnrollmentRefused
from stagebox_mixer.enrollment.service import EnrollmentAnswer
from stagebox_mixer.lifecycle.machine import Terms
from stagebox_mixer.lifecycle.refusals import LifecycleRefused
from stagebox_mixer.registry.model import RackEntry, TokenState, secret_matches, token_hash
from support.cluster import Cluster
from support.lifecycle import ADMIN, DAY_NS, Asked, Device, Held, LifecycleBench
from support.mixer_memory import Running, run_now

RACK = "stage-left"
MACHINES = (0xA, 0xB)
TERMS = Terms(certificate_days=30, grace_days=90, grace_uses=3)
LAST_DAY = 900
EXPECTED = (LifecycleRefused, EnrollmentRefused, InputError, BusError)
ENDS_WITHOUT_TOKEN = {"grace_ended", "grace_used_up", "passport_expired"}
devices = st.sampled_from([0, 0, 1])
fates = st.sampled_from(["under way", "under way", "answered", "delivered", "delivered"])


@dataclass
class Flight:
    """An operation under way. ``epoch`` is the deny list's when it began; ``banned`` if it is for a banned one."""

    kind: str
    work: Running[Any]
    device: int
    subject: Any
    epoch: int
    banned: bool


@dataclass
class Reply:
    """Something on its way to a device."""

    kind: str
    device: int
    subject: Any
    content: Any


async def admit(bench: LifecycleBench, used: Held) -> bool:
    """Decide about a connection as the callout does: current or waiting identity, and proof before admission."""
    name = used.passport.name
    stored = await bench.registry.racks.get(name)
    bans = await bench.denials.read()
    entry = stored.entry if stored is not None else None
    if entry is None or entry.removed_at or bench.clock() >= used.ends_ns:
        return False
    if bans.matches(
        rack=name, machine_id=entry.machine_id, certificates=(used.fingerprint, entry.certificate)
    ):
        return False
    secret, key = used.passport.secret, used.passport.rack_public
    if key == entry.rack_public and secret_matches(entry.secret_hash, secret):
        return True
    waiting = entry.pending
    if waiting is None or key != waiting.rack_public or not secret_matches(waiting.secret_hash, secret):
        return False
    await bench.service.confirm(name, waiting.serial)
    return True


class LifeOfAnIdentity(RuleBasedStateMachine):
    """One rack name, two devices, one mixer that may crash, an operator, and a network that does as it likes."""

    keys: ClassVar[MixerKeys]

    def __init__(self) -> None:
        super().__init__()
        keys = self.keys
        self.bench = LifecycleBench(keys, terms=TERMS)
        self.devices = [Device(keys, RACK, machine) for machine in MACHINES]
        self.first_day = self.bench.clock()
        self.tokens: list[str] = []
        self.users: dict[str, set[bytes]] = {}
        self.flights: list[Flight] = []
        self.replies: list[Reply] = []
        self.issued: dict[int, bytes] = {}
        self.cut_off_below = 0
        self.bench.registry.racks.wrote = self.wrote

    @initialize(auto_approve=st.booleans(), fate=fates)
    def begin(self, auto_approve: bool, fate: str) -> None:
        self.bench.enrollment._auto_approve = auto_approve
        self.make_token()
        self.enroll(0, 0, fate)

    # --- the operator -----------------------------------------------------------------------------------

    @rule(bound=st.sampled_from([0, 0, *MACHINES]))
    def make_token(self, bound: int = 0) -> None:
        try:
            self.tokens.append(self.bench.token(RACK, machine_id=bound, ttl_s=24 * 3600))
        except LifecycleRefused as refusal:
            assert refusal.code == "denied"
            assert self.bench.denials.list.entries

    @rule(
        action=st.sampled_from(
            ["approve", "suspend", "activate", "rotate_secret", "rotate_secret", "remove"]
        ),
        fate=fates,
    )
    def decide(self, action: str, fate: str) -> None:
        step = getattr(self.bench.service, action)
        self.start("operator", step(RACK, actor=ADMIN), 0, action, fate)

    @rule(kind=st.sampled_from(["rack", "machine", "certificate"]), device=devices)
    def deny(self, kind: str, device: int) -> None:
        held = self.devices[device].held
        if kind == "certificate" and not held:
            return
        value = {"rack": RACK, "machine": f"{MACHINES[device]:016x}"}.get(kind) or held[0].fingerprint
        self.bench.denials.deny(kind, value)

    @rule()
    def clear(self) -> None:
        self.bench.denials.clear()

    # --- the devices ------------------------------------------------------------------------------------

    @precondition(lambda self: self.tokens)
    @rule(device=devices, token=st.integers(0, 2), fate=fates)
    def enroll(self, device: int, token: int, fate: str) -> None:
        chosen = self.tokens[-1 - token % len(self.tokens)]
        self.start("enroll", self.bench.enroll(self.devices[device], chosen), device, chosen, fate)

    @rule(device=devices, older=st.booleans(), rekey=st.booleans(), fate=fates)
    def renew(self, device: int, older: bool, rekey: bool, fate: str) -> None:
        held = self.devices[device].held
        if held:
            key = Ed25519PrivateKey.generate() if rekey else None
            asked = self.devices[device].ask(held[-1 if older else 0], self.bench.clock(), key=key)
            self.start("renew", self.renewal(asked), device, asked, fate)

    @precondition(lambda self: any(reply.kind == "renew" for reply in self.replies))
    @rule(which=st.integers(0, 9), fate=fates)
    def ask_again(self, which: int, fate: str) -> None:
        """The same request once more: the device does not know that its answer is on the way."""
        asked = [reply for reply in self.replies if reply.kind == "renew"]
        reply = asked[which % len(asked)]
        self.start("renew", self.renewal(reply.subject), reply.device, reply.subject, fate)

    @rule(device=devices, older=st.booleans(), fate=fates)
    def connect(self, device: int, older: bool, fate: str) -> None:
        held = self.devices[device].held
        if held:
            used = held[-1 if older else 0]
            self.start("connect", admit(self.bench, used), device, used, fate)

    # --- time, the network, crashes ---------------------------------------------------------------------

    @rule(days=st.sampled_from([0.001, 0.001, 0.2, 0.2, 12, 25, 31, 60, 125]))
    def time_passes(self, days: float) -> None:
        if (self.bench.clock() - self.first_day) / DAY_NS + days < LAST_DAY:
            self.bench.clock.after(days=days)

    @precondition(lambda self: self.flights)
    @rule(which=st.integers(0, 9), steps=st.integers(1, 6), all_of_it=st.booleans())
    def go_on(self, which: int, steps: int, all_of_it: bool) -> None:
        flight = self.flights[which % len(self.flights)]
        for _ in range(100 if all_of_it else steps):
            if flight.work.step():
                break
        if flight.work.done:
            self.flights.remove(flight)
            self.settle(flight)

    @precondition(lambda self: self.flights)
    @rule()
    def the_mixer_crashes(self) -> None:
        for flight in self.flights:
            flight.work.crash()
        self.flights.clear()

    @precondition(lambda self: self.replies)
    @rule(which=st.integers(0, 9), again=st.booleans())
    def deliver(self, which: int, again: bool) -> None:
        reply = self.replies[which % len(self.replies)]
        if not again:
            self.replies.remove(reply)
        device = self.devices[reply.device]
        match reply.kind:
            case "enroll":
                device.take_enrollment(reply.content)
            case "renew":
                device.take_renewal(reply.subject, reply.content)
            case "command":
                device.take_passport(reply.content)
            case "connect":
                device.promote(reply.subject)

    @precondition(lambda self: self.replies)
    @rule(which=st.integers(0, 9))
    def lose(self, which: int) -> None:
        self.replies.pop(which % len(self.replies))

    # --- what must hold ---------------------------------------------------------------------------------

    @rule(device=devices)
    def the_device_gets_back(self, device: int) -> None:
        """Whatever is under way and on its way is gone; the device has only what it holds, and later a token."""
        self.the_mixer_crashes()
        self.replies.clear()
        owner, entry = self.devices[device], self.bench.registry.racks.peek(RACK)
        if not owner.held or self.banned(device, owner.held):
            return
        rightful = entry is not None and not entry.removed_at and owner.serial >= self.cut_off_below
        code = self.get_back(device)
        if code:
            assert not rightful or code in ENDS_WITHOUT_TOKEN, f"{code}: {entry} {owner.serials}"
            run = run_now(self.bench.enroll(owner, self.bench.token(RACK)))
            self.note_passport(run.passport)
            assert owner.take_enrollment(run)
            code = self.get_back(device)
            assert not code, code

    @invariant()
    def a_token_is_used_by_one_key(self) -> None:
        assert all(len(users) <= 1 for users in self.users.values())

    @invariant()
    def a_device_never_takes_an_older_passport(self) -> None:
        for device in self.devices:
            assert device.serials == sorted(set(device.serials))

    @invariant()
    def what_is_registered_fits_together(self) -> None:
        entry = self.bench.registry.racks.peek(RACK)
        if entry is None:
            return
        assert entry.serial <= entry.highest_serial
        if entry.pending is not None:
            assert entry.serial < entry.pending.serial == entry.highest_serial
        done = [
            row.detail["serial"]
            for action in ("enroll", "renew", "renew_grace")
            for row in self.bench.audit.of(action)
        ]
        assert entry.serial == 0 or done, "an issue without a row"

    def teardown(self) -> None:
        for device in (0, 1):
            self.the_device_gets_back(device)

    # --- the parts --------------------------------------------------------------------------------------

    def start(self, kind: str, work: Coroutine[Any, Any, Any], device: int, subject: Any, fate: str) -> None:
        held = [subject] if kind == "connect" else [subject.shown] if kind == "renew" else []
        banned = kind != "operator" and self.banned(device, held)
        flight = Flight(kind, Running(work), device, subject, self.bench.denials.list.epoch, banned)
        if fate == "under way" and len(self.flights) < 5:
            self.flights.append(flight)
            return
        flight.work.finish()
        before = len(self.replies)
        self.settle(flight)
        while fate == "delivered" and len(self.replies) > before:
            self.deliver(len(self.replies) - 1, again=False)

    def banned(self, device: int, held: list[Held]) -> bool:
        bans = self.bench.denials.list
        certificates = [identity.fingerprint for identity in held]
        return bans.matches(rack=RACK, machine_id=MACHINES[device], certificates=certificates) is not None

    def settle(self, flight: Flight) -> None:
        error = flight.work.error
        if error is not None:
            assert isinstance(error, (*EXPECTED, VerificationError)), repr(error)
            return
        result = flight.work.result
        granted = result is True or isinstance(result, EnrollmentAnswer)
        granted = granted or (isinstance(result, Answer) and not result.error)
        if flight.banned and self.bench.denials.list.epoch == flight.epoch:
            assert not granted, f"{flight.kind} was granted to a denied device"
        if isinstance(result, RackEntry):
            self.settle_operator(flight, result)
        elif granted or isinstance(result, Answer):
            self.replies.append(Reply(flight.kind, flight.device, flight.subject, result))
        if isinstance(result, EnrollmentAnswer):
            self.note_passport(result.passport)
            key = passports.verify(result.passport, self.bench.keys.authority.public).rack_public
            self.users.setdefault(flight.subject, set()).add(key)
            assert self.token_state(flight.subject) is TokenState.USED
        if isinstance(result, Answer) and not result.error:
            self.note_passport(result.body["Passport"])

    def settle_operator(self, flight: Flight, entry: RackEntry) -> None:
        flux = self.bench.service.pending_passport(entry)
        if flux is not None:
            status = passports.verify(flux, self.bench.keys.authority.public).status
            assert status is entry.status
            assert flight.subject != "suspend" or status is PassportStatus.SUSPENDED
            self.note_passport(flux)
            for index, device in enumerate(self.devices):
                if device.held:
                    self.replies.append(Reply("command", index, entry.serial, flux))

    def note_passport(self, flux: bytes) -> None:
        """Two passports of one serial would mean that one of them is forgotten."""
        passport = passports.verify(flux, self.bench.keys.authority.public)
        assert self.issued.setdefault(passport.serial, flux) == flux

    def token_state(self, token: str) -> TokenState:
        entry = self.bench.registry.tokens.peek(token_hash(token))
        assert entry is not None
        return entry.state

    def wrote(self, before: RackEntry | None, after: RackEntry) -> None:
        """Note when a device is cut off on purpose: another key, or one after a removal, was enrolled."""
        assert before is None or after.highest_serial >= before.highest_serial
        assert before is None or after.serial >= before.serial
        new = before is None or before.removed_at or before.rack_public != after.rack_public
        enrolled = before is None or after.enrolled_at != before.enrolled_at
        if new and enrolled:
            self.cut_off_below = after.serial

    async def renewal(self, asked: Asked) -> Answer:
        return asked.open(await self.bench.service.renew(asked.data, via="https", host="192.0.2.1"))

    def get_back(self, device: int) -> str:
        """Do what a rack does to get back; returns the code of the last refusal, empty if it is connected."""
        owner, code = self.devices[device], "nothing_held"
        for _ in range(8):
            for used in owner.held:
                try:
                    if run_now(admit(self.bench, used)):
                        owner.promote(used)
                        return ""
                except LifecycleRefused:
                    continue
            for shown in owner.held:
                asked = owner.ask(shown, self.bench.clock())
                answer = run_now(self.renewal(asked))
                if answer.error == "too_soon":
                    self.bench.clock.after(seconds=61)
                    break
                code = answer.error if shown is owner.held[0] or not answer.error else code
                if not answer.error:
                    self.note_passport(answer.body["Passport"])
                    owner.take_renewal(asked, answer)
                    break
            else:
                return code
        return code or "not_admitted"


def test_an_identity_survives_whatever_happens_and_no_other_gets_in(cluster: Cluster) -> None:
    class HereAndNow(LifeOfAnIdentity):
        keys = cluster.keys

    run_state_machine_as_test(
        HereAndNow,
        settings=settings(
            max_examples=300,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
