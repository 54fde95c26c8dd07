"""Two copies of the deny list become one that loses no ban; what is stored of it survives a round trip."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stagebox import cbor
from stagebox.control.denylist import Denied, DenyKind, DenyList, denied
from stagebox.errors import DecodeError, InputError
from stagebox_mixer.denial.fresh import Fresh
from stagebox_mixer.denial.merging import newest
from stagebox_mixer.denial.record import Note, Record, check_reason, cleared_after, note_key
from stagebox_mixer.limits import LIMITS

EMPTY = DenyList("flux-test")
racks = st.sampled_from([f"rack-{number}" for number in range(5)])


def ban(name: str, since: int = 0) -> Denied:
    return denied("rack", name, since=since)


# Which copy holds


def test_the_higher_epoch_wins_and_stays_the_very_list_that_was_signed() -> None:
    older = EMPTY.with_denied(ban("a", 10), now_ns=10)
    newer = older.with_denied(ban("b", 20), now_ns=20)
    assert newest(older, newer, now_ns=99) is newer
    assert newest(newer, older, now_ns=99) is newer
    assert newest(newer, newer, now_ns=99) is newer


def test_a_ban_that_was_cleared_does_not_come_back_with_an_older_copy() -> None:
    banned = EMPTY.with_denied(ban("a", 10), now_ns=10)
    cleared = banned.without(ban("a"), now_ns=20)
    assert newest(banned, cleared, now_ns=99) is cleared
    assert newest(cleared, banned, now_ns=99) is cleared


def test_a_ban_made_on_a_restored_copy_survives_the_newer_list_it_did_not_know() -> None:
    yesterday = EMPTY.with_denied(ban("a", 10), now_ns=10)
    today = yesterday.with_denied(ban("b", 20), now_ns=20).with_denied(ban("c", 30), now_ns=30)
    restored = yesterday.with_denied(ban("d", 40), now_ns=40)
    for merged in (newest(restored, today, now_ns=50), newest(today, restored, now_ns=50)):
        assert {entry.value for entry in merged.entries} == {"a", "b", "c", "d"}
        assert merged.epoch == today.epoch + 1
        assert merged.time_ns == 50


def test_two_lists_of_one_epoch_become_one_with_the_bans_of_both() -> None:
    one, two = (EMPTY.with_denied(ban(name, 10), now_ns=10) for name in ("a", "b"))
    merged = newest(one, two, now_ns=5)
    assert {entry.value for entry in merged.entries} == {"a", "b"}
    assert (merged.epoch, merged.time_ns) == (2, 11)  # later than both, whatever the clock says


def test_a_revocation_made_on_a_restored_copy_survives_as_any_ban_does() -> None:
    revoked = denied("module", "sha256:" + "0e" * 32, since=40)
    yesterday = EMPTY.with_denied(ban("a", 10), now_ns=10)
    today = yesterday.with_denied(ban("b", 20), now_ns=20).with_denied(ban("c", 30), now_ns=30)
    restored = yesterday.with_denied(revoked, now_ns=40)
    merged = newest(restored, today, now_ns=50)
    assert revoked in merged.entries
    assert DenyList.decode(merged.encode()) == merged
    # A mixer that forgot it hears of it from the first rack that kept it.
    assert revoked in newest(today, restored, now_ns=50, cleared={}).entries


def test_more_bans_than_a_list_may_hold_are_an_error_not_a_lost_ban() -> None:
    full = replace(
        EMPTY,
        epoch=1,
        entries=tuple(Denied(DenyKind.MACHINE, f"{number:016x}") for number in range(4096)),
    )
    with pytest.raises(InputError, match="more than 4096"):
        newest(full, EMPTY.with_denied(ban("a"), now_ns=1), now_ns=2)


def test_an_older_copy_of_a_rack_brings_back_what_a_restored_mixer_forgot() -> None:
    yesterday = EMPTY.with_denied(ban("a", 10), now_ns=10)
    rack = yesterday.with_denied(ban("stolen", 20), now_ns=20)
    restored = yesterday.with_denied(ban("b", 30), now_ns=30).with_denied(ban("c", 40), now_ns=40)
    assert restored.epoch > rack.epoch
    assert (
        newest(restored, rack, now_ns=50) is restored
    )  # as one of our own copies it would be taken for older
    merged = newest(restored, rack, now_ns=50, cleared={})
    assert {entry.value for entry in merged.entries} == {"a", "b", "c", "stolen"}
    assert newest(restored, rack, now_ns=50, cleared={"rack:stolen": 30}) is restored
    again = newest(restored, rack, now_ns=50, cleared={"rack:stolen": 15})  # lifted, then banned anew
    assert ban("stolen") in again.entries


def test_a_ban_said_again_on_a_restored_copy_outlives_the_clear_it_forgot() -> None:
    yesterday = EMPTY.with_denied(ban("stolen", 10), now_ns=10)
    rack = yesterday.without(ban("stolen"), now_ns=20)
    assert newest(yesterday, rack, now_ns=30, cleared={}) is rack
    again = yesterday.with_denied(ban("stolen", 40), now_ns=40)
    for theirs in (rack, rack.with_denied(ban("b", 25), now_ns=25)):
        assert ban("stolen") in newest(again, theirs, now_ns=50, cleared={}).entries
    assert again.with_denied(ban("stolen", 40), now_ns=60) is again


class RestoredMixer(RuleBasedStateMachine):
    """A mixer and a rack's copy. Backups are restored at any moment; the two compare whenever they like."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.witness = self.rack = self.running = EMPTY
        self.registry: tuple[DenyList, dict[str, int]] = (EMPTY, {})
        self.backup = self.registry
        self.must_hold: dict[str, int] = {}

    def tick(self) -> int:
        self.now += 1
        return self.now

    def take_effect(self, now: DenyList, *, everywhere: bool = True) -> None:
        self.registry = (now, cleared_after(self.registry[1], self.running, now))
        self.running = now
        self.witness = now if everywhere else self.witness

    @rule(name=racks, crash=st.booleans())
    def deny(self, name: str, crash: bool) -> None:
        now = self.tick()
        # A crash between the two writes leaves the copy on disk behind.
        self.take_effect(self.running.with_denied(ban(name, now), now_ns=now), everywhere=not crash)
        self.must_hold[name] = next(entry.since for entry in self.running.entries if entry.value == name)

    @rule(name=racks)
    def clear(self, name: str) -> None:
        self.take_effect(self.running.without(ban(name), now_ns=self.tick()))
        self.must_hold.pop(name, None)

    @rule()
    def compare(self) -> None:
        self.take_effect(newest(self.running, self.rack, now_ns=self.tick(), cleared=self.registry[1]))
        self.rack = self.running
        assert set(self.must_hold) <= {entry.value for entry in self.running.entries}

    @rule()
    def back_up(self) -> None:
        self.backup = self.registry

    @rule()
    def restore_the_registry(self) -> None:
        self.registry = self.backup
        self.take_effect(newest(self.registry[0], self.running, now_ns=self.tick()))

    @rule(registry=st.booleans(), witness=st.booleans())
    def restart(self, registry: bool, witness: bool) -> None:
        """The mixer starts, on what it left behind or on what was restored."""
        self.registry = self.backup if registry else self.registry
        self.witness = self.backup[0] if witness else self.witness
        # What no copy at all knows any more cannot be held against anybody.
        known = {(entry.value, entry.since) for entry in self.known()}
        self.must_hold = {name: since for name, since in self.must_hold.items() if (name, since) in known}
        self.running = self.registry[0]
        self.take_effect(newest(self.registry[0], self.witness, now_ns=self.tick()))

    @invariant()
    def some_copy_knows_every_ban(self) -> None:
        assert set(self.must_hold) <= {entry.value for entry in self.known()}

    def known(self) -> tuple[Denied, ...]:
        return (*self.registry[0].entries, *self.witness.entries, *self.rack.entries)


