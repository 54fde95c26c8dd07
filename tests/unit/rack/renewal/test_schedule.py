"""When a rack renews and which way it takes, on a clock of the test's own."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from stagebox_rack.limits import LIMITS
from stagebox_rack.renewal.schedule import Life, RenewalSchedule, Situation, Via, due_at, overdue_at

DAY = 86_400.0
MONTH = Life(0.0, 30 * DAY)
UP, DOWN = Situation(connected=True), Situation(connected=False)


def schedule(life: Life = MONTH, seed: int = 1) -> RenewalSchedule:
    return RenewalSchedule(life, random=Random(seed))


def test_a_month_is_due_on_day_twenty_or_up_to_two_and_a_half_days_later_and_overdue_a_week_before_its_end() -> (
    None
):
    assert due_at(MONTH, 0.0) == 20 * DAY
    assert due_at(MONTH, 1.0) == 22.5 * DAY
    assert overdue_at(MONTH) == 23 * DAY
    assert overdue_at(Life(0.0, 4 * DAY)) == 3 * DAY


def test_a_fleet_enrolled_in_one_hour_does_not_renew_in_one() -> None:
    due = sorted(schedule(seed=seed).due_at for seed in range(200))
    assert due[0] >= 20 * DAY and due[-1] <= 22.5 * DAY
    assert due[150] - due[50] > DAY


def test_it_goes_over_the_snake_when_due_and_not_before() -> None:
    made = schedule()
    assert made.plan(made.due_at - 1, UP).via is None
    assert made.plan(made.due_at, UP).via is Via.SNAKE
    assert made.plan(made.due_at, DOWN).via is None


def test_an_ended_certificate_goes_over_https_within_seconds() -> None:
    made = schedule()
    assert made.plan(made.life.ends - 1, DOWN).via is None
    plan = made.plan(made.life.ends, DOWN)
    assert plan.via is Via.HTTPS or 0 < plan.wait <= LIMITS.renew_cut_off_first
    assert made.plan(made.life.ends + LIMITS.renew_cut_off_first, DOWN).via is Via.HTTPS


def test_a_refusal_that_lasts_goes_over_https_and_one_that_passes_does_not() -> None:
    made = schedule()
    assert made.plan(DAY, Situation(False, DAY)).via is None
    wait = made.plan(DAY, Situation(False, DAY)).wait
    assert wait <= LIMITS.renew_refused_for
    later = DAY + LIMITS.renew_refused_for
    made.plan(later, Situation(False, DAY))
    assert made.plan(later + LIMITS.renew_cut_off_first, Situation(False, DAY)).via is Via.HTTPS
    assert made.plan(later + LIMITS.renew_cut_off_first, UP).via is None


def test_failures_back_off_up_to_an_hour_and_a_new_certificate_starts_over() -> None:
    made, now, delays = schedule(), 21 * DAY + 2 * DAY, []
    for _ in range(20):
        retry = made.failed(now, UP)
        assert made.plan(retry - 0.001, UP).via is None
        assert made.plan(retry, UP).via is Via.SNAKE
        delays.append(retry - now)
        now = retry
    assert delays[0] <= LIMITS.renew_retry_first_max
    assert LIMITS.renew_retry_cap / 2 <= delays[-1] <= LIMITS.renew_retry_cap
    made.renewed(Life(now, now + 30 * DAY))
    assert made.plan(made.due_at, UP).via is Via.SNAKE


def test_a_clock_that_was_years_ahead_and_is_set_right_does_not_keep_it_from_renewing() -> None:
    made, ahead = schedule(), 3650 * DAY
    for _ in range(10):
        made.plan(ahead, DOWN)
        ahead = made.failed(ahead, DOWN)
    assert made.plan(made.due_at - 1, UP).via is None
    assert made.plan(made.due_at, UP).via is Via.SNAKE
    since = Situation(False, ahead)  # refused then, and ever since
    made.plan(DAY, since)
    assert made.plan(DAY + LIMITS.renew_cut_off_first, since).via is Via.HTTPS


@given(st.floats(0.0, 0.999), st.integers(0, 99))
def test_a_certificate_that_is_due_when_it_comes_is_not_renewed_without_end(used: float, seed: int) -> None:
    made, now, last = schedule(seed=seed), 40 * DAY, 0.0
    made.renewed(Life(now, now + 30 * DAY), now)
    gaps: list[float] = []
    while len(gaps) < 20:
        plan = made.plan(now, UP)
        if plan.via is None:
            now = max(now + plan.wait, min(made.due_at, now + DAY) if made.due_at > now else 0.0)
            continue
        gaps.append(now - last)
        # The mixer gives 30 days from a begin that our clock says is long past.
        last, begins = now, now - used * 30 * DAY
        made.renewed(Life(begins, begins + 30 * DAY), now)
    assert min(gaps) >= LIMITS.renew_retry_first_max
    assert sum(gaps) >= 20 * (1 - used) * 30 * DAY / 4


def test_who_is_cut_off_asks_at_least_every_quarter_of_an_hour() -> None:
    made, now = schedule(), 31 * DAY
    made.plan(now, DOWN)
    for _ in range(20):
        retry = made.failed(now, DOWN)
        assert retry - now <= LIMITS.renew_retry_cut_off_cap
        now = retry


@given(
    st.floats(1.0, 400 * DAY), st.floats(-DAY, 500 * DAY), st.booleans(),
    st.one_of(st.none(), st.floats(0, 500 * DAY)), st.integers(0, 99),
)  # fmt: skip
def test_a_plan_is_to_act_now_or_to_wait_a_bounded_time(
    length: float, now: float, connected: bool, refused: float | None, seed: int
) -> None:
    made = schedule(Life(0.0, length), seed)
    plan = made.plan(now, Situation(connected, refused))
    assert (plan.via is None) == (plan.wait > 0)
    assert plan.wait <= LIMITS.renew_check
    assert plan.overdue == (now >= made.overdue_at)
    if plan.via is Via.SNAKE:
        assert connected and made.due_at <= now < made.life.ends
    if plan.via is Via.HTTPS:
        assert now >= made.life.ends or (not connected and refused is not None)


@given(st.floats(0.0, 400 * DAY), st.floats(0.0, 1.0))
def test_a_certificate_is_due_before_it_is_overdue(length: float, share: float) -> None:
    life = Life(0.0, length)
    assert due_at(life, share) <= overdue_at(life) + 1e-6
