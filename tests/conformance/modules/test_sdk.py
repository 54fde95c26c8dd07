"""The C header and the AssemblyScript definitions read and write CBOR as cbor2 does, whatever they are given."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagebox import cbor
from stagebox.records.event import Event
from stagebox.records.meter import MeterFrame, levels
from support.module_builds import build
from support.wasm_guest import Guest

GUESTS = Path(__file__).parents[2] / "support" / "guests"
METER, EVENT, WRITE, NUMBER, SKIP, FULL = 1, 2, 101, 102, 103, 104
BOOT = bytes(range(16))
# Every byte is looked at a bounded number of times.
FUEL_A_BYTE, FUEL_A_CALL = 400, 10_000


@pytest.fixture(scope="module", params=["sdk-c", "sdk-assemblyscript"])
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """One instance for all examples: what one leaves behind must not matter to the next."""
    return Guest(build(GUESTS / request.param, tmp_path_factory.mktemp("guests")).data)


@pytest.fixture(scope="module")
def c_guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """The one in C, which has the mathematics too."""
    return Guest(build(GUESTS / "sdk-c", tmp_path_factory.mktemp("guests")).data)


def answer(guest: Guest, kind: int, data: bytes, subject: bytes = b"") -> dict[str, Any]:
    """What it emits about one record."""
    guest.emitted.clear()
    assert guest.record(kind, subject, data) == 0
    (emitted,) = guest.emitted
    return emitted.data


def test_the_log_line_arrives_as_utf_8(guest: Guest) -> None:
    assert guest.logged == [(2, "ready — é")]


def test_it_imports_what_it_calls_and_nothing_else(guest: Guest) -> None:
    assert guest.imports == {("stagebox", name) for name in ("emit", "log", "now")}


def test_every_kind_of_value_is_written_as_cbor2_reads_it(guest: Guest) -> None:
    written = answer(guest, WRITE, b"")
    assert written == {
        "integers": [
            0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1,
            -1, -24, -25, -256, -257, -65536, -65537, -(2**63),
        ],
        "largest": 2**64 - 1,
        "floats": [-0.1, 1e300],
        "truth": [True, False],
        "text": "twenty-four characters, é",
        "now": guest.clock,
    }  # fmt: skip


def test_what_does_not_fit_is_not_emitted(guest: Guest) -> None:
    guest.emitted.clear()
    assert guest.record(FULL, b"", b"") == 2
    assert guest.emitted == []


@pytest.mark.parametrize("channels", [1, 2, 16])
def test_a_meter_frame_is_read(guest: Guest, channels: int) -> None:
    values = [-3.01, math.nan, -150.0, 0.5, *range(-12, 0)][:channels]
    arrays = levels(values)
    frame = MeterFrame(
        seq=7, boot=BOOT, time_ns=1, start=2**40 + 5, frames=2400, rate=48_000, peak=arrays, rms=arrays,
        true_peak=arrays, momentary=arrays, peak_hold=arrays, ppm1=arrays, ppm2=arrays, vu=arrays,
        flags=bytes(channels),
    )  # fmt: skip
    read = answer(guest, METER, frame.encode(), b"rack.left.meter.foh")
    assert read["channels"] == channels
    assert read["peaks"] == [None if math.isnan(value) else round(value, 2) for value in values]
    assert (read["start"], read["boot_bytes"], read["missing"]) == (2**40 + 5, 16, 0)


def test_an_event_is_read(guest: Guest) -> None:
    event = Event(7, BOOT, 1, "gain_changed", {"before": {"gain": 99}, "list": [1, [2, {}]], "gain": -4.5})
    read = answer(guest, EVENT, event.encode(), b"rack.left.event")
    assert read == {"name": "gain_changed", "subject": "rack.left.event", "gain": -4.5}


@pytest.mark.parametrize("kind", [METER, EVENT])
@pytest.mark.parametrize(
    "data", [b"", b"\xa0", b"\x80", b"\xa1\x64peak\x01", b"\xa1\x64peak\xd8\x4d\x5a\xff\xff"]
)
def test_a_record_without_what_is_wanted_is_answered_not_trapped(
    guest: Guest, kind: int, data: bytes
) -> None:
    assert guest.record(kind, b"rack.left.event", data) != 0


SCALARS = st.one_of(
    st.integers(-(2**64), 2**64 - 1), st.floats(), st.booleans(), st.none(), st.text(max_size=30),
    st.binary(max_size=30),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=25,
)
NUMBERS = st.one_of(st.integers(-(2**64), 2**64 - 1), st.floats())
RELAXED = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@RELAXED
@given(others=st.dictionaries(st.text(max_size=6), VALUES, max_size=8), x=NUMBERS, canonical=st.booleans())
def test_a_number_is_found_and_read_among_anything(
    guest: Guest, others: dict[str, Any], x: float, canonical: bool
) -> None:
    data = cbor2.dumps({**others, "x": x}, canonical=canonical)
    read = answer(guest, NUMBER, data)
    assert read["found"] is True
    assert read["failed"] is False
    # What is not finite is written as null.
    assert read["x"] == (float(x) if math.isfinite(x) else None)


@pytest.mark.parametrize(
    "x", [-(2**64), -(2**64) + 1, -(2**53) - 1, -10_927_100_628_926_986, 2**64 - 1, 2**53 + 1]
)
def test_a_large_integer_is_rounded_once(guest: Guest, x: int) -> None:
    assert answer(guest, NUMBER, cbor.encode({"x": x}))["x"] == float(x)


@pytest.mark.parametrize(
    "bits", [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0xC500, 0x7BFF, 0x7C00, 0xFE00]
)
def test_every_kind_of_short_float_is_read(guest: Guest, bits: int) -> None:
    x = float(np.frombuffer(struct.pack("<H", bits), np.float16)[0])
    read = answer(guest, NUMBER, b"\xa1\x61x\xf9" + struct.pack(">H", bits))
    assert read["x"] == (x if math.isfinite(x) else None)


@RELAXED
@given(value=VALUES, behind=st.binary(max_size=10))
def test_a_whole_item_is_skipped_to_its_last_byte(guest: Guest, value: Any, behind: bytes) -> None:
    read = answer(guest, SKIP, cbor.encode(value) + behind)
    assert read == {"failed": False, "left": len(behind)}


@RELAXED
@given(value=VALUES, cut=st.integers(1, 10_000))
def test_an_item_that_is_cut_off_fails(guest: Guest, value: Any, cut: int) -> None:
    data = cbor.encode(value)
    read = answer(guest, SKIP, data[: len(data) - 1 - cut % len(data)])
    assert read == {"failed": True, "left": 0}


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), kind=st.sampled_from([METER, EVENT, NUMBER, SKIP]))
def test_garbage_never_traps_and_takes_linear_time(guest: Guest, data: bytes, kind: int) -> None:
    guest.record(kind, b"", data)
    assert guest.blocks[-1] < FUEL_A_CALL + FUEL_A_BYTE * len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x81" * 30_000,
        b"\xc1" * 30_000,
        b"\x9b" + b"\xff" * 8 + b"\x00" * 1_000,
        b"\xbb" + b"\xff" * 8,
        b"\xbf" + b"\x61x" * 100,
        b"\x7b" + b"\xff" * 8,
        b"\xa1\x7b" + struct.pack(">Q", 2**32 + 1) + b"x",
        b"\xb9\xff\xff" + b"\x60\x81" * 15_000,
    ],
    ids=["nested arrays", "nested tags", "endless array", "endless map", "indefinite map", "endless text",
         "a key of 4 GiB", "a map of arrays"],
)  # fmt: skip
@pytest.mark.parametrize("kind", [NUMBER, SKIP])
def test_claims_of_size_and_depth_fail_in_linear_time(guest: Guest, data: bytes, kind: int) -> None:
    assert answer(guest, kind, data)["failed"] is True
    assert guest.blocks[-1] < FUEL_A_CALL + FUEL_A_BYTE * len(data)


MATH: dict[int, tuple[Callable[[Any], Any], npt.NDArray[np.float64]]] = {
    0: (np.exp, np.linspace(-700, 700, 1001)),
    1: (np.log, np.geomspace(1e-300, 1e300, 1001)),
    2: (np.sin, np.linspace(-100, 100, 1001)),
    3: (np.cos, np.linspace(-100, 100, 1001)),
    4: (lambda x: 10 ** (x / 20), np.linspace(-150, 60, 1001)),
    5: (lambda x: 20 * np.log10(x), np.geomspace(1e-8, 1e3, 1001)),
    6: (lambda x: 10 * np.log10(x), np.geomspace(1e-15, 1e6, 1001)),
}


@pytest.mark.parametrize("number", MATH)
def test_the_mathematics_for_c_is_numpys(c_guest: Guest, number: int) -> None:
    function, inputs = MATH[number]
    read = np.array([c_guest.call("math", number, float(x)) for x in inputs])
    assert np.allclose(read, function(inputs), rtol=1e-13, atol=1e-14)


def test_the_mathematics_for_c_ends_where_doubles_do(c_guest: Guest) -> None:
    assert c_guest.call("math", 0, -1e9) == 0.0
    assert c_guest.call("math", 0, 1e9) == np.finfo(np.float64).max
    assert (
        c_guest.call("math", 1, 0.0) == c_guest.call("math", 1, -1.0) == pytest.approx(math.log(2.0**-1022))
    )
    assert [c_guest.call("math", 7, x) for x in (1.0, math.inf, -math.inf, math.nan)] == [1.0, 0.0, 0.0, 0.0]
