from __future__ import annotations

import contextlib
import dataclasses
import math
from array import array
from typing import Any

import pytest
from cbor2 import CBORTag
from hypothesis import given
from hypothesis import strategies as st

from stagebox import cbor
from stagebox.errors import DecodeError
from stagebox.limits import LIMITS
from stagebox.records.audio import AudioPacket
from stagebox.records.digest import record_digest
from stagebox.records.event import Event
from stagebox.records.meter import CHANNEL_KEYS, METER_FLOOR_DB, MeterFrame, ProgrammeLevels, levels
from stagebox.records.module import ModuleRecord
from stagebox.records.status import Status
from support.frames import meter_frame

Record = MeterFrame | AudioPacket | Status | Event | ModuleRecord
BOOT = bytes(range(16))
UINT64, UINT32 = st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1)
HUNDREDTHS = st.integers(round(METER_FLOOR_DB * 100), 1_200).map(lambda value: value / 100)
JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 40), 1 << 40)
    | st.text(max_size=10)
    | st.floats(allow_nan=False),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=5,
)
TABLE = st.dictionaries(st.text(max_size=8), JSON_LIKE, max_size=4)
EXTRA = st.dictionaries(st.text(max_size=8).map(lambda key: f"x-{key}"), JSON_LIKE, max_size=3)


