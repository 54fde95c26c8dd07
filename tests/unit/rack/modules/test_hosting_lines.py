"""What a guest says to its host: bounded, plain, and refused when it is not."""

from __future__ import annotations

from typing import Any

import pytest

from stagebox import cbor
from stagebox.errors import DecodeError
from stagebox.modules.capabilities import Capability
from stagebox.modules.statement import ModuleLimits
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.calls import MALFORMED, OVER_RATE, TAKEN, GuestCalls, Moment, read_data
from stagebox_rack.modules.hosting.spec import InstanceSpec


class Said:
    def __init__(self, *, takes: bool = True) -> None:
        self.events: list[dict[str, Any]] = []
        self._takes = takes

    def __call__(self, event: dict[str, Any]) -> bool:
        self.events.append(event)
        return self._takes


def calls(said: Said, **limits: int) -> GuestCalls:
    return GuestCalls(7, ModuleLimits(**limits), Moment(960, 5), said)


@pytest.mark.parametrize(
    "value",
    [{}, {"a": None}, {"a": [1, -1, 2**64 - 1, -(2**63), 0.5, True, "x", b"x", {"b": {}}]}],
)
def test_plain_maps_are_taken(value: dict[str, Any]) -> None:
    assert read_data(cbor.encode(value), 1000) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xa1",
        b"\x80",
        b"\xa1\x01\x02",  # an integer for a key
        b"\xa2\x61a\x01\x61a\x02",  # one key twice
        b"\xbf\x61a\x01\xff",  # of indefinite length
        b"\xa1\x61a\xf9\x7c\x00",  # infinity
        b"\xa1\x61a\x81\xf9\x7e\x00",  # NaN in a list
        b"\xa1\x61a\xf7",  # undefined
        b"\xa1\x61a\xe0",  # a simple value
        b"\xa1\x61a\xc2\x49\x01" + bytes(8),  # a large integer
        b"\xa1\x61a\xd8\x48\x41\x00",  # a typed array
        b"\xa1\x61a\x3b" + b"\xff" * 8,  # below int64
        b"\xa0\x00",  # something behind it
        cbor.encode({"a": list(range(5000))}),
    ],
)
def test_what_not_every_reader_understands_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        read_data(data, 100_000)


def test_an_emitted_record_carries_the_moment_of_its_block() -> None:
    said = Said()
    assert calls(said).emit(b"leq", cbor.encode({"db": -20.5})) == TAKEN
    data = cbor.encode({"db": -20.5})
    assert said.events == [
        {"Event": "record", "Instance": 7, "Out": "leq", "Data": data, "Start": 960, "Time": 5}
    ]


@pytest.mark.parametrize("out", [b"", b"A", b"a.b", b">", b"-a", b"a" * 64, b"\xff", "ö".encode()])
def test_an_output_is_a_name(out: bytes) -> None:
    said = Said()
    assert calls(said).emit(out, b"\xa0") == MALFORMED
    assert said.events == []


def test_a_record_larger_than_granted_is_malformed_and_costs_no_rate() -> None:
    said = Said()
    guest = calls(said, records_per_s=1, record_bytes=8)
    assert guest.emit(b"x", bytes(9)) == MALFORMED
    assert guest.emit(b"x", b"\xa0") == TAKEN
    assert guest.emit(b"x", b"\xa0") == OVER_RATE


def test_nonsense_costs_the_rate_too() -> None:
    guest = calls(Said(), records_per_s=2)
    assert [guest.emit(b"x", b"\xff") for _ in range(3)] == [MALFORMED, MALFORMED, OVER_RATE]


def test_a_record_that_cannot_be_sent_now_is_over_the_rate() -> None:
    assert calls(Said(takes=False)).emit(b"x", b"\xa0") == OVER_RATE


def test_lines_are_cut_and_limited_and_their_level_is_one() -> None:
    said = Said()
    guest = calls(said)
    guest.log(-5, b"\xff" + b"x" * 5000)
    guest.log(77, b"y")
    for _ in range(50):
        guest.log(1, b"z")
    assert len(said.events) == LIMITS.module_logs_per_s
    assert [event["Level"] for event in said.events[:2]] == [0, 3]
    assert len(said.events[0]["Text"]) == LIMITS.module_log_bytes


def test_what_a_host_is_told_of_an_instance_arrives_whole() -> None:
    spec = InstanceSpec(
        instance=3,
        insert="eq",
        code=9,
        granted=frozenset({Capability.AUDIO, Capability.EMIT}),
        limits=ModuleLimits(fuel_per_block=5),
        rate=48_000,
        channels=2,
        block=960,
        params={4: 1.5, 0: -2.0},
        strikes=(1, 2),
    )
    assert InstanceSpec.from_wire(cbor.decode(cbor.encode(spec.wire()), max_bytes=10_000)) == spec
