"""The bound on routes without a certificate: generous to a venue behind one address, deaf to a flood."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stagebox_mixer.limits import LIMITS
from stagebox_mixer.source_rate import SourceRate, source_of

GAPS = st.lists(st.floats(0, 20), min_size=1, max_size=60)


def rate(per_s: float = 2.0, burst: int = 5, max_sources: int = 8) -> SourceRate:
    return SourceRate(per_s=per_s, burst=burst, max_sources=max_sources)


@given(GAPS)
def test_no_window_admits_more_than_the_burst_and_the_rate(gaps: list[float]) -> None:
    bucket, now, admitted = rate(), 0.0, []
    for gap in gaps:
        now += gap
        if not bucket.wait_s("a", now):
            admitted.append(now)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            assert last - first + 1 <= 5 + 2.0 * (admitted[last] - admitted[first]) + 1e-6


@given(GAPS)
def test_whoever_waits_as_long_as_told_is_admitted(gaps: list[float]) -> None:
    bucket, now = rate(), 0.0
    for gap in gaps:
        now += gap
        wait = bucket.wait_s("a", now)
        if wait:
            now += wait + 1e-6
            assert bucket.wait_s("a", now) == 0.0


def test_one_source_does_not_use_up_anothers_share() -> None:
    bucket = rate()
    while not bucket.wait_s("loud", 0.0):
        pass
    assert bucket.wait_s("quiet", 0.0) == 0.0


def test_a_clock_that_steps_back_gives_nothing_away() -> None:
    bucket = rate()
    for _ in range(5):
        assert bucket.wait_s("a", 100.0) == 0.0
    assert bucket.wait_s("a", 50.0) > 0.0


@given(st.lists(st.text(max_size=3), max_size=100))
def test_memory_stays_bounded_whoever_comes(sources: list[str]) -> None:
    bucket = rate()
    for number, source in enumerate(sources):
        bucket.wait_s(source, float(number))
        assert len(bucket) <= 8


def test_two_hundred_racks_behind_one_address_enroll_and_renew_at_once() -> None:
    bucket = SourceRate(
        per_s=LIMITS.public_per_s, burst=LIMITS.public_burst, max_sources=LIMITS.public_sources
    )
    assert all(not bucket.wait_s("192.0.2.1", 0.0) for _ in range(2 * 200))


def test_an_ipv6_host_cannot_multiply_itself() -> None:
    assert source_of("2001:db8:0:1::1") == source_of("2001:db8:0:1:ffff::9") == "2001:db8:0:1::/64"
    assert source_of("2001:db8:0:2::1") != source_of("2001:db8:0:1::1")
    assert source_of("::ffff:192.0.2.7") == source_of("192.0.2.7") == "192.0.2.7"
    assert source_of("fe80::1%eth0") == "fe80::/64"
    assert source_of("") == ""
