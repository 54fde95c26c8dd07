"""A backlog takes what the line gives, and leaves room for what is live."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.bus import BUS_LIMITS
from stagebox_rack.limits import LIMITS as RACK_LIMITS
from stagebox_rack.wal.pacing import Pace, PaceLimits

LIMITS = PaceLimits(
    least_bytes=1000, most_bytes=64_000, step_bytes=4000, patience=0.1, line_share=0.8, work_share=0.25
)


def delivered(
    pace: Pace, bytes_per_second: float, seconds: float, *, rtt: float = 0.02, work: float = 0.0
) -> tuple[float, float]:
    """Return (bytes a second, the longest a window took in the second half) on a line of this speed."""
    now = sent = longest = 0.0
    while now < seconds:
        took = rtt + pace.window_bytes / bytes_per_second
        sent += pace.window_bytes
        now += work + took + pace.acknowledged(took, work=work, backlog=True)
        if now > seconds / 2:
            longest = max(longest, took)
    return sent / now, longest


def test_a_fast_line_is_used_for_the_share_of_the_time() -> None:
    rate, _ = delivered(Pace(LIMITS), 10e6, 10)
    assert 0.75 * 64_000 / (0.02 + 0.0064) < rate <= 0.8 * 64_000 / (0.02 + 0.0064)


def test_where_reading_costs_more_than_the_line_the_interpreter_is_free_for_the_other_share() -> None:
    rate, _ = delivered(Pace(LIMITS), 1e9, 60, rtt=0.0, work=0.01)
    assert rate * 0.01 / 64_000 == pytest.approx(0.25, rel=0.02)


def test_on_a_slow_line_no_window_stands_long_before_what_is_live() -> None:
    _, longest = delivered(Pace(LIMITS), 100_000, 60)
    assert longest < 0.02 + 2 * LIMITS.patience


def test_what_is_not_a_backlog_waits_for_nothing() -> None:
    assert Pace(LIMITS).acknowledged(3.0, work=1.0, backlog=False) == 0.0


@given(st.lists(st.one_of(st.none(), st.floats(0.0001, 100))))
def test_the_window_stays_within_its_bounds(times: list[float | None]) -> None:
    pace = Pace(LIMITS)
    for seconds in times:
        if seconds is None:
            pace.refused()
        else:
            assert pace.acknowledged(seconds, work=0.0, backlog=True) >= 0
        assert LIMITS.least_bytes <= pace.window_bytes <= LIMITS.most_bytes


def test_the_largest_window_fits_the_bus_clients_queue_with_room_for_what_is_live() -> None:
    headers = RACK_LIMITS.wal_ship_window * 512
    assert RACK_LIMITS.wal_ship_window_bytes + headers <= BUS_LIMITS.live_pending_bytes * 7 / 8
