"""What a rack sends: everything only while both passports that count are active and the bus is up."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest

from stagebox.passport import PassportStatus
from stagebox_rack.rights import Rights

ACTIVE, PENDING, SUSPENDED = PassportStatus.ACTIVE, PassportStatus.PENDING, PassportStatus.SUSPENDED
LESS = [
    pair for pair in itertools.product((ACTIVE, PENDING, SUSPENDED), repeat=2) if pair != (ACTIVE, ACTIVE)
]


@dataclass
class Bus:
    connected: bool = True


@dataclass
class Publisher:
    limited: bool = False
    caught_up: int = 0

    def catch_up(self) -> None:
        self.caught_up += 1


@dataclass
class Shipper:
    calls: list[str] = field(default_factory=list)

    def connected(self) -> None:
        self.calls.append("ship")

    def disconnected(self) -> None:
        self.calls.append("stop")


class Bench:
    def __init__(self) -> None:
        self.bus, self.publisher, self.shipper = Bus(), Publisher(), Shipper()
        self.rights = Rights(self.bus, self.publisher, self.shipper)


def test_an_active_rack_on_a_connection_of_an_active_one_sends_everything() -> None:
    bench = Bench()
    bench.rights.use(ACTIVE, ACTIVE, fresh=True)
    assert (bench.publisher.limited, bench.publisher.caught_up) == (False, 1)
    assert bench.shipper.calls == ["ship"]


@pytest.mark.parametrize(("newest", "shown"), LESS)
def test_a_rack_ships_nothing_unless_both_passports_are_active(
    newest: PassportStatus, shown: PassportStatus
) -> None:
    bench = Bench()
    bench.rights.use(newest, shown, fresh=True)
    assert bench.publisher.limited
    assert bench.shipper.calls == []


@pytest.mark.parametrize(("newest", "shown"), LESS)
def test_a_rack_that_may_not_any_more_stops_shipping_once(
    newest: PassportStatus, shown: PassportStatus
) -> None:
    bench = Bench()
    bench.rights.use(ACTIVE, ACTIVE, fresh=True)
    bench.rights.use(newest, shown)
    bench.rights.use(newest, shown)
    assert bench.publisher.limited
    assert bench.shipper.calls == ["ship", "stop"]


def test_shipping_begins_anew_on_a_new_connection_and_not_otherwise() -> None:
    bench = Bench()
    bench.rights.use(ACTIVE, ACTIVE, fresh=True)
    bench.rights.use(ACTIVE, ACTIVE)
    assert bench.shipper.calls == ["ship"]
    bench.rights.use(ACTIVE, ACTIVE, fresh=True)
    assert bench.shipper.calls == ["ship", "ship"]


def test_without_a_bus_nothing_is_shipped_or_caught_up_and_the_rights_stay() -> None:
    bench = Bench()
    bench.bus.connected = False
    bench.rights.use(ACTIVE, ACTIVE)
    assert (bench.publisher.limited, bench.publisher.caught_up) == (False, 0)
    assert bench.shipper.calls == []
    bench.bus.connected = True
    bench.rights.use(ACTIVE, ACTIVE)
    bench.bus.connected = False
    bench.rights.use(ACTIVE, ACTIVE)
    assert bench.shipper.calls == ["ship", "stop"]
