"""Sample index to clock, from observations that are only ever late."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from stagebox_rack.audio.stream_clock import StreamClock

RATE = 48_000
NS = 1_000_000_000
BLOCK = 480


@given(
    lateness=st.lists(st.integers(0, 20_000_000), min_size=200, max_size=200),
    origin=st.integers(0, 10**15),
    drift_ppm=st.integers(-300, 300),
)
def test_the_mapping_never_dates_a_frame_after_it_was_seen_and_settles_on_the_truth(
    lateness: list[int], origin: int, drift_ppm: int
) -> None:
    lateness[::10] = [0] * 20  # a callback in ten comes at once
    clock = StreamClock(RATE)
    for n, late in enumerate(lateness):
        index = (n + 1) * BLOCK
        truth = origin + index * NS * (1_000_000 + drift_ppm) // (RATE * 1_000_000)
        mapped = clock.observe(index, truth + late)
        assert mapped <= truth + late
        if n >= 10:
            assert abs(mapped - truth) < 100_000  # 0.1 ms


def test_bursts_of_two_callbacks_are_dated_evenly() -> None:
    clock = StreamClock(RATE)
    mapped = []
    for n in range(100):
        seen = (n // 2 + 1) * 20_000_000  # both blocks of a pair arrive when the second ends
        mapped.append(clock.observe((n + 1) * BLOCK, seen))
    steps = [b - a for a, b in pairwise(mapped[2:])]
    assert all(abs(step - 10_000_000) < 20_000 for step in steps)
