"""What is decided about staged identities from the names of the files alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stagebox_rack.identity.recovery import (
    CERTIFICATE,
    KEY,
    PASSPORT,
    PROMOTION_ORDER,
    SlotName,
    decide,
    next_name,
)

WHOLE = frozenset(PROMOTION_ORDER)
NAMES = st.builds(SlotName, st.integers(1, 6), st.integers(1, 3))
FILES = st.frozensets(st.sampled_from([*PROMOTION_ORDER, ".rack.pem.0a1b.tmp"]))


def test_a_slot_is_named_so_that_text_and_issue_have_one_order() -> None:
    names = [SlotName(9, 1), SlotName(10, 1), SlotName(10, 2), SlotName(2**64 - 1, 1)]
    assert sorted(str(name) for name in names) == [str(name) for name in names]
    assert [SlotName.parse(str(name)) for name in names] == names


def test_other_names_are_no_slots() -> None:
    for text in ("", ".new-00", "5-1", "0" * 20, f"{5:020d}-{1:06d}x", f" {5:019d}-{1:06d}"):
        assert SlotName.parse(text) is None


def test_a_whole_slot_waits_and_a_promotion_cut_short_is_finished() -> None:
    slot = SlotName(5, 1)
    assert decide(4, {slot: WHOLE}).waiting == (slot,)
    for left in ({CERTIFICATE, PASSPORT}, {PASSPORT}):
        decision = decide(4, {slot: frozenset(left)})
        assert (decision.roll_forward, decision.waiting) == (slot, ())


def test_what_is_behind_the_main_passport_or_has_no_passport_is_removed() -> None:
    for files in (WHOLE, frozenset({PASSPORT})):
        assert decide(6, {SlotName(5, 1): files}).discard == (SlotName(5, 1),)
    for files in (frozenset({KEY, CERTIFICATE}), frozenset[str]()):
        assert decide(1, {SlotName(5, 1): files}).discard == (SlotName(5, 1),)


@given(st.integers(1, 6), st.dictionaries(NAMES, FILES, max_size=6))
def test_nothing_is_both_kept_and_removed_and_nothing_older_than_the_main_passport_is_kept(
    main: int, slots: dict[SlotName, frozenset[str]]
) -> None:
    decision = decide(main, slots)
    kept = {name for name in (decision.roll_forward, *decision.waiting) if name is not None}
    assert kept | set(decision.discard) == set(slots)
    assert kept.isdisjoint(decision.discard)
    assert all(name.serial >= main and PASSPORT in slots[name] for name in kept)
    assert list(decision.discard) == sorted(decision.discard)
    assert list(decision.waiting) == sorted(decision.waiting, reverse=True)
    if decision.roll_forward is not None:
        assert all(name > decision.roll_forward for name in decision.waiting)


@given(st.dictionaries(NAMES, FILES, max_size=6), st.integers(1, 6))
def test_a_new_slot_is_the_newest_of_its_serial(slots: dict[SlotName, frozenset[str]], serial: int) -> None:
    made = next_name(serial, slots)
    assert made not in slots
    assert all(made > name for name in slots if name.serial == serial)
