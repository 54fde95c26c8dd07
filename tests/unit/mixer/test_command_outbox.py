"""The outbox: numbering, resending, and which ack counts for which command."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.control.command import Ack, AckResult
from stagebox.errors import InputError
from stagebox.passport import PassportStatus
from stagebox_mixer.commands.outbox import AckRefused, Outbox, Outgoing, issue, numbered
from stagebox_mixer.registry.model import RackEntry

CLUSTER, RACK, NS = "flux-prod", "stage-left", 1_000_000_000
NOW = 1_767_312_000 * NS
ENTRY = RackEntry(
    name=RACK, tenant="default", machine_id=1, rack_public=bytes(32), status=PassportStatus.ACTIVE, serial=1,
    secret_hash=bytes(32), certificate="", certificate_not_after=0, enrolled_at=0, command_seq=4,
)  # fmt: skip


def outgoing(*, rack: str = RACK, seq: int = 5, ttl_s: int = 30, verb: str = "status") -> Outgoing:
    entry = replace(ENTRY, name=rack, command_seq=seq)
    command = issue(entry, cluster=CLUSTER, verb=verb, args={}, now_ns=NOW, ttl_ns=ttl_s * NS)
    return Outgoing(command, b"sealed")


def box(settled: int = 8) -> Outbox:
    return Outbox(cluster=CLUSTER, resend_s=1.0, grace_s=2.0, settled=settled)


def ack(of: Outgoing) -> Ack:
    return Ack(CLUSTER, of.command.rack, of.command.seq, of.digest, bytes(16), NOW, AckResult.DONE)


def code(held: Outbox, rack: str, answer: Ack) -> str:
    with pytest.raises(AckRefused) as caught:
        held.examine(rack, answer)
    return caught.value.code


@given(st.integers(0, 2**64 - 2))
def test_each_number_is_one_higher_and_the_entry_remembers_it(before: int) -> None:
    entry = numbered(replace(ENTRY, command_seq=before))
    assert entry == replace(ENTRY, command_seq=before + 1)
    assert issue(entry, cluster=CLUSTER, verb="x", args={}, now_ns=NOW, ttl_ns=NS).seq == before + 1
    assert RackEntry.decode(entry.encode()).command_seq == before + 1


def test_a_removed_rack_is_not_commanded_and_numbers_do_not_wrap() -> None:
    with pytest.raises(InputError, match="was removed"):
        numbered(replace(ENTRY, removed_at=1))
    with pytest.raises(InputError, match="last command sequence"):
        numbered(replace(ENTRY, command_seq=2**64 - 1))


def test_arguments_that_do_not_fit_a_command_are_refused() -> None:
    with pytest.raises(InputError, match="over the limit"):
        issue(ENTRY, cluster=CLUSTER, verb="x", args={"A": bytes(512 << 10)}, now_ns=NOW, ttl_ns=NS)


def test_a_rack_has_one_command_on_its_way_at_a_time() -> None:
    held = box()
    held.put(outgoing(), 0.0)
    held.put(outgoing(rack="stage-right"), 0.0)
    with pytest.raises(ValueError, match="on its way"):
        held.put(outgoing(seq=6), 0.0)


def test_a_command_is_sent_each_second_until_its_end_and_then_waited_for() -> None:
    held, sent = box(), []
    held.put(outgoing(ttl_s=3), 100.0)
    now = 100.0
    while not held.given_up(RACK, now):
        if held.due(RACK, now):
            sent.append(now)
        assert held.wakes_at(RACK) > now
        now = held.wakes_at(RACK)
    assert sent == [100.0, 101.0, 102.0]
    assert now == 105.0


def test_looking_often_sends_no_more_often() -> None:
    held = box()
    held.put(outgoing(), 0.0)
    assert [held.due(RACK, tick / 10) is not None for tick in range(21)].count(True) == 3


def test_an_ack_counts_for_the_command_it_names_and_no_other() -> None:
    held, sent = box(), outgoing()
    held.put(sent, 0.0)
    assert held.examine(RACK, ack(sent)) is sent
    assert code(held, RACK, replace(ack(sent), command=bytes(32))) == "unknown_command"
    assert code(held, RACK, replace(ack(sent), seq=6)) == "unknown_command"
    assert code(held, RACK, replace(ack(sent), cluster="other")) == "other_cluster"
    assert code(held, "stage-right", ack(sent)) == "other_rack"
    assert code(held, "stage-right", replace(ack(sent), rack="stage-right")) == "unknown_command"


def test_an_ack_of_another_command_with_the_same_number_does_not_count() -> None:
    held, sent = box(), outgoing()
    held.put(sent, 0.0)
    assert code(held, RACK, ack(outgoing(verb="passport"))) == "unknown_command"


def test_a_repeated_ack_is_neither_news_nor_strange() -> None:
    held, sent = box(), outgoing()
    held.put(sent, 0.0)
    held.answered(sent)
    assert held.examine(RACK, ack(sent)) is None
    assert len(held) == 0


def test_an_ack_that_comes_late_is_recognised_once() -> None:
    held, sent = box(), outgoing()
    held.put(sent, 0.0)
    held.abandon(sent)
    held.put(outgoing(seq=6), 40.0)
    assert held.examine(RACK, ack(sent)) is sent
    assert not held.on_its_way(sent)
    held.answered(sent)
    assert held.examine(RACK, ack(sent)) is None
    assert len(held) == 1, "a late ack must not end the next command"


def test_what_is_remembered_is_bounded_and_what_is_forgotten_is_refused() -> None:
    held = box(settled=2)
    sent = [outgoing(seq=seq) for seq in range(1, 5)]
    for item in sent:
        held.put(item, 0.0)
        held.answered(item)
    assert code(held, RACK, ack(sent[0])) == "unknown_command"
    assert held.examine(RACK, ack(sent[3])) is None
    for item in sent[:3]:
        held.abandon(item)
    assert code(held, RACK, ack(sent[0])) == "unknown_command"