TestRestoredMixer = RestoredMixer.TestCase


# What is stored

notes = st.builds(Note, st.text(max_size=30), st.text(max_size=30), st.integers(0, 2**64 - 1))


@given(
    st.binary(max_size=200),
    st.dictionaries(st.text(max_size=20), notes, max_size=4),
    st.dictionaries(st.text(max_size=20), st.integers(0, 2**64 - 1), max_size=4),
)
def test_a_record_round_trips(signed: bytes, annotated: dict[str, Note], cleared: dict[str, int]) -> None:
    record = Record(signed, annotated, cleared, {"x-later": 1})
    assert Record.decode(record.encode()) == record


@given(st.binary(max_size=64))
def test_anything_else_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Record.decode(data)


def test_an_unknown_version_and_a_malformed_note_are_refused() -> None:
    fields = cbor.expect_map(cbor.decode(Record(b"x").encode(), max_bytes=1 << 16), "record")
    for changed in (
        {"v": 2}, {"notes": {"rack:a": {"reason": "r"}}}, {"list": "text"}, {"cleared": {"rack:a": -1}},
    ):  # fmt: skip
        with pytest.raises(DecodeError):
            Record.decode(cbor.encode({**fields, **changed}))


def test_a_record_that_fits_no_message_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InputError, match="full"):
        Record(bytes(LIMITS.denied_record_bytes)).encode()


