"""The command sequence end to end: both ends' pure parts, a bus that loses, repeats and reorders, and crashes.

The mixer may also be put back from an older registry, and a rack may find its mark damaged. Whatever happens, a rack
carries out no command twice, none that is older than one it carried out, none of another rack and none that expired;
and every command has an end at the mixer that is true.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from nacl.signing import SigningKey

from stagebox import envelope
from stagebox.control.command import Ack, AckResult, Command, open_ack, open_command
from stagebox.control.fields import payload_digest
from stagebox.errors import DecodeError, StageboxError
from stagebox.passport import PassportStatus
from stagebox_mixer.commands.outbox import AckRefused, Outbox, Outgoing, issue, numbered
from stagebox_mixer.registry.model import RackEntry
from stagebox_rack.commands.gate import CommandGate, Verdict
from stagebox_rack.commands.mark import CommandMark
from stagebox_rack.limits import LIMITS

CLUSTER = "flux-test"
AUTHORITY, STRANGER = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
RACKS = ("stage-left", "stage-right")
KEYS = {name: SigningKey(bytes([index + 2]) * 32) for index, name in enumerate(RACKS)}
NS = 1_000_000_000
EPOCH = 1_767_312_000 * NS


class Crash(Exception):
    pass


@dataclass
class CrashAt:
    """Ends a process at its n-th step; 0 never."""

    step: int
    passed: int = 0

    def __call__(self) -> None:
        self.passed += 1
        if self.passed == self.step:
            raise Crash


@dataclass
class ModelRack:
    """A rack with a disk that keeps one file, following the order of writes that the gate's docstring demands."""

    name: str
    disk: bytes | None = None
    executed: list[Command] = field(default_factory=list)
    lost_marks: int = 0
    gate: CommandGate = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        mark: CommandMark | None = CommandMark(CLUSTER, self.name)
        if self.disk is not None:
            try:
                mark = CommandMark.decode(self.disk)
            except DecodeError:
                mark = None
        self.gate = CommandGate(cluster=CLUSTER, rack=self.name, mark=mark, limits=LIMITS)

    def hear(self, data: bytes, now_ns: int, crash: CrashAt) -> bytes | None:
        """Take a message; return the ack that goes out, if any."""
        try:
            command, payload = open_command(data, bytes(AUTHORITY.verify_key))
        except StageboxError:
            return None
        digest = payload_digest(payload)
        judgement = self.gate.judge(command, digest, now_ns)
        match judgement.verdict:
            case Verdict.IGNORE:
                return None
            case Verdict.REFUSE:
                return self.ack(command, digest, judgement.result, judgement.reason, now_ns)
            case Verdict.REPEAT:
                assert self.gate.mark is not None
                if self.gate.mark.ack:
                    return self.gate.mark.ack
                return self.finish(command, digest, AckResult.FAILED, "interrupted", now_ns, crash)
        mark = self.gate.accept(command, digest)
        crash()
        self.disk = mark.encode()
        self.gate.keep(mark)
        crash()
        self.carry_out(command, digest, now_ns)
        crash()
        return self.finish(command, digest, AckResult.DONE, "", now_ns, crash)

    def carry_out(self, command: Command, digest: bytes, now_ns: int) -> None:
        assert (command.cluster, command.rack) == (CLUSTER, self.name)
        assert now_ns < command.expires
        assert all(payload_digest(earlier.encode()) != digest for earlier in self.executed), (
            "carried out twice"
        )
        if self.executed:
            assert command.issued > self.executed[-1].issued, "an older command after a newer one"
            assert self.lost_marks or command.seq > self.executed[-1].seq
        self.executed.append(command)

    def finish(
        self, command: Command, digest: bytes, result: AckResult, reason: str, now_ns: int, crash: CrashAt
    ) -> bytes:
        ack = self.ack(command, digest, result, reason, now_ns)
        mark = self.gate.finish(ack)
        crash()
        self.disk = mark.encode()
        self.gate.keep(mark)
        crash()
        return ack

    def ack(self, command: Command, digest: bytes, result: AckResult, reason: str, now_ns: int) -> bytes:
        return Ack(CLUSTER, self.name, command.seq, digest, bytes(16), now_ns, result, reason).seal(
            KEYS[self.name]
        )


def registered(name: str) -> RackEntry:
    return RackEntry(
        name=name, tenant="default", machine_id=1, rack_public=bytes(KEYS[name].verify_key),
        status=PassportStatus.ACTIVE, serial=1, secret_hash=bytes(32), certificate="",
        certificate_not_after=0, enrolled_at=0,
    )  # fmt: skip


def outbox() -> Outbox:
    return Outbox(cluster=CLUSTER, resend_s=1.0, grace_s=2.0, settled=64)


RACK = st.sampled_from(RACKS)
STEP = st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4, 5])
BACK = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 5, 8])


