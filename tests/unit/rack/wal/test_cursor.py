"""The shipping cursor against a model server that loses answers, rewinds and restarts."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stagebox_rack.wal.cursor import Cursor, Fork, Gap, Link, Local, Phase, Stored, compare

JOURNAL = b"J" * 16


def digest(last: int) -> bytes:
    return last.to_bytes(32, "big")


def local(committed: int, at: int, *, oldest: int = 1, acknowledged: int = 0) -> Local:
    """A journal of one-record batches ``oldest`` … ``committed``, asked about record ``at``."""
    readable = oldest <= at <= committed
    nxt = max(at + 1, oldest)
    following = Link(nxt, digest(nxt - 1)) if nxt <= committed else None
    return Local(JOURNAL, acknowledged, committed, digest(at) if readable else None, not readable, following)


def stored(last: int, value: bytes | None = None) -> Stored:
    return Stored(last * 3, JOURNAL, last, last, value if value is not None else digest(last))


def test_an_empty_server_gets_everything_from_the_oldest_on() -> None:
    assert compare(None, local(9, 0)) is None
    assert compare(None, local(9, 0, oldest=4)) == Gap(1, 3)


def test_a_known_batch_is_continued_and_the_cursor_moves_backwards_too() -> None:
    cursor = Cursor()
    for last in (7, 3):
        cursor.connected()
        assert cursor.place(stored(last), local(9, last)) is None
        assert (cursor.acknowledged, cursor.stream_sequence) == (last, last * 3)


def test_a_server_that_is_ahead_or_holds_other_content_halts_shipping() -> None:
    for held, mine in (
        (stored(12), local(9, 12)),
        (stored(5, b"x" * 32), local(9, 5)),
        (Stored(3, JOURNAL, 4, 6, digest(6)), Local(JOURNAL, 0, 9, None, False, Link(7, digest(6)))),
        (stored(3, b"x" * 32), local(9, 3, oldest=4)),
    ):
        cursor = Cursor()
        cursor.connected()
        assert isinstance(cursor.place(held, mine), Fork)
        assert cursor.phase is Phase.HALTED
        with pytest.raises(RuntimeError, match="halted"):
            cursor.sent(1, 1)


def test_after_any_doubt_the_server_is_read_before_anything_is_sent() -> None:
    cursor = Cursor()
    cursor.connected()
    cursor.place(None, local(5, 0))
    cursor.sent(1, 2)
    cursor.doubt()
    with pytest.raises(RuntimeError, match="reading"):
        cursor.sent(1, 2)


def test_an_evicted_batch_that_ours_continues_is_taken_and_one_further_back_is_a_gap() -> None:
    assert compare(stored(3), local(9, 3, oldest=4)) is None
    assert compare(stored(3), local(9, 3, oldest=6)) == Gap(4, 5)
    assert compare(stored(3), Local(JOURNAL, 0, 5, None, True, None)) == Gap(4, 5)


def test_a_new_journal_begins_after_the_one_it_replaces_and_a_replaced_one_does_not_come_back() -> None:
    held = Stored(30, b"O" * 16, 8, 9, digest(9))
    cursor = Cursor()
    cursor.connected()
    assert cursor.place(held, local(5, 0)) is None
    assert (cursor.acknowledged, cursor.sent(1, 5)) == (0, 30)
    assert isinstance(compare(held, local(5, 0, acknowledged=3)), Fork)


class Shipping(RuleBasedStateMachine):
    """One-record batches. The server appends only what names its last sequence, as JetStream does."""

    @initialize()
    def begin(self) -> None:
        self.cursor = Cursor()
        self.committed = 0
        self.server: list[int] = []
        self.sequence = 0
        self.sequences = [0]
        self.late: list[tuple[int, int, int]] = []

    def deliver(self, first: int, last: int, follows: int) -> int | None:
        if follows != self.sequences[-1]:
            return None
        for number in range(first, last + 1):
            self.sequence += 2
            self.server.append(number)
            self.sequences.append(self.sequence)
        return self.sequence

    @rule(count=st.integers(1, 5))
    def commit(self, count: int) -> None:
        self.committed += count

    @rule()
    def connect(self) -> None:
        self.cursor.connected()

    @rule()
    def disconnect(self) -> None:
        self.cursor.disconnected()

    @precondition(lambda self: self.cursor.phase is Phase.READING)
    @rule()
    def read(self) -> None:
        last = self.server[-1] if self.server else 0
        held = Stored(self.sequences[-1], JOURNAL, last, last, digest(last)) if last else None
        found = self.cursor.place(held, local(self.committed, last))
        assert found is None

    @precondition(lambda self: self.cursor.phase is Phase.SHIPPING and self.cursor.in_flight is None)
    @rule(count=st.integers(1, 3), fate=st.sampled_from(["acked", "ack lost", "lost", "late"]))
    def publish(self, count: int, fate: str) -> None:
        first = self.cursor.acknowledged + 1
        last = min(self.committed, first + count - 1)
        if last < first:
            return
        follows = self.cursor.sent(first, last)
        if fate == "late":
            self.late.append((first, last, follows))
            self.cursor.doubt()
            return
        answer = self.deliver(first, last, follows) if fate != "lost" else None
        if fate == "acked" and answer is not None:
            assert self.cursor.stored(answer) == last
        else:
            self.cursor.doubt()

    @precondition(lambda self: bool(self.late))
    @rule()
    def late_message_arrives(self) -> None:
        self.deliver(*self.late.pop(0))

    @precondition(lambda self: bool(self.server) and not self.late)
    @rule(back=st.integers(1, 4))
    def server_is_restored_from_a_backup(self, back: int) -> None:
        for _ in range(min(back, len(self.server))):
            self.server.pop()
            self.sequences.pop()
        self.cursor.disconnected()

    @invariant()
    def the_server_holds_every_record_once_and_in_order(self) -> None:
        if hasattr(self, "server"):
            assert self.server == list(range(1, len(self.server) + 1))


TestShipping = Shipping.TestCase
TestShipping.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
