"""Leases on monitor buses: as long as one lives the bus is sent, and not a moment longer."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox_rack.monitor.leases import LeaseRefused, Leases

STEPS = st.lists(
    st.tuples(st.sampled_from(["main", "foh"]), st.integers(0, 3), st.integers(0, 60), st.floats(0, 40)),
    max_size=60,
)


@given(STEPS)
def test_a_bus_is_live_exactly_while_a_lease_on_it_is(steps: list[tuple[str, int, int, float]]) -> None:
    leases, model, now = Leases(most=3), dict[tuple[str, bytes], float](), 0.0
    for bus, number, ttl, wait in steps:
        lease = bytes([number]) * 16
        model = {key: end for key, end in model.items() if end > now}
        full = (bus, lease) not in model and sum(name == bus for name, _ in model) >= 3
        with contextlib.ExitStack() as stack:
            if full and ttl:
                stack.enter_context(pytest.raises(LeaseRefused))
            leases.take(bus, lease, ttl, now)
        if not ttl:
            model.pop((bus, lease), None)
        elif not full:
            model[bus, lease] = now + ttl
        now += wait
        alive = {name for (name, _), end in model.items() if end > now}
        assert leases.live(now) == alive
        ends = [end for end in model.values() if end > now]
        assert leases.next_end() == (min(ends) if ends else None)


def test_a_lease_is_renewed_under_its_id_and_released_by_it() -> None:
    leases = Leases()
    leases.take("main", b"a", 10, 0.0)
    leases.take("main", b"a", 10, 5.0)
    assert (leases.count("main"), leases.next_end()) == (1, 15.0)
    leases.take("main", b"b", 0, 6.0)
    assert leases.live(6.0) == {"main"}
    leases.take("main", b"a", 0, 7.0)
    assert leases.live(7.0) == frozenset()
