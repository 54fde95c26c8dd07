"""Fades and order: no click, nothing lost, and whoever goes on stays in step."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stagebox_rack.modules.hosting.fades import Fade, Float32, cross_fade
from stagebox_rack.modules.hosting.order import in_step, with_leaving

KEYS = st.lists(st.integers(0, 12), unique=True, max_size=10)


@given(st.integers(1, 500), st.lists(st.integers(1, 300), min_size=1, max_size=12))
def test_a_fade_is_one_straight_line_whatever_the_blocks(length: int, blocks: list[int]) -> None:
    fade = Fade(length)
    ramp = np.concatenate([fade.ramp(frames) for frames in blocks])
    line = np.minimum(np.arange(1, len(ramp) + 1) / length, 1.0)
    assert np.allclose(ramp, line, atol=1e-6)
    assert fade.done == (len(ramp) >= length)


def faded(old: Float32, new: Float32, length: int) -> Float32:
    out = np.empty_like(new)
    cross_fade(old, new, Fade(length).ramp(new.shape[-1]), out)
    return out


def test_after_a_fade_the_new_signal_is_exactly_itself() -> None:
    random = np.random.default_rng(1)
    old, new = (random.standard_normal((2, 960)).astype(np.float32) * 1e6 for _ in range(2))
    out = faded(old, new, 480)
    assert np.array_equal(out[:, 479:], new[:, 479:])


def test_a_fade_between_equal_signals_is_not_heard() -> None:
    signal = np.random.default_rng(2).standard_normal((3, 960)).astype(np.float32)
    assert np.array_equal(faded(signal, signal, 960), signal)


def test_a_fade_takes_no_step_larger_than_its_length_allows() -> None:
    old, new = np.full((1, 960), 1.0, np.float32), np.full((1, 960), -1.0, np.float32)
    out = faded(old, new, 960)
    assert np.abs(np.diff(out[0], prepend=1.0)).max() <= 2 / 960 + 1e-6
    assert out[0, -1] == -1.0


def test_a_fade_may_be_made_in_place() -> None:
    random = np.random.default_rng(3)
    old, new = (random.standard_normal((1, 100)).astype(np.float32) for _ in range(2))
    expected = faded(old, new, 100)
    for into in (old.copy(), new.copy()):
        first, second = (into, new) if np.array_equal(into, old) else (old, into)
        cross_fade(first, second, Fade(100).ramp(100), into)
        assert np.array_equal(into, expected)


def is_part_of(part: list[int], whole: list[int]) -> bool:
    rest = iter(whole)
    return all(key in rest for key in part)


@given(KEYS, KEYS)
def test_who_stays_in_step_stands_in_the_same_order_in_both(old: list[int], new: list[int]) -> None:
    kept = in_step(old, new)
    assert kept <= set(old) & set(new)
    assert [key for key in old if key in kept] == [key for key in new if key in kept]


@given(KEYS)
def test_all_stay_when_nothing_moves_and_one_moves_when_one_does(keys: list[int]) -> None:
    assert in_step(keys, keys) == set(keys)
    if len(keys) > 1:
        assert len(in_step(keys, [*keys[1:], keys[0]])) == len(keys) - 1


@given(KEYS, KEYS)
def test_who_leaves_fades_out_where_it_was(old: list[int], new: list[int]) -> None:
    kept = in_step(old, new)
    wanted = [key for key in new if key in kept or key not in old]
    merged = with_leaving(old, wanted)
    assert sorted(merged) == sorted(set(old) | set(wanted))
    assert is_part_of(wanted, merged)
    assert is_part_of(old, merged)
