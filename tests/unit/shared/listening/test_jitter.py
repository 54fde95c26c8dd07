"""The jitter buffer under everything a network does: in order, in time, nothing twice, every packet accounted for."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagebox.listening.jitter import Gap, JitterBuffer, Lost, Output, Packet

LATENCY = 0.06
BOOT = bytes(16)
PACKET_S = 0.02


def packet(seq: int, start: int | None = None, boot: bytes = BOOT) -> Packet:
    return Packet(boot, seq, (seq - 1) * 960 if start is None else start, 960, 2, 0, b"")


Played = tuple[list[tuple[float, Output]], JitterBuffer]


def play(arrivals: list[tuple[float, Packet]], until: float, latency: float = LATENCY) -> Played:
    """Push each packet when it arrives and pop when it is due, as a listener does."""
    out: list[tuple[float, Output]] = []
    buffer, now = JitterBuffer(latency), 0.0
    pending = sorted(arrivals, key=lambda arrival: arrival[0])
    while True:
        due = buffer.next_due()
        arrives = pending[0][0] if pending else None
        times = [time for time in (due, arrives) if time is not None]
        if not times or min(times) > until:
            return out, buffer
        now = max(now, min(times))
        if arrives is not None and arrives <= now:
            out += [(now, output) for output in buffer.push(pending.pop(0)[1], now)]
        while (output := buffer.pop(now)) is not None:
            out.append((now, output))


def test_punctual_packets_are_played_in_time_and_in_order() -> None:
    out, buffer = play([(n * PACKET_S, packet(n + 1)) for n in range(100)], until=2.0)
    played = [(at, output.seq) for at, output in out if isinstance(output, Packet)]
    assert [seq for _, seq in played][:95] == list(range(1, 96))
    for at, seq in played:
        assert at == pytest.approx((seq - 1) * PACKET_S + LATENCY, abs=1e-6)
    assert buffer.counters.lost == buffer.counters.late == 0


def test_a_lost_packet_is_concealed_and_a_capture_gap_is_not() -> None:
    arrivals = [(n * PACKET_S, packet(n + 1)) for n in range(20) if n != 9]
    out, buffer = play(arrivals, until=0.39)
    assert [output for _, output in out if not isinstance(output, Packet)] == [Lost(9 * 960, 960)]
    gap = [(n * PACKET_S, packet(n + 1)) for n in range(10)]
    gap += [((n + 30) * PACKET_S, packet(n + 1, start=(n + 30) * 960)) for n in range(10, 20)]
    out, buffer = play(gap, until=1.0)
    others = [output for _, output in out if not isinstance(output, Packet)]
    # A network that is silent cannot be told from a loss at first: three packets are concealed, then it is a gap.
    assert others == [Lost(9600, 960), Lost(10_560, 960), Lost(11_520, 960), Gap(12_480, 25_920)]
    assert buffer.counters.gaps == 1


def test_a_short_capture_gap_is_reported_exactly() -> None:
    arrivals = [(n * PACKET_S, packet(n + 1)) for n in range(10)]
    arrivals += [(n * PACKET_S + 0.001, packet(n + 1, start=n * 960 + 50)) for n in range(10, 20)]
    out, _ = play(arrivals, until=0.38)
    assert [output for _, output in out if not isinstance(output, Packet)] == [Gap(9600, 50)]


def test_what_comes_too_late_is_never_played() -> None:
    arrivals = [(n * PACKET_S, packet(n + 1)) for n in range(30) if n != 9]
    out, buffer = play([*arrivals, (9 * PACKET_S + LATENCY + 0.01, packet(10))], until=0.5)
    assert 10 not in [output.seq for _, output in out if isinstance(output, Packet)]
    assert (buffer.counters.late, buffer.counters.lost) == (1, 1)


def test_reordering_within_the_latency_costs_nothing() -> None:
    order = list(range(50))
    random.Random(1).shuffle(order)
    arrivals = [(n * PACKET_S + (0.04 if n % 3 == 0 else 0.0), packet(n + 1)) for n in range(1, 50)]
    out, buffer = play([(0.0, packet(1)), *arrivals], until=0.98)
    assert not [output for _, output in out if not isinstance(output, Packet)]
    assert buffer.counters.reordered > 10


def test_a_new_boot_starts_anew() -> None:
    arrivals = [(n * PACKET_S, packet(n + 1)) for n in range(10)]
    arrivals += [(0.5 + n * PACKET_S, packet(n + 1, boot=b"\1" * 16)) for n in range(10)]
    out, _ = play(arrivals, until=0.7)
    kinds = [output for _, output in out if not isinstance(output, Packet)]
    assert kinds[-1] == Gap(0, 0, restart=True)
    assert [output.seq for _, output in out if isinstance(output, Packet) and output.boot != BOOT][:5] == [
        1,
        2,
        3,
        4,
        5,
    ]


@pytest.mark.parametrize("ppm", [-200, 0, 200])
def test_half_an_hour_of_clock_drift_neither_starves_nor_grows(ppm: int) -> None:
    jitter = random.Random(3)
    rate = 1 + ppm * 1e-6
    arrivals = [(n * PACKET_S * rate + jitter.uniform(0, 0.01), packet(n + 1)) for n in range(90_000)]
    out, buffer = play(arrivals, until=1799.0)
    assert buffer.counters.lost == buffer.counters.late == 0
    waits = [
        at - (output.seq - 1) * PACKET_S * rate for at, output in out[-1000:] if isinstance(output, Packet)
    ]
    assert all(0.03 < wait < 0.09 for wait in waits)


def test_a_slow_consumer_loses_the_oldest_and_the_buffer_stays_small() -> None:
    buffer = JitterBuffer(LATENCY)
    for n in range(1000):
        buffer.push(packet(n + 1), n * PACKET_S)
    assert buffer.waiting <= 256
    assert buffer.counters.dropped >= 744
    output = buffer.pop(1e9)
    assert isinstance(output, Packet)
    assert output.seq > 700


FATES = st.lists(
    st.tuples(st.floats(0.0, 0.15), st.booleans(), st.booleans(), st.integers(0, 3000)),
    min_size=1,
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(fates=FATES, latency=st.floats(0.01, 0.2))
def test_whatever_the_network_does_every_packet_is_played_once_in_order_or_counted(
    fates: list[tuple[float, bool, bool, int]], latency: float
) -> None:
    arrivals, start = [], 0
    for number, (delay, lost, twice, gap) in enumerate(fates):
        start += gap if gap > 2500 else 0
        made = packet(number + 1, start=start)
        start += 960
        at = start / 48_000 + delay
        if not lost:
            arrivals.append((at, made))
        if twice and not lost:
            arrivals.append((at + 0.005, made))
    out, buffer = play(arrivals, until=1e6, latency=latency)
    counters = buffer.counters
    played = [output for _, output in out if isinstance(output, Packet)]
    assert [one.seq for one in played] == sorted({one.seq for one in played})
    assert (
        counters.received
        == len(arrivals)
        == (counters.played + counters.late + counters.duplicates + counters.dropped + buffer.waiting)
    )
    # The outputs cover the timeline without overlap: what follows begins where the last one ended.
    position: int | None = None
    for _, output in out:
        if position is not None:
            assert output.start == position
        position = output.start + output.frames
    times = [at for at, _ in out]
    assert times == sorted(times)
