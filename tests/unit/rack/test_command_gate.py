"""Which commands a rack obeys, and the mark that outlives a restart."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.control.command import AckResult, Command
from stagebox.control.fields import payload_digest
from stagebox.errors import DecodeError, StorageError
from stagebox_rack.commands.gate import CommandGate, Judgement, Verdict
from stagebox_rack.commands.mark import CommandMark, load_mark, save_mark
from stagebox_rack.commands.refusals import RefusalFold
from stagebox_rack.limits import LIMITS

CLUSTER, RACK, NS = "flux-prod", "stage-left", 1_000_000_000
NOW = 1_767_312_000 * NS
COMMAND = Command(CLUSTER, RACK, 7, NOW, NOW + 30 * NS, "status")
MARK = CommandMark(CLUSTER, RACK, 6, bytes(32), b"ack", NOW - 60 * NS)


def gate(mark: CommandMark | None = MARK) -> CommandGate:
    return CommandGate(cluster=CLUSTER, rack=RACK, mark=mark, limits=LIMITS)


def digest(command: Command) -> bytes:
    return payload_digest(command.encode())


def judge(command: Command, *, now_ns: int = NOW, mark: CommandMark | None = MARK) -> Judgement:
    return gate(mark).judge(command, digest(command), now_ns)


def test_the_next_command_is_obeyed_and_so_is_one_after_a_gap() -> None:
    assert judge(COMMAND).verdict is Verdict.OBEY
    assert judge(replace(COMMAND, seq=1000)).verdict is Verdict.OBEY


@pytest.mark.parametrize(
    ("command", "now_ns", "reason", "result"),
    [
        (replace(COMMAND, seq=6), NOW, "old_sequence", AckResult.FAILED),
        (replace(COMMAND, seq=0), NOW, "old_sequence", AckResult.FAILED),
        (replace(COMMAND, issued=NOW - 60 * NS), NOW, "issued_too_early", AckResult.FAILED),
        (COMMAND, NOW + 30 * NS, "expired", AckResult.REFUSED),
        (replace(COMMAND, expires=NOW - 1), NOW, "expired", AckResult.REFUSED),
        (COMMAND, NOW - 301 * NS, "not_yet", AckResult.REFUSED),
        (replace(COMMAND, expires=NOW + 86_401 * NS), NOW, "lives_too_long", AckResult.REFUSED),
    ],
)
def test_what_is_not_the_next_command_now_is_refused(
    command: Command, now_ns: int, reason: str, result: AckResult
) -> None:
    found = judge(command, now_ns=now_ns)
    assert (found.verdict, found.reason, found.result) == (Verdict.REFUSE, reason, result)


def test_a_command_is_good_to_its_last_nanosecond_and_within_the_skew_of_clocks() -> None:
    assert judge(COMMAND, now_ns=COMMAND.expires - 1).verdict is Verdict.OBEY
    assert judge(COMMAND, now_ns=NOW - 300 * NS).verdict is Verdict.OBEY
    assert judge(replace(COMMAND, expires=NOW + 86_400 * NS)).verdict is Verdict.OBEY


def test_what_is_not_this_racks_is_not_even_answered() -> None:
    assert judge(replace(COMMAND, rack="stage-right")) == Judgement(Verdict.IGNORE, "other_rack")
    assert judge(replace(COMMAND, cluster="other")) == Judgement(Verdict.IGNORE, "other_cluster")
    assert judge(replace(COMMAND, rack="stage-right"), mark=None).verdict is Verdict.IGNORE


def test_the_last_command_again_is_answered_and_not_obeyed_even_when_it_has_expired() -> None:
    opened = gate()
    opened.keep(opened.accept(COMMAND, digest(COMMAND)))
    for now_ns in (NOW, COMMAND.expires, NOW - 3600 * NS):
        assert opened.judge(COMMAND, digest(COMMAND), now_ns).verdict is Verdict.REPEAT
    other = replace(COMMAND, verb="passport")
    assert opened.judge(other, digest(other), NOW).reason == "old_sequence"


def test_accepting_a_command_forgets_the_ack_of_the_one_before() -> None:
    accepted = gate().accept(COMMAND, digest(COMMAND))
    assert accepted == CommandMark(CLUSTER, RACK, 7, digest(COMMAND), b"", COMMAND.issued)
    opened = gate(accepted)
    assert opened.finish(b"new ack") == replace(accepted, ack=b"new ack")


def test_without_a_mark_nothing_is_obeyed() -> None:
    found = judge(COMMAND, mark=None)
    assert (found.verdict, found.reason, found.result) == (Verdict.REFUSE, "mark_lost", AckResult.FAILED)


def test_a_restored_mark_lets_only_newer_commands_pass() -> None:
    opened = gate(None)
    opened.keep(opened.restored(6, NOW))
    assert opened.judge(COMMAND, digest(COMMAND), NOW).reason == "issued_too_early"
    later = replace(COMMAND, issued=NOW + 1)
    assert opened.judge(later, digest(later), NOW).verdict is Verdict.OBEY
    older = replace(COMMAND, seq=6, issued=NOW + 1)
    assert opened.judge(older, digest(older), NOW).reason == "old_sequence"


# The mark on disk

marks = st.builds(
    CommandMark,
    cluster=st.just(CLUSTER),
    rack=st.just(RACK),
    seq=st.integers(0, 2**64 - 1),
    digest=st.binary(min_size=32, max_size=32),
    ack=st.binary(max_size=400),
    issued_after=st.integers(0, 2**64 - 1),
)


@given(marks)
def test_a_mark_reads_back_as_it_was_written(mark: CommandMark) -> None:
    assert CommandMark.decode(mark.encode()) == mark


@given(marks, st.data())
def test_a_flipped_bit_anywhere_in_a_mark_is_found(mark: CommandMark, data: st.DataObject) -> None:
    damaged = bytearray(mark.encode())
    bit = data.draw(st.integers(0, len(damaged) * 8 - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DecodeError):
        CommandMark.decode(bytes(damaged))


@given(st.binary(max_size=300))
def test_garbage_is_no_mark(data: bytes) -> None:
    with pytest.raises(DecodeError):
        CommandMark.decode(data)


@given(marks, st.data())
def test_a_mark_cut_short_is_found(mark: CommandMark, data: st.DataObject) -> None:
    whole = mark.encode()
    with pytest.raises(DecodeError):
        CommandMark.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(marks)
def test_fields_of_a_later_release_are_kept_through_the_next_command(mark: CommandMark) -> None:
    newer = replace(mark, extra={"Later": [1, "x"]})
    read = CommandMark.decode(newer.encode())
    assert read == newer
    opened = gate(read)
    opened.keep(opened.accept(COMMAND, digest(COMMAND)))
    assert CommandMark.decode(opened.finish(b"ack").encode()).extra == {"Later": [1, "x"]}


def test_a_rack_never_commanded_starts_from_nothing(tmp_path: Path) -> None:
    assert load_mark(tmp_path / "commands.cbor", cluster=CLUSTER, rack=RACK) == CommandMark(CLUSTER, RACK)


def test_a_mark_survives_on_disk_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "commands.cbor"
    save_mark(path, MARK)
    save_mark(path, replace(MARK, seq=8))
    assert load_mark(path, cluster=CLUSTER, rack=RACK) == replace(MARK, seq=8)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be used"),
        (MARK.encode()[:-1], "cannot be used"),
        (replace(MARK, rack="stage-right").encode(), "of rack 'stage-right'"),
        (replace(MARK, cluster="other").encode(), "cluster 'other'"),
    ],
    ids=["empty", "torn", "another rack's", "another cluster's"],
)
def test_a_mark_that_is_damaged_or_not_ours_is_not_taken_for_a_new_one(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "commands.cbor"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=reason):
        load_mark(path, cluster=CLUSTER, rack=RACK)
    assert path.read_bytes() == content


def test_a_mark_that_cannot_be_read_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "commands.cbor").mkdir()
    with pytest.raises(StorageError, match=os.strerror(errno.EISDIR)):
        load_mark(tmp_path / "commands.cbor", cluster=CLUSTER, rack=RACK)


# Noise


@given(st.lists(st.sampled_from(["signature", "malformed", "expired"]), max_size=50))
def test_every_refusal_is_told_or_counted_once(reasons: list[str]) -> None:
    fold = RefusalFold()
    told = [reason for reason in reasons if fold.admit(reason)]
    assert sorted(told) == sorted(set(reasons))
    for reason in set(reasons):
        assert fold.close(reason) == reasons.count(reason) - 1
        assert fold.admit(reason)
