from __future__ import annotations

import math
import time
from typing import Any

import cbor2
import pytest
from cbor2 import CBORTag
from hypothesis import given
from hypothesis import strategies as st

from stagebox import cbor
from stagebox.errors import DecodeError
from stagebox.limits import LIMITS

SIZE = 1 << 16

LEAVES: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=40)
    | st.text(max_size=20)
)
ARRAYS = st.builds(CBORTag, st.sampled_from([72, 77, 85]), st.binary(max_size=10))


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda children: (
            st.lists(children, max_size=5) | st.dictionaries(st.text(max_size=30), children, max_size=5)
        ),
        max_leaves=12,
    )


VALUES = nested(LEAVES)


def decode(data: bytes) -> Any:
    return cbor.decode(data, max_bytes=SIZE)


@given(VALUES)
def test_what_is_encoded_decodes_to_the_same_value_and_is_canonical(value: Any) -> None:
    data = cbor.encode(value)
    assert decode(data) == value
    assert cbor.decode_canonical(data, max_bytes=SIZE) == value
    assert cbor.decode_trusted(data, max_bytes=SIZE) == value


@given(nested(LEAVES | ARRAYS))
def test_records_hold_typed_arrays_too(value: Any) -> None:
    data = cbor.encode(value)
    assert cbor.decode_trusted(data, max_bytes=SIZE) == value
    assert cbor.encode(cbor.decode_trusted(data, max_bytes=SIZE)) == data


@given(VALUES, st.integers(0, (1 << 64) - 1) | st.sampled_from([72, 77, 85]), VALUES)
def test_nothing_else_holds_a_tag(before: Any, tag: int, value: Any) -> None:
    data = b"\x82" + cbor.encode(before) + cbor2.dumps(CBORTag(tag, value))
    for decoder in (cbor.decode, cbor.decode_canonical):
        with pytest.raises(DecodeError, match=f"tag {tag} "):
            decoder(data, max_bytes=SIZE)


@given(st.dictionaries(st.text(max_size=40), st.integers(0, 5), max_size=12))
def test_map_keys_are_sorted_by_their_encoded_bytes(value: dict[str, int]) -> None:
    keys = [cbor2.dumps(key) for key in cbor2.loads(cbor.encode(value))]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "00"), (23, "17"), (24, "1818"), (255, "18ff"), (256, "190100"), (1 << 32, "1b0000000100000000"),
        (-1, "20"), (-25, "3818"), (1.5, "f93e00"), (100000.0, "fa47c35000"), (1.1, "fb3ff199999999999a"),
        (math.inf, "f97c00"), (-0.0, "f98000"), ({"b": 0, "a": 1, "aa": 2}, "a361610161620062616102"),
    ],
)  # fmt: skip
def test_encoding_is_the_shortest(value: Any, expected: str) -> None:
    assert cbor.encode(value).hex() == expected


@given(st.binary(max_size=64))
def test_any_bytes_decode_or_raise_decode_error(data: bytes) -> None:
    for decoder in (cbor.decode, cbor.decode_canonical, cbor.decode_trusted):
        try:
            decoder(data, max_bytes=SIZE)
        except DecodeError:
            continue


@given(VALUES, st.data())
def test_a_damaged_item_decodes_or_raises_decode_error(value: Any, draw: st.DataObject) -> None:
    data = bytearray(cbor.encode(value))
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    for decoder in (cbor.decode, cbor.decode_canonical, cbor.decode_trusted):
        try:
            found = decoder(bytes(data), max_bytes=SIZE)
        except DecodeError:
            continue
        if decoder is cbor.decode_canonical:
            assert cbor.encode(found) == data


@given(VALUES, st.data())
def test_every_truncation_is_refused(value: Any, draw: st.DataObject) -> None:
    data = cbor.encode(value)
    cut = data[: draw.draw(st.integers(0, len(data) - 1))]
    for decoder in (cbor.decode, cbor.decode_trusted):
        with pytest.raises(DecodeError):
            decoder(cut, max_bytes=SIZE)