def test_what_was_lifted_is_remembered_until_it_is_banned_anew_the_newest_longest() -> None:
    lists = [EMPTY]
    for number in range(4):
        lists.append(lists[-1].with_denied(ban(f"r{number}"), now_ns=number + 1))
    cleared: dict[str, int] = {}
    held = lists[-1]
    for number in range(4):
        after = held.without(ban(f"r{number}"), now_ns=10 + number)
        cleared = cleared_after(cleared, held, after, limit=3)
        held = after
    assert cleared == {"rack:r1": 11, "rack:r2": 12, "rack:r3": 13}
    again = held.with_denied(ban("r2"), now_ns=20)
    assert cleared_after(cleared, held, again, limit=3) == {"rack:r1": 11, "rack:r3": 13}


@pytest.mark.parametrize("reason", ["x" * 201, "two\nlines", "\x1b[31m"])
def test_a_reason_is_one_short_line(reason: str) -> None:
    with pytest.raises(InputError, match="reason"):
        check_reason(reason)


def test_a_note_is_found_by_what_it_is_about() -> None:
    assert note_key(denied("machine", "0" * 16)) == "machine:" + "0" * 16
    assert check_reason("gestohlen – Wien") == "gestohlen – Wien"


# Reading it


async def test_who_asks_together_shares_one_read_and_who_asks_later_gets_a_later_one() -> None:
    started, began = 0, asyncio.Event()
    gates = [asyncio.Event(), asyncio.Event()]

    async def read() -> int:
        nonlocal started
        number = started
        started += 1
        began.set()
        await gates[number].wait()
        return number

    fresh = Fresh(read)
    first = [asyncio.create_task(fresh.get()) for _ in range(3)]
    await began.wait()
    # The first read is under way: what it finds may be from before this question.
    second = [asyncio.create_task(fresh.get()) for _ in range(3)]
    await asyncio.sleep(0)
    gates[0].set()
    assert await asyncio.gather(*first) == [0, 0, 0]
    gates[1].set()
    assert await asyncio.gather(*second) == [1, 1, 1]
    assert started == 2


async def test_a_read_that_fails_fails_for_all_who_share_it_and_for_nobody_else() -> None:
    reads = 0

    async def read() -> int:
        nonlocal reads
        reads += 1
        if reads == 1:
            raise ValueError("away")
        return 7

    fresh = Fresh(read)
    outcomes = await asyncio.gather(fresh.get(), fresh.get(), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["away", "away"]
    assert await fresh.get() == 7


async def test_one_who_stops_waiting_does_not_end_the_read_of_the_others() -> None:
    gate = asyncio.Event()

    async def read() -> int:
        await gate.wait()
        return 1

    fresh = Fresh(read)
    impatient, patient = asyncio.create_task(fresh.get()), asyncio.create_task(fresh.get())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    gate.set()
    assert await patient == 1
