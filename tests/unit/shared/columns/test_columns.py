"""Typed columns: whatever was journalled comes back to the byte, and what is known can be asked for."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox import cbor
from stagebox.columns import table as table_module
from stagebox.columns.parquet import read_parquet, to_parquet
from stagebox.columns.table import COMMON, KINDS, kind_tables, mixed_table, records_of, records_of_kind
from stagebox.errors import DecodeError, VerificationError
from stagebox.records.event import Event
from stagebox.records.status import Status
from stagebox.records.walbatch import WalRecord
from support.frames import meter_frame
from support.module_records import module_record

BOOT = bytes(range(16))

json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=8)
    | st.floats(allow_nan=False, width=32) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@st.composite
def meter_records(draw: st.DrawFn) -> bytes:
    level = draw(st.sampled_from([-20.0, math.nan, -150.0, 3.14]))
    fields: dict[str, Any] = draw(st.sampled_from([{}, {"programmes": ()}, {"extra": {"new": 1}}]))
    frame = meter_frame(
        draw(st.integers(0, 70_000)),
        BOOT,
        time_ns=draw(st.integers(0, (1 << 64) - 1)),
        start=draw(st.sampled_from([0, 23, 24, 255, 256, 1 << 33])),
        channels=draw(st.sampled_from([1, 2, 5])),
        peak=level,
        **fields,
    )
    return frame.encode()


records = st.one_of(
    st.builds(lambda data: WalRecord("meter", 5, "rack.a.meter.m", data), meter_records()),
    st.builds(
        lambda kind, seq, detail: WalRecord(
            kind, 5, f"rack.a.{kind}", Event(seq, BOOT, 7, "x", detail).encode()
        ),
        st.sampled_from(["event", "alert"]),
        st.integers(0, 1 << 40),
        st.dictionaries(st.text(max_size=4), json_like, max_size=3),
    ),
    st.builds(
        lambda body: WalRecord("status", 5, "rack.a.status", Status(1, BOOT, 7, "running", body).encode()),
        st.dictionaries(st.text(max_size=4), json_like, max_size=3),
    ),
    st.builds(
        lambda seq, data: WalRecord(
            "module", 5, "rack.a.module.spl.leq", module_record(seq, BOOT, data=data).encode()
        ),
        st.integers(0, 1 << 40),
        st.dictionaries(st.text(max_size=4), json_like, max_size=3),
    ),
    st.builds(
        lambda kind, data: WalRecord(kind, 5, "rack.a.x", data),
        st.sampled_from([*KINDS, "unheard-of"]),
        st.binary(max_size=40) | st.builds(cbor.encode, json_like),
    ),
)


@given(st.lists(st.lists(records, min_size=1, max_size=6), min_size=1, max_size=5))
def test_every_record_comes_back_to_the_byte_in_both_layouts(batches: list[list[WalRecord]]) -> None:
    first, number = [], 1
    for batch in batches:
        first.append(number)
        number += len(batch)
    flat = [record for batch in batches for record in batch]
    table = mixed_table(first, batches)
    assert table["seq"].to_pylist() == list(range(1, number))
    assert records_of(table) == [record.data for record in flat]
    stored = read_parquet(to_parquet(table, bytes(32)), bytes(32), "the file")
    assert records_of(stored) == [record.data for record in flat]
    for kind, rows in kind_tables(first, batches).items():
        mine = [(number, record.data) for number, record in enumerate(flat, 1) if record.kind == kind]
        assert rows["seq"].to_pylist() == [number for number, _ in mine]
        assert records_of_kind(rows, kind) == [data for _, data in mine]


def test_meter_frames_need_no_bytes_of_their_own_and_can_be_asked_into() -> None:
    frames = [meter_frame(n, BOOT, time_ns=n, start=n * 2400, peak=-20.0 - n).encode() for n in range(1, 400)]
    batch = [WalRecord("meter", n, "rack.a.meter.main", data) for n, data in enumerate(frames, 1)]
    table = kind_tables([1], [batch])["meter"]
    assert table["data"].null_count == len(frames)
    assert pc.list_element(table["peak"], 0).to_pylist()[:3] == [-2100, -2200, -2300]
    assert len(to_parquet(table, bytes(32))) < sum(map(len, frames)) / 4
    assert records_of_kind(table.slice(100, 50), "meter") == frames[100:150]


def test_a_level_without_a_value_is_null() -> None:
    data = meter_frame(1, BOOT, peak=math.nan).encode()
    table = kind_tables([1], [[WalRecord("meter", 1, "rack.a.meter.main", data)]])["meter"]
    assert table["peak"].to_pylist() == [[None, None]]
    assert records_of_kind(table, "meter") == [data]


def test_more_shapes_than_are_worth_it_are_kept_as_bytes() -> None:
    frames = [meter_frame(1, BOOT, start=1 << n, time_ns=1 << (n % 60)).encode() for n in range(60)]
    frames += [data + b"\0" for data in frames]
    batch = [WalRecord("meter", 1, "rack.a.meter.main", data) for data in frames]
    assert records_of(mixed_table([1], [batch])) == frames


def test_a_row_with_neither_bytes_nor_columns_is_an_error() -> None:
    table = mixed_table([1], [[WalRecord("odd", 1, "rack.a.odd", b"x")]])
    hollow = table.set_column(table.schema.get_field_index("data"), "data", pa.nulls(1, pa.binary()))
    with pytest.raises(DecodeError, match="no bytes and no columns"):
        records_of(hollow)


def test_another_key_is_a_clear_error() -> None:
    data = to_parquet(pa.table({"seq": pa.array([1], pa.uint64())}), bytes(32))
    with pytest.raises(VerificationError, match="the lake's file does not decrypt"):
        read_parquet(data, b"\1" * 32, "the lake's file")


# Whatever a rack, or a module on it, calls a map: keys that are no text, and a list that contains itself.
ODD_MAPS = {
    "a key is bytes": bytes.fromhex("a1 41 6b 01"),
    "a key further in is bytes": bytes.fromhex("a1 61 61 a1 41 6b 01"),
    "a list in itself": bytes.fromhex("a1 61 61 d8 1c 81 d8 1d 00"),
}


@pytest.mark.parametrize("odd", ODD_MAPS.values(), ids=ODD_MAPS)
@pytest.mark.parametrize(("kind", "key"), [("event", "detail"), ("status", "body"), ("module", "data")])
def test_a_map_that_is_no_json_is_kept_as_bytes_and_stops_nothing(kind: str, key: str, odd: bytes) -> None:
    made = {
        "event": Event(1, BOOT, 7, "x", {}).encode(),
        "status": Status(1, BOOT, 7, "running", {}).encode(),
        "module": module_record(1, BOOT, data={}).encode(),
    }[kind]
    empty = cbor.encode(key) + b"\xa0"
    assert made.count(empty) == 1
    batch = [
        WalRecord(kind, 5, "rack.a.x", made),
        WalRecord(kind, 5, "rack.a.x", made.replace(empty, cbor.encode(key) + odd)),
    ]
    table = kind_tables([1], [batch])[kind]
    assert records_of_kind(table, kind) == [record.data for record in batch]
    assert [boot is None for boot in table["boot"].to_pylist()] == [False, True]
    assert records_of(mixed_table([1], [batch])) == [record.data for record in batch]


def test_what_a_module_said_can_be_asked_for_and_is_kept_to_the_byte_beside_it() -> None:
    said = [
        module_record(1, BOOT, time_ns=7),
        module_record(2, BOOT, source="", start=0, data={"digest": b"\1\2", "level": math.nan}),
        module_record(3, BOOT, extra={"later": 1}),
    ]
    batch = [WalRecord("module", 5, "rack.a.module.spl.leq", record.encode()) for record in said]
    table = kind_tables([1], [batch])["module"]
    assert table["data"].to_pylist() == [record.data for record in batch]
    first, second, third = table.drop_columns(["data"]).to_pylist()
    assert first == {
        "seq": 1, "batch": 1, "kind": "module", "time_ns": 5, "subject": "rack.a.module.spl.leq",
        "module_seq": 1, "boot": BOOT, "recorded_ns": 7, "module": "spl", "version": "1.2.0",
        "insert": "spl-main", "source": "main", "start": 48_000, "detail": '{"laeq":-21.5,"seconds":1}',
    }  # fmt: skip
    assert (second["source"], second["detail"]) == ("", '{"level":NaN,"digest":"0102"}')
    assert third["module_seq"] == 3


def test_software_that_knows_no_module_records_reads_and_writes_the_same_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = module_record(1, BOOT).encode()
    event = Event(1, BOOT, 7, "clip", {"channel": 1}).encode()
    batch = [
        WalRecord("module", 5, "rack.a.module.spl.leq", said),
        WalRecord("event", 5, "rack.a.event", event),
    ]
    present = kind_tables([1], [batch])["module"], mixed_table([1], [batch])
    with monkeypatch.context() as earlier:
        earlier.setattr(table_module, "KINDS", {name: KINDS[name] for name in KINDS if name != "module"})
        assert records_of_kind(present[0].select(COMMON.names), "module") == [said]
        assert records_of(present[1]) == [said, event]
        before = kind_tables([1], [batch])["module"], mixed_table([1], [batch])
    assert before[0].column_names == COMMON.names
    assert records_of(before[1]) == [said, event]