@given(VALUES, st.binary(min_size=1, max_size=8))
def test_trailing_bytes_are_refused(value: Any, more: bytes) -> None:
    for decoder in (cbor.decode, cbor.decode_trusted):
        with pytest.raises(DecodeError, match="follow"):
            decoder(cbor.encode(value) + more, max_bytes=SIZE)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("a2616100616101", "same key twice"),
        ("a261610078016101", "same key twice"),  # the second "a" has a longer head than it needs
        ("a1616ba2616100616101", "same key twice"),
        ("a10100", "key is not text"),
        ("a1416100", "key is not text"),
        ("a18000", "key is not text"),
        ("9fff", "indefinite"), ("bfff", "indefinite"), ("5f4101ff", "indefinite"), ("ff", "indefinite"),
        ("1c", "reserved"), ("d81c81d81d00", "tag 28"), ("c11a514b67b0", "tag 1 "), ("d8236128", "tag 35"),
        ("", "ends in the middle"), ("19ff", "middle of an item head"), ("43aabb", "past the end"),
        ("61ff", "does not decode"),  # not UTF-8
        ("f801", "does not decode"),  # a simple value in a longer form than needed
    ],
)  # fmt: skip
def test_what_a_lax_decoder_would_take_is_refused(data: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(bytes.fromhex(data))


@pytest.mark.parametrize("data", ["a2616100616101", "9fff", "5f4101ff", "a2616100616101", "61ff", "81" * 40])
def test_the_record_decoder_refuses_duplicates_indefinite_lengths_and_depth(data: str) -> None:
    with pytest.raises(DecodeError):
        cbor.decode_trusted(bytes.fromhex(data), max_bytes=SIZE)


@pytest.mark.parametrize(
    "data", ["1800", "190001", "78016b", "fb3ff8000000000000", "a2626161006162 00", "f97e01"]
)
def test_a_second_spelling_of_a_value_is_not_canonical(data: str) -> None:
    raw = bytes.fromhex(data)
    decode(raw)
    with pytest.raises(DecodeError, match="deterministically"):
        cbor.decode_canonical(raw, max_bytes=SIZE)


@pytest.mark.parametrize("initial", ["9b", "bb", "5b", "7b"])
@pytest.mark.parametrize("claim", [1 << 20, 1 << 31, 1 << 40, (1 << 64) - 1])
def test_a_huge_claim_is_refused_at_once(initial: str, claim: int) -> None:
    data = bytes.fromhex(initial) + claim.to_bytes(8, "big") + b"\0" * 16
    started = time.perf_counter()
    for decoder in (cbor.decode, cbor.decode_trusted):
        with pytest.raises(DecodeError):
            decoder(data, max_bytes=SIZE)
    assert time.perf_counter() - started < 0.5


def test_nesting_is_bounded_for_arrays_maps_and_tags() -> None:
    depth = LIMITS.max_cbor_depth
    assert decode(b"\x81" * depth + b"\0") is not None
    for opening, reason in (
        (b"\x81", "nested deeper"),
        (b"\xa1\x61k", "nested deeper"),
        (b"\xd8\x55", "tag 85"),
    ):
        with pytest.raises(DecodeError, match=reason):
            decode(opening * (depth + 1) + b"\0")
        with pytest.raises(DecodeError):
            cbor.decode_trusted(opening * 20_000 + b"\0", max_bytes=SIZE)


def test_size_is_bounded_before_anything_is_read() -> None:
    data = cbor.encode(bytes(100))
    assert cbor.decode(data, max_bytes=len(data)) == bytes(100)
    for decoder in (cbor.decode, cbor.decode_canonical, cbor.decode_trusted):
        with pytest.raises(DecodeError, match="larger than"):
            decoder(data, max_bytes=len(data) - 1)


def test_fields_are_taken_with_their_exact_type() -> None:
    fields: dict[str, Any] = {"n": 1, "b": b"ab", "t": True, "neg": -1, "big": 1 << 32}
    assert cbor.take_uint(fields, "n", "thing") == 1
    assert cbor.take_bytes(fields, "b", "thing", length=2) == b"ab"
    assert set(fields) == {"t", "neg", "big"}
    with pytest.raises(DecodeError, match="thing has no 'n'"):
        cbor.take_uint(fields, "n", "thing")
    with pytest.raises(DecodeError, match="is bool, expected int"):
        cbor.take_uint(fields, "t", "thing")
    with pytest.raises(DecodeError, match="unsigned"):
        cbor.take_uint(fields, "neg", "thing")
    with pytest.raises(DecodeError, match="32 unsigned bits"):
        cbor.take_uint(fields, "big", "thing", bits=32)


@pytest.mark.parametrize("value", [[], 1, "x", {1: 2}])
def test_only_a_map_with_text_keys_is_a_map_of_fields(value: Any) -> None:
    with pytest.raises(DecodeError, match="thing is not a CBOR map"):
        cbor.expect_map(value, "thing")


@pytest.mark.parametrize("value", [{"a": [[]] * 99}, {"a": [0] * 99}, {str(n): 0 for n in range(50)}])
def test_items_are_bounded_where_asked_for(value: dict[str, Any]) -> None:
    data = cbor.encode(value)
    for decoder in (cbor.decode, cbor.decode_canonical):
        assert decoder(data, max_bytes=SIZE, max_items=102) == decoder(data, max_bytes=SIZE) == value
        with pytest.raises(DecodeError, match="more than 100 items"):
            decoder(data, max_bytes=SIZE, max_items=100)
