from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox.bus.backoff import Backoff
from stagebox.errors import ConfigError

BASES = st.floats(0.001, 10)
CAPS = st.floats(10, 600)


@given(BASES, CAPS, st.integers(0, 2**32), st.integers(1, 2000))
def test_every_delay_lies_between_zero_and_its_ceiling(
    base: float, cap: float, seed: int, count: int
) -> None:
    backoff = Backoff(base, cap, random.Random(seed))
    for attempt in range(count):
        ceiling = backoff.ceiling
        assert ceiling == min(cap, base * 2.0 ** min(attempt, 64))
        assert 0 <= backoff.next_delay() <= ceiling <= cap


@given(BASES, CAPS, st.integers(1, 100))
def test_a_reset_starts_over_from_the_base(base: float, cap: float, count: int) -> None:
    backoff = Backoff(base, cap, random.Random(1))
    for _ in range(count):
        backoff.next_delay()
    assert backoff.attempt == count
    backoff.reset()
    assert (backoff.attempt, backoff.ceiling) == (0, base)


def test_a_fleet_that_fails_together_does_not_come_back_together() -> None:
    delays = []
    for seed in range(500):
        backoff = Backoff(0.1, 30.0, random.Random(seed))
        for _ in range(20):
            last = backoff.next_delay()
        delays.append(last)
    tenths = [sum(1 for delay in delays if 3 * i <= delay < 3 * (i + 1)) for i in range(10)]
    assert min(tenths) >= 25, f"delays cluster: {tenths}"


@pytest.mark.parametrize(("base", "cap"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_limits_that_do_not_fit_are_refused(base: float, cap: float) -> None:
    with pytest.raises(ConfigError, match="back-off"):
        Backoff(base, cap, random.Random(1))
