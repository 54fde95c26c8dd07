"""The sections that say what a module imports and exports, malformed in every way, each for its reason."""

from __future__ import annotations

import pytest

from stagebox.errors import ModuleError
from stagebox.modules.limits import LIMITS
from stagebox.modules.reading import read_interface
from stagebox.modules.walker import PREAMBLE, encode_u32, walk
from support.modules import assemble

WHOLE = """(module (import "stagebox" "emit" (func (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1 2) (table 1 2 funcref) (global i32 (i32.const 7))
  (func (export "process") (param i32) (result i32) (local.get 0)))"""
VOID = (1, b"\x01\x60\x00\x00")


def raw(*sections: tuple[int, bytes]) -> bytes:
    """Return a module of sections with any contents."""
    return PREAMBLE + b"".join(
        bytes((number,)) + encode_u32(len(content)) + content for number, content in sections
    )


def refusal(wasm: bytes) -> str:
    with pytest.raises(ModuleError) as refused:
        read_interface(wasm, walk(wasm))
    return refused.value.code


@pytest.mark.parametrize(
    ("sections", "code"),
    [
        ([(5, b"\x01\x01\x01\x81\x80\x04")], "malformed"),
        ([(5, b"\x01\x09\x01\x01\x00")], "unknown_type"),
        ([(5, b"\x01\x05\x01\x01")], "memory64"),
        ([(13, b"\x01\x00\x00")], "tags"),
        ([(1, b"")], "overrun"),
        ([(1, b"\x01")], "overrun"),
        ([(1, b"\x01\x60\x01")], "overrun"),
        ([(1, b"\x00\x00")], "malformed"),
        ([(1, b"\x01\x60\x00\x00\x00")], "malformed"),
        ([(1, b"\x01\x5f\x00")], "unknown_type"),
        ([(1, b"\x01\x5e\x7f\x00")], "unknown_type"),
        ([(1, b"\x01\x4e\x01\x60\x00\x00")], "unknown_type"),
        ([(1, b"\x01\x60\x01\x63\x00")], "unknown_type"),
        ([(1, b"\xff\xff\xff\xff\x0f")], "too_many_items"),
        ([(1, b"\x01\x60\xff\xff\x03\x00")], "too_many_items"),
        ([(1, b"\x05\x60\x00\x00")], "overrun"),
        ([VOID, (2, b"\x01\x01m\x01n\x00\x01")], "malformed"),
        ([VOID, (2, b"\x01\x01m\x01n\x05\x00")], "malformed"),
        ([VOID, (2, b"\x01\x01\xff\x01n\x00\x00")], "not_utf8"),
        ([VOID, (2, b"\x01\x7fm\x01n\x00\x00")], "overrun"),
        ([VOID, (2, b"\x01" + encode_u32(1_025) + b"m" * 1_025 + b"\x01n\x00\x00")], "name_too_long"),
        ([VOID, (3, b"\x01\x01")], "malformed"),
        ([(3, b"\x01\x00")], "malformed"),
        (
            [VOID, (3, encode_u32(LIMITS.max_functions + 1) + bytes(LIMITS.max_functions + 1))],
            "too_many_items",
        ),
        ([(4, b"\x01\x7f\x00\x01")], "unknown_type"),
        ([(4, b"\x01\x40\x00\x70\x00\x01\xd0\x70\x0b")], "unknown_type"),
        ([(4, b"\x01\x70\x03\x01\x01")], "unknown_type"),
        ([(4, b"\x01\x70\x01\x02\x01")], "malformed"),
        ([(5, b"\x01\x01\x02\x01")], "malformed"),
        ([(5, b"\x01\x00\x80\x80\x80\x80\x80\x00")], "leb_too_long"),
        ([(5, b"\x01\x00\x80\x80\x80\x80\x10")], "leb_overflow"),
        ([(6, b"\x01\x7f\x02\x41\x00\x0b")], "malformed"),
        ([(6, b"\x01\x60\x00\x41\x00\x0b")], "unknown_type"),
        ([(6, b"\x01\x7f\x00\x41\x00")], "overrun"),
        ([(6, b"\x01\x7f\x00\x41\x80")], "overrun"),
        ([(6, b"\x01\x7f\x00\x41\x80\x80\x80\x80\x80\x00\x0b")], "leb_too_long"),
        ([(6, b"\x01\x7d\x00\x43\x00\x00\x0b")], "overrun"),
        ([(6, b"\x01\x7f\x00\x10\x00\x0b")], "malformed"),
        ([(6, b"\x01\x7b\x00\xfd\x0f\x00\x0b")], "malformed"),
        ([(6, b"\x01\x7f\x00" + b"\x6a" * LIMITS.max_constant_bytes + b"\x0b")], "too_large"),
        ([(7, b"\x01\x01a\x00\x00")], "malformed"),
        ([(7, b"\x01\x01a\x01\x00")], "malformed"),
        ([(7, b"\x01\x01a\x02\x00")], "malformed"),
        ([(7, b"\x01\x01a\x03\x00")], "malformed"),
        ([(7, b"\x01\x01a\x04\x00")], "tags"),
        ([(7, b"\x01\x01a\x05\x00")], "malformed"),
        ([(5, b"\x01\x00\x01"), (7, b"\x02\x01a\x02\x00\x01a\x02\x00")], "duplicate_export"),
    ],
)
def test_a_malformed_section_is_refused(sections: list[tuple[int, bytes]], code: str) -> None:
    assert refusal(raw(*sections)) == code


def test_each_beginning_of_each_section_is_refused() -> None:
    wasm = assemble(WHOLE)
    sections = [(section.id, wasm[section.content : section.end]) for section in walk(wasm)]
    for place, (number, content) in enumerate(sections):
        if number in (1, 2, 3, 4, 5, 6, 7):
            for size in range(len(content)):
                cut = [*sections[:place], (number, content[:size]), *sections[place + 1 :]]
                assert refusal(raw(*cut)) == "overrun"
