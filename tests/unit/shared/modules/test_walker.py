"""The section walker: what it finds, and everything it refuses, each for its reason."""

from __future__ import annotations

import itertools

import pytest

from stagebox.errors import ModuleError
from stagebox.modules.limits import LIMITS
from stagebox.modules.walker import PREAMBLE, custom_section, encode_u32, read_u32, walk
from support.forging import padded_u32
from support.modules import assemble, gain_wat, unsigned_module

MEMORY = b"\x05\x03\x01\x00\x01"
TYPE = b"\x01\x01\x00"
ORDER = (1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11)


def refusal(data: bytes) -> str:
    with pytest.raises(ModuleError) as refused:
        walk(data)
    return refused.value.code


def test_every_byte_of_a_real_module_belongs_to_one_section() -> None:
    data = unsigned_module()
    sections = walk(data)
    assert sections[0].start == len(PREAMBLE)
    assert sections[-1].end == len(data)
    assert all(one.end == other.start for one, other in itertools.pairwise(sections))
    assert [section.id for section in sections if section.name is None] == [1, 3, 5, 6, 7, 10]
    assert sections[-1].name == "stagebox.params"
    assert data[sections[-1].content - len("stagebox.params") : sections[-1].content] == b"stagebox.params"


def test_a_module_without_sections_is_a_module() -> None:
    assert walk(PREAMBLE) == ()


def test_sections_of_all_kinds_are_in_the_order_of_the_specification() -> None:
    data = PREAMBLE + b"".join(bytes((number, 0)) for number in ORDER)
    assert tuple(section.id for section in walk(data)) == ORDER


@pytest.mark.parametrize("number", ORDER)
def test_no_section_may_be_there_twice(number: int) -> None:
    assert refusal(PREAMBLE + bytes((number, 0)) * 2) == "duplicate_section"


@pytest.mark.parametrize(("first", "second"), list(itertools.pairwise(ORDER)))
def test_no_section_may_come_before_the_one_it_follows(first: int, second: int) -> None:
    assert refusal(PREAMBLE + bytes((second, 0, first, 0))) == "section_order"


def test_a_section_that_comes_again_after_others_is_told_as_there_twice() -> None:
    assert refusal(PREAMBLE + TYPE + MEMORY + TYPE) == "duplicate_section"


def test_custom_sections_may_be_anywhere_and_share_a_name() -> None:
    note = custom_section("note", b"x")
    assert [section.id for section in walk(PREAMBLE + note + TYPE + note + MEMORY + note)] == [0, 1, 0, 5, 0]


@pytest.mark.parametrize("number", [14, 15, 0x40, 0x80, 0xFF])
def test_an_unknown_section_is_refused(number: int) -> None:
    assert refusal(PREAMBLE + bytes((number, 0))) == "unknown_section"


@pytest.mark.parametrize("size", range(len(PREAMBLE)))
def test_a_part_of_the_preamble_is_refused(size: int) -> None:
    assert refusal(PREAMBLE[:size]) == "bad_preamble"


def test_the_text_format_is_refused() -> None:
    assert refusal(gain_wat().strip().encode()) == "bad_preamble"


def test_a_component_is_refused() -> None:
    assert refusal(b"\0asm\x0d\0\1\0") == "bad_preamble"


def test_another_version_of_the_binary_format_is_refused() -> None:
    assert refusal(b"\0asm\2\0\0\0" + TYPE) == "bad_preamble"


def test_bytes_before_the_preamble_are_refused() -> None:
    assert refusal(b"\n" + unsigned_module()) == "bad_preamble"


def test_a_section_that_runs_past_the_file_is_refused() -> None:
    assert refusal(PREAMBLE + b"\x01\x02\x00") == "overrun"


def test_a_section_of_four_gibibytes_is_refused() -> None:
    assert refusal(PREAMBLE + b"\x01\xff\xff\xff\xff\x0f" + bytes(64)) == "overrun"


def test_a_section_without_a_size_is_refused() -> None:
    assert refusal(PREAMBLE + b"\x01") == "overrun"


