from __future__ import annotations

import contextlib
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
from stagebox.records.meter import METER_FLOOR_DB, MeterFrame, levels
from stagebox.records.status import Status

Record = MeterFrame | AudioPacket | Status | Event
BOOT = bytes(range(16))
UINT64, UINT32 = st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1)
LEVEL = st.floats(METER_FLOOR_DB, 12.0, width=32)
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
    peak, rms, true_peak, momentary = (
        levels(draw(st.lists(LEVEL, min_size=channels, max_size=channels))) for _ in range(4)
    )
    return MeterFrame(
        draw(UINT64), draw(st.binary(min_size=16, max_size=16)), draw(UINT64), draw(UINT64), draw(UINT32),
        draw(UINT32), peak, rms, true_peak, momentary, draw(LEVEL), draw(EXTRA),
    )  # fmt: skip


HEADER = (UINT64, st.binary(min_size=16, max_size=16), UINT64)
RECORDS: st.SearchStrategy[Record] = (
    meters()
    | st.builds(
        AudioPacket, *HEADER, UINT64, UINT32, UINT32, st.integers(0, 255), st.binary(max_size=99), extra=EXTRA
    )
    | st.builds(Status, *HEADER, st.text(max_size=10), TABLE, EXTRA)
    | st.builds(Event, *HEADER, st.text(max_size=20), TABLE, EXTRA)
)
ONE = levels([-20.0, -6.0])
SAMPLES: list[Record] = [
    MeterFrame(1, BOOT, 2, 3, 2400, 48_000, ONE, ONE, ONE, ONE, -21.5),
    AudioPacket(1, BOOT, 2, 3, 960, 48_000, 2, b"opus"),
    Status(1, BOOT, 2, "running", {"uptime_s": 1.5}),
    Event(1, BOOT, 2, "gap", {"frames": 480}),
]


def fields_of(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = cbor.decode(record.encode(), max_bytes=LIMITS.max_record_bytes)
    return found


@given(RECORDS)
def test_a_record_decodes_to_itself_and_encodes_to_the_same_bytes(record: Record) -> None:
    data = record.encode()
    found = type(record).decode(data)
    assert found == record
    assert found.encode() == data
    cbor.decode_canonical(data, max_bytes=LIMITS.max_record_bytes)


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_unknown_fields_are_kept(record: Record) -> None:
    data = cbor.encode({**fields_of(record), "future": {"a": [1, None]}})
    found = type(record).decode(data)
    assert found.extra == {"future": {"a": [1, None]}}
    assert found.encode() == data


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
@pytest.mark.parametrize("version", [0, 2, "1", True, None])
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
        if name == "data" and wrong == b"x":
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


def test_levels_are_little_endian_binary32_in_an_rfc_8746_typed_array() -> None:
    one = levels([-6.5])
    frame = MeterFrame(1, BOOT, 2, 3, 2400, 48_000, one, one, one, one, -1.0)
    assert bytes.fromhex("647065616b d85544 0000d0c0") in frame.encode()


@pytest.mark.parametrize("tag", [80, 81, 82, 84, 86, 64])
def test_an_array_of_another_layout_is_refused(tag: int) -> None:
    with pytest.raises(DecodeError, match=r"float32|expected CBORTag"):
        MeterFrame.decode(cbor.encode({**fields_of(SAMPLES[0]), "peak": CBORTag(tag, bytes(8))}))


@pytest.mark.parametrize("name", ["peak", "rms", "tp", "m"])
@pytest.mark.parametrize("size", [0, 4, 5, 12, 4 * 65])
def test_arrays_of_another_number_of_channels_are_refused(name: str, size: int) -> None:
    with pytest.raises(DecodeError):
        MeterFrame.decode(cbor.encode({**fields_of(SAMPLES[0]), name: CBORTag(85, bytes(size))}))


def test_more_channels_than_allowed_are_refused() -> None:
    many = array("f", [0.0] * (LIMITS.max_channels + 1))
    frame = MeterFrame(1, BOOT, 2, 3, 2400, 48_000, many, many, many, many, 0.0)
    with pytest.raises(DecodeError, match="65"):
        MeterFrame.decode(frame.encode())


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
