"""Strikes, rates and patience: pure counting with times that come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stagebox_rack.modules.hosting.patience import Patience
from stagebox_rack.modules.hosting.rates import Rate
from stagebox_rack.modules.hosting.strikes import Strikes

SECOND = 10**9


def test_three_strikes_within_the_window_are_out() -> None:
    strikes = Strikes(3, 60)
    assert not strikes.add(0)
    assert not strikes.add(30 * SECOND)
    assert strikes.add(59 * SECOND)
    assert strikes.out


def test_a_strike_before_the_window_does_not_count() -> None:
    strikes = Strikes(3, 60)
    strikes.add(0)
    strikes.add(30 * SECOND)
    assert not strikes.add(60 * SECOND)
    assert strikes.count == 2
    assert strikes.add(89 * SECOND)


def test_strikes_go_on_where_another_process_left_them() -> None:
    before = Strikes(3, 60)
    before.add(SECOND)
    before.add(2 * SECOND)
    after = Strikes(3, 60, before.times)
    assert not after.out
    assert after.add(3 * SECOND)


@given(st.lists(st.integers(0, 300 * SECOND), max_size=40))
def test_out_means_that_the_window_before_some_strike_holds_three(times: list[int]) -> None:
    strikes = Strikes(3, 60)
    seen: list[int] = []
    for when in sorted(times):
        seen.append(when)
        recent = [one for one in seen if when - one < 60 * SECOND]
        assert strikes.add(when) == (len(recent) >= 3)
        if strikes.out:
            break


def test_a_rate_lets_a_second_s_worth_through_at_once_and_then_as_many_a_second() -> None:
    rate = Rate(5)
    assert [rate.allow(10 * SECOND) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [rate.allow(10 * SECOND + SECOND // 5) for _ in range(2)] == [True, False]
    assert [rate.allow(20 * SECOND) for _ in range(7)] == [True] * 5 + [False] * 2


def test_a_rate_of_none_lets_nothing_through() -> None:
    assert not Rate(0).allow(10 * SECOND)


@given(st.integers(0, 50), st.lists(st.integers(0, 10**8), min_size=1, max_size=200))
def test_a_rate_never_lets_through_more_than_burst_and_rate_allow(per_s: int, gaps: list[int]) -> None:
    rate, now, taken = Rate(per_s), SECOND, 0
    for gap in gaps:
        now += gap
        taken += rate.allow(now)
    assert taken <= per_s + per_s * (now - SECOND) / SECOND + 1e-6


def test_a_late_block_uses_up_what_may_be_waited_and_good_ones_earn_it_again() -> None:
    patience = Patience(0.5, 0.02)
    assert patience.left == 0.02
    patience.spend(0.02, 0.02)
    assert patience.left == 0.01
    patience.spend(0.05, 0.02)
    assert patience.left == 0.0
    for _ in range(10):
        patience.spend(0.0, 0.02)
    assert patience.left == 0.02


@given(st.lists(st.floats(0.0005, 0.1), min_size=1, max_size=100))
def test_waiting_never_takes_more_than_its_share_of_the_audio(durations: list[float]) -> None:
    patience, waited = Patience(0.5, 0.02), 0.0
    for duration in durations:
        wait = patience.left
        waited += wait
        patience.spend(wait, duration)
    assert waited <= 0.02 + 0.5 * sum(durations) + 1e-9