def test_a_size_that_ends_with_the_file_is_refused() -> None:
    assert refusal(PREAMBLE + b"\x01\x80\x80") == "overrun"


def test_one_byte_after_the_last_section_is_refused() -> None:
    for byte in range(14):
        assert refusal(unsigned_module() + bytes((byte,))) == "overrun"


def test_a_module_cut_anywhere_but_between_sections_is_refused() -> None:
    data = unsigned_module()
    ends = {len(PREAMBLE), *(section.end for section in walk(data))}
    for size in range(len(data)):
        if size not in ends:
            assert refusal(data[:size]) in {"bad_preamble", "overrun"}


def test_a_number_of_six_bytes_is_refused() -> None:
    assert refusal(PREAMBLE + b"\x01\x81\x80\x80\x80\x80\x00\x00") == "leb_too_long"


@pytest.mark.parametrize("last", [0x10, 0x20, 0x40, 0x7F])
def test_a_number_of_over_32_bits_is_refused(last: int) -> None:
    assert refusal(PREAMBLE + b"\x01\x81\x80\x80\x80" + bytes((last,)) + b"\x00") == "leb_overflow"


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_linkers_may_pad_the_size_of_an_ordinary_section(size: int) -> None:
    (section,) = walk(PREAMBLE + b"\x01" + padded_u32(1, size) + b"\x00")
    assert (section.payload, section.end) == (9 + size, 10 + size)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16_383, 16_384, 2**28 - 1, 2**28, 2**32 - 1])
def test_a_number_reads_as_it_was_written(value: int) -> None:
    encoded = encode_u32(value)
    assert read_u32(encoded, 0, len(encoded)) == (value, len(encoded))
    for size in range(len(encoded), 6):
        assert read_u32(padded_u32(value, size), 0, size) == (value, size)


def test_a_number_over_32_bits_is_not_written() -> None:
    with pytest.raises(ValueError, match="32 unsigned bits"):
        encode_u32(1 << 32)


def test_a_custom_section_without_room_for_its_name_is_refused() -> None:
    assert refusal(PREAMBLE + b"\x00\x03\x04abcdef") == "overrun"


def test_an_empty_custom_section_is_refused() -> None:
    assert refusal(PREAMBLE + b"\x00\x00") == "overrun"


def test_a_name_length_that_reaches_into_the_next_section_is_refused() -> None:
    assert refusal(PREAMBLE + b"\x00\x01\x80" + TYPE) == "overrun"


@pytest.mark.parametrize(
    "name", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3", b"\xe2\x82", b"\x80"]
)
def test_a_name_that_is_not_utf8_is_refused(name: bytes) -> None:
    payload = encode_u32(len(name)) + name
    assert refusal(PREAMBLE + b"\x00" + encode_u32(len(payload)) + payload) == "not_utf8"


def test_a_name_over_the_limit_is_refused() -> None:
    most = LIMITS.max_section_name_bytes
    assert walk(PREAMBLE + custom_section("a" * most, b""))[0].name == "a" * most
    assert refusal(PREAMBLE + custom_section("a" * (most + 1), b"")) == "name_too_long"


def test_sections_over_the_limit_are_refused() -> None:
    note = custom_section("", b"")
    assert len(walk(PREAMBLE + note * LIMITS.max_sections)) == LIMITS.max_sections
    assert refusal(PREAMBLE + note * (LIMITS.max_sections + 1)) == "too_many_sections"


def test_a_file_over_the_limit_is_refused_before_it_is_read() -> None:
    assert refusal(bytes(LIMITS.max_module_bytes + 1)) == "too_large"


def test_a_file_of_the_largest_size_is_walked() -> None:
    note = custom_section("note", bytes(LIMITS.max_module_bytes - len(PREAMBLE) - 10))
    data = PREAMBLE + note
    assert len(data) == LIMITS.max_module_bytes
    assert walk(data)[0].end == len(data)


def test_sections_cannot_be_hidden_in_a_section() -> None:
    hidden = custom_section("outer", custom_section("inner", b""))
    assert [section.name for section in walk(assemble("(module)") + hidden)] == ["outer"]