@st.composite
def meters(draw: st.DrawFn) -> MeterFrame:
    channels = draw(st.integers(1, LIMITS.max_channels))

    def array_of(count: int, values: st.SearchStrategy[float] = HUNDREDTHS) -> array[float]:
        return levels(draw(st.lists(values, min_size=count, max_size=count)))

    def programme() -> ProgrammeLevels:
        return ProgrammeLevels(*array_of(len(dataclasses.fields(ProgrammeLevels))))

    arrays: dict[str, Any] = {name: array_of(channels) for name in CHANNEL_KEYS}
    return MeterFrame(
        draw(UINT64), draw(st.binary(min_size=16, max_size=16)), draw(UINT64), draw(UINT64), draw(UINT32),
        draw(UINT32), **arrays, flags=draw(st.binary(min_size=channels, max_size=channels)),
        correlation=array_of(channels // 2, st.integers(-100, 100).map(lambda value: value / 100)),
        programmes=tuple(programme() for _ in range(draw(st.integers(0, 3)))), extra=draw(EXTRA),
    )  # fmt: skip


HEADER = (UINT64, st.binary(min_size=16, max_size=16), UINT64)
RECORDS: st.SearchStrategy[Record] = (
    meters()
    | st.builds(
        AudioPacket, *HEADER, UINT64, UINT32, UINT32, st.integers(0, 255), st.binary(max_size=99), extra=EXTRA
    )
    | st.builds(Status, *HEADER, st.text(max_size=10), TABLE, EXTRA)
    | st.builds(Event, *HEADER, st.text(max_size=20), TABLE, EXTRA)
    | st.builds(ModuleRecord, *HEADER, *[st.text(max_size=20)] * 4, UINT64, TABLE, EXTRA)
)
SAMPLES: list[Record] = [
    meter_frame(1, BOOT, time_ns=2, start=3),
    AudioPacket(1, BOOT, 2, 3, 960, 48_000, 2, b"opus"),
    Status(1, BOOT, 2, "running", {"uptime_s": 1.5}),
    Event(1, BOOT, 2, "gap", {"frames": 480}),
    ModuleRecord(1, BOOT, 2, "spl", "1.2.0", "spl-main", "main", 480, {"laeq": -23.5}),
]


def fields_of(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = cbor.decode_trusted(record.encode(), max_bytes=LIMITS.max_record_bytes)
    return found


@given(RECORDS)
def test_a_record_decodes_to_itself_and_encodes_to_the_same_bytes(record: Record) -> None:
    data = record.encode()
    found = type(record).decode(data)
    assert found == record
    assert found.encode() == data
    assert cbor.encode(cbor.decode_trusted(data, max_bytes=LIMITS.max_record_bytes)) == data


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_unknown_fields_are_kept(record: Record) -> None:
    data = cbor.encode({**fields_of(record), "future": {"a": [1, None]}})
    found = type(record).decode(data)
    assert found.extra == {"future": {"a": [1, None]}}
    assert found.encode() == data


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
@pytest.mark.parametrize("version", [0, 3, "1", True, None])
def test_an_unknown_version_is_refused(record: Record, version: object) -> None:
    with pytest.raises(DecodeError, match=r"version|'v'"):
        type(record).decode(cbor.encode({**fields_of(record), "v": version}))


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_a_missing_field_is_named(record: Record) -> None:
    fields = fields_of(record)
    for name in fields:
        with pytest.raises(DecodeError, match=f"no '{name}'"):
            type(record).decode(cbor.encode({key: value for key, value in fields.items() if key != name}))


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
@pytest.mark.parametrize("wrong", [None, True, -1, 1 << 64, b"x", [1], CBORTag(85, b"123")])
def test_a_field_of_the_wrong_type_or_range_is_refused(record: Record, wrong: object) -> None:
    fields = fields_of(record)
    for name in fields:
        if name == "data" and wrong == b"x" and isinstance(record, AudioPacket):
            continue
        with pytest.raises(DecodeError):
            type(record).decode(cbor.encode({**fields, name: wrong}))


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_every_truncation_is_refused(record: Record) -> None:
    data = record.encode()
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            type(record).decode(data[:length])


@given(st.sampled_from(SAMPLES), st.binary(max_size=80))
def test_arbitrary_bytes_are_a_decode_error(record: Record, data: bytes) -> None:
    with pytest.raises(DecodeError):
        type(record).decode(data)


@given(st.sampled_from(SAMPLES), st.data())
def test_a_flipped_bit_changes_the_digest_and_never_crashes_the_decoder(
    record: Record, draw: st.DataObject
) -> None:
    data = bytearray(record.encode())
    data[draw.draw(st.integers(0, len(data) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    assert record_digest("rack.r.status", bytes(data)) != record_digest("rack.r.status", record.encode())
    with contextlib.suppress(DecodeError):
        type(record).decode(bytes(data))


def test_an_oversized_record_is_refused() -> None:
    packet = AudioPacket(1, BOOT, 2, 3, 960, 48_000, 2, bytes(LIMITS.max_record_bytes))
    with pytest.raises(DecodeError, match="larger"):
        AudioPacket.decode(packet.encode())


def test_levels_are_hundredths_in_an_rfc_8746_array_of_little_endian_int16() -> None:
    frame = meter_frame(1, BOOT, channels=1, peak=-6.5)
    assert bytes.fromhex("647065616b d84d42 76fd") in frame.encode()


def test_what_has_no_value_is_not_a_level() -> None:
    none = levels([math.nan, -20.0])
    frame = dataclasses.replace(meter_frame(1, BOOT), ppm1=none, correlation=levels([math.nan]))
    data = frame.encode()
    found = MeterFrame.decode(data)
    assert math.isnan(found.ppm1[0])
    assert math.isnan(found.correlation[0])
    assert found.ppm1[1] == pytest.approx(-20.0)
    assert found.encode() == data


@pytest.mark.parametrize("value", [1e9, -1e9, math.inf, -math.inf])
def test_a_level_out_of_range_is_the_end_of_the_range_and_never_no_value(value: float) -> None:
    found = MeterFrame.decode(dataclasses.replace(meter_frame(1, BOOT), vu=levels([value, 0.0])).encode())
    assert found.vu[0] == pytest.approx(math.copysign(327.67, value))


def test_64_channels_fit_a_frame_of_one_and_a_half_kibibytes() -> None:
    frame = meter_frame((1 << 64) - 1, BOOT, time_ns=(1 << 64) - 1, start=(1 << 64) - 1, channels=64)
    full = dataclasses.replace(frame, programmes=frame.programmes * LIMITS.max_programmes)
    assert len(full.correlation) == 32
    assert len(full.encode()) <= 1536


@pytest.mark.parametrize("tag", [72, 76, 78, 85, 64])
def test_an_array_of_another_layout_is_refused(tag: int) -> None:
    with pytest.raises(DecodeError, match=r"tag 77|expected CBORTag"):
        MeterFrame.decode(cbor.encode({**fields_of(SAMPLES[0]), "peak": CBORTag(tag, bytes(4))}))


@pytest.mark.parametrize("name", list(CHANNEL_KEYS.values()))
@pytest.mark.parametrize("size", [0, 2, 3, 6, 2 * 65])
def test_arrays_of_another_number_of_channels_are_refused(name: str, size: int) -> None:
    with pytest.raises(DecodeError):
        MeterFrame.decode(cbor.encode({**fields_of(SAMPLES[0]), name: CBORTag(77, bytes(size))}))


def test_more_channels_or_programmes_than_allowed_are_refused() -> None:
    frame = meter_frame(1, BOOT, channels=LIMITS.max_channels + 1)
    with pytest.raises(DecodeError, match="65"):
        MeterFrame.decode(frame.encode())
    one = meter_frame(1, BOOT)
    many = dataclasses.replace(one, programmes=one.programmes * (LIMITS.max_programmes + 1))
    with pytest.raises(DecodeError, match="programmes"):
        MeterFrame.decode(many.encode())


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)


@given(TEXT, st.binary(max_size=60), TEXT, st.binary(max_size=60))
def test_a_digest_belongs_to_one_subject_and_one_payload(
    subject: str, payload: bytes, other_subject: str, other_payload: bytes
) -> None:
    same = (subject, payload) == (other_subject, other_payload)
    assert (record_digest(subject, payload) == record_digest(other_subject, other_payload)) is same


def test_moving_bytes_between_subject_and_payload_changes_the_digest() -> None:
    assert record_digest("rack.a", b"b") != record_digest("rack.ab", b"")
    assert len(record_digest("rack.a", b"b")) == 32