class CommandSequence(RuleBasedStateMachine):
    """One mixer, two racks, one clock, and a bus that keeps every message for ever."""

    @initialize()
    def begin(self) -> None:
        self.now_ns = EPOCH
        self.registry = {name: registered(name) for name in RACKS}
        self.backup = dict(self.registry)
        self.racks = {name: ModelRack(name) for name in RACKS}
        self.outbox = outbox()
        self.given: dict[bytes, Command] = {}
        self.outcomes: dict[bytes, str] = {}
        self.on_its_way: dict[str, Outgoing] = {}
        self.commands: list[bytes] = []
        self.acks: list[tuple[str, bytes]] = []

    @property
    def now(self) -> float:
        return (self.now_ns - EPOCH) / NS

    def pass_time(self, ns: int) -> None:
        self.now_ns += ns
        for rack, outgoing in list(self.on_its_way.items()):
            data = self.outbox.due(rack, self.now)
            if data is not None:
                assert self.now_ns < outgoing.command.expires, "sent after its end"
                self.commands.append(data)
            if self.outbox.given_up(rack, self.now):
                self.outbox.abandon(outgoing)
                self.end(outgoing, "unanswered")

    def end(self, outgoing: Outgoing, outcome: str) -> None:
        assert outgoing.digest not in self.outcomes, "a command ended twice"
        self.outcomes[outgoing.digest] = outcome
        self.on_its_way.pop(outgoing.command.rack, None)

    # The mixer

    @rule(rack=RACK, ttl_s=st.sampled_from([1, 30, 3600]), step=st.sampled_from([0, 0, 0, 1, 2, 3]))
    def give(self, rack: str, ttl_s: int, step: int) -> None:
        if rack in self.on_its_way:
            return
        crash = CrashAt(step)
        try:
            entry = numbered(self.registry[rack])
            self.registry[rack] = entry
            crash()
            self.now_ns += 1  # every command is issued later than the one before
            command = issue(
                entry, cluster=CLUSTER, verb="status", args={}, now_ns=self.now_ns, ttl_ns=ttl_s * NS
            )
            outgoing = Outgoing(command, envelope.seal(envelope.DOMAIN_COMMAND, command.encode(), AUTHORITY))
            assert outgoing.digest not in self.given
            self.given[outgoing.digest] = command  # the audit row
            crash()
            self.outbox.put(outgoing, self.now)
            self.on_its_way[rack] = outgoing
            self.pass_time(0)
            crash()
        except Crash:
            self.crash_mixer()

    @rule()
    def crash_mixer(self) -> None:
        self.outbox = outbox()
        for outgoing in list(self.on_its_way.values()):
            self.end(outgoing, "unanswered")
        for digest in self.given:
            self.outcomes.setdefault(digest, "unanswered")

    @rule()
    def back_up(self) -> None:
        self.backup = dict(self.registry)

    @rule()
    def restore_the_backup(self) -> None:
        self.crash_mixer()
        self.registry = dict(self.backup)

    @rule(ms=st.sampled_from([1, 1000, 4000, 31_000, 3_700_000]))
    def wait(self, ms: int) -> None:
        self.pass_time(ms * 1_000_000)

    # The bus

    @precondition(lambda self: self.commands)
    @rule(back=BACK, step=STEP, answered=st.booleans())
    def hear_command(self, back: int, step: int, answered: bool) -> None:
        message = self.commands[-1 - back % len(self.commands)]
        rack = Command.decode(envelope.split(message)[0]).rack
        model = self.racks[rack]
        try:
            ack = model.hear(message, self.now_ns, CrashAt(step))
        except Crash:
            model.start()
            return
        assert ack is not None
        self.acks.append((rack, ack))
        if answered:
            self.take_ack(rack, ack)

    @precondition(lambda self: self.commands)
    @rule(back=BACK)
    def hear_a_command_of_the_other_rack(self, back: int) -> None:
        message = self.commands[-1 - back % len(self.commands)]
        rack = Command.decode(envelope.split(message)[0]).rack
        for other in set(RACKS) - {rack}:
            assert self.racks[other].hear(message, self.now_ns, CrashAt(0)) is None

    @precondition(lambda self: self.commands)
    @rule(data=st.data(), rack=RACK, bit=st.integers(0), stranger=st.booleans())
    def hear_forgery(self, data: st.DataObject, rack: str, bit: int, stranger: bool) -> None:
        genuine = data.draw(st.sampled_from(self.commands[-12:]))
        payload = envelope.split(genuine)[0]
        if stranger:
            newer = replace(
                Command.decode(payload), seq=1 << 40, issued=self.now_ns, expires=self.now_ns + NS
            )
            forged = envelope.seal(envelope.DOMAIN_COMMAND, newer.encode(), STRANGER)
        else:
            position = bit % (len(genuine) * 8)
            flipped = bytearray(genuine)
            flipped[position // 8] ^= 1 << position % 8
            forged = bytes(flipped)
        before = (self.racks[rack].disk, len(self.racks[rack].executed))
        assert self.racks[rack].hear(forged, self.now_ns, CrashAt(0)) is None
        assert (self.racks[rack].disk, len(self.racks[rack].executed)) == before

    @precondition(lambda self: self.acks)
    @rule(back=BACK)
    def hear_ack(self, back: int) -> None:
        self.take_ack(*self.acks[-1 - back % len(self.acks)])

    @precondition(lambda self: self.acks)
    @rule(back=BACK)
    def hear_an_ack_on_another_racks_subject(self, back: int) -> None:
        rack, message = self.acks[-1 - back % len(self.acks)]
        for other in set(RACKS) - {rack}:
            with pytest.raises(AckRefused, match="came on the subject"):
                self.outbox.examine(other, Ack.decode(envelope.split(message)[0]))

    def take_ack(self, rack: str, message: bytes) -> None:
        try:
            outgoing = self.outbox.examine(rack, Ack.decode(envelope.split(message)[0]))
        except AckRefused:
            return
        if outgoing is None:
            return
        ack = open_ack(message, self.registry[rack].rack_public)
        waited_for = self.outbox.on_its_way(outgoing)
        self.outbox.answered(outgoing)
        if waited_for:
            self.end(outgoing, ack.result.value)

    # The racks

    @rule(rack=RACK)
    def crash_rack(self, rack: str) -> None:
        self.racks[rack].start()

    @rule(rack=RACK, position=st.integers(0))
    def damage_mark(self, rack: str, position: int) -> None:
        model = self.racks[rack]
        if model.disk is not None and model.gate.mark is not None:
            damaged = bytearray(model.disk)
            damaged[position % len(damaged)] ^= 0x10
            model.disk = bytes(damaged)
            model.lost_marks += 1
            model.start()
            assert model.gate.mark is None, "damage was not seen"

    @rule(rack=RACK)
    def sync(self, rack: str) -> None:
        model = self.racks[rack]
        reported = model.gate.mark.seq if model.gate.mark is not None else 0
        entry = self.registry[rack]
        self.registry[rack] = replace(entry, command_seq=max(entry.command_seq, reported))
        if model.gate.mark is None:
            mark = model.gate.restored(self.registry[rack].command_seq, self.now_ns)
            model.disk = mark.encode()
            model.gate.keep(mark)

    @rule(rack=RACK)
    def once_in_touch_a_fresh_command_is_done(self, rack: str) -> None:
        """Nothing that went before locks a rack out: after a sync the next command goes through."""
        self.sync(rack)
        if rack in self.on_its_way:
            self.crash_mixer()
        self.pass_time(1)
        self.give(rack, 30, 0)
        outgoing = self.on_its_way[rack]
        ack = self.racks[rack].hear(outgoing.data, self.now_ns, CrashAt(0))
        assert ack is not None
        assert self.racks[rack].hear(outgoing.data, self.now_ns, CrashAt(0)) == ack
        self.take_ack(rack, ack)
        assert self.outcomes[outgoing.digest] == "done"

    # What holds

    @invariant()
    def a_command_that_is_done_was_carried_out_by_its_rack(self) -> None:
        for digest, outcome in self.outcomes.items():
            if outcome == "done":
                command = self.given[digest]
                assert command in self.racks[command.rack].executed

    @invariant()
    def a_refused_command_was_never_carried_out(self) -> None:
        for digest, outcome in self.outcomes.items():
            if outcome == "refused":
                assert self.given[digest] not in self.racks[self.given[digest].rack].executed

    @invariant()
    def nothing_was_carried_out_that_was_not_given(self) -> None:
        for model in self.racks.values():
            assert all(command in self.given.values() for command in model.executed)

    def teardown(self) -> None:
        if not hasattr(self, "racks"):
            return
        for _ in range(3):
            self.pass_time(4000 * NS)
        assert not self.on_its_way
        assert not len(self.outbox)
        assert set(self.outcomes) >= set(self.given)
        assert set(self.outcomes.values()) <= {"done", "refused", "failed", "unanswered"}


CommandSequence.TestCase.settings = settings(max_examples=400, stateful_step_count=50, deadline=None)


class TestCommandSequence(CommandSequence.TestCase):  # type: ignore[misc, valid-type]
    pass


def test_a_command_delayed_from_before_a_restored_backup_is_not_obeyed_after_a_later_one() -> None:
    """The later command has the lower sequence, because the mixer counts again: the time of issue tells them apart."""
    rack = ModelRack(RACKS[0])

    def command(seq: int, issued: int) -> bytes:
        made = Command(CLUSTER, RACKS[0], seq, issued, issued + 3600 * NS, "status")
        return envelope.seal(envelope.DOMAIN_COMMAND, made.encode(), AUTHORITY)

    delayed = command(7, EPOCH)
    assert rack.hear(command(6, EPOCH + 10), EPOCH + 10, CrashAt(0)) is not None
    ack = rack.hear(delayed, EPOCH + 20, CrashAt(0))
    assert ack is not None
    answer = open_ack(ack, bytes(KEYS[RACKS[0]].verify_key))
    assert (answer.result, answer.reason) == (AckResult.FAILED, "issued_too_early")
    assert [done.seq for done in rack.executed] == [6]
