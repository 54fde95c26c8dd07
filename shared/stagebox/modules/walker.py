"""The sections of a Wasm file, found without believing anything in it.

One pass over the section heads; no section's content is read, but for the name of a custom one. What an engine would
tolerate and another would not is refused, so that everybody who reads the file sees the same sections.
"""

from __future__ import annotations

from dataclasses import dataclass

from stagebox.errors import ModuleError
from stagebox.modules.limits import LIMITS

PREAMBLE = b"\0asm\1\0\0\0"
CUSTOM = 0
TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT = 1, 2, 3, 4, 5, 6, 7
TAG = 13

# Section ids in the order in which a file has them: tag lies after memory, data count before code.
_ORDER = {number: place for place, number in enumerate((1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11))}
_U32_BYTES = 5


@dataclass(frozen=True)
class Section:
    """One section by its offsets in the file: ``start`` of the id byte, ``payload`` after the size, ``end`` after all.

    ``name`` is that of a custom section and ``content`` the offset after it; for others None and ``payload``.
    """

    id: int
    start: int
    payload: int
    end: int
    name: str | None
    content: int


def walk(data: bytes) -> tuple[Section, ...]:
    """Return all sections of a Wasm file, in its order.

    Raises:
        ModuleError: not the preamble of version 1, an unknown, repeated or misplaced section, a number or a name that
            is badly encoded or runs over its end, or a file, a name or a count over its limit.
    """
    size = len(data)
    if size > LIMITS.max_module_bytes:
        raise ModuleError("too_large", f"the module has {size} bytes, {LIMITS.max_module_bytes} are allowed")
    if data[: len(PREAMBLE)] != PREAMBLE:
        raise ModuleError(
            "bad_preamble",
            "the file does not begin as a Wasm module of version 1 does",
            remedy="give the built .wasm file: stagebox wasm build",
        )
    sections: list[Section] = []
    position, place = len(PREAMBLE), -1
    while position < size:
        if len(sections) >= LIMITS.max_sections:
            raise ModuleError("too_many_sections", f"the module has more than {LIMITS.max_sections} sections")
        section = _section(data, position)
        if section.id != CUSTOM:
            place = _next_place(section, place, sections)
        sections.append(section)
        position = section.end
    return tuple(sections)


def _next_place(section: Section, place: int, before: list[Section]) -> int:
    """Return the place of a section that is not custom, which must be behind ``place``."""
    found = _ORDER[section.id]
    if found > place:
        return found
    if any(other.id == section.id for other in before):
        raise ModuleError(
            "duplicate_section", f"section {section.id} is there twice, again at {section.start}"
        )
    raise ModuleError("section_order", f"section {section.id} at {section.start} is out of order")


def _section(data: bytes, start: int) -> Section:
    number = data[start]
    if number != CUSTOM and number not in _ORDER:
        raise ModuleError("unknown_section", f"there is no section {number}, as at {start}")
    length, payload = read_u32(data, start + 1, len(data))
    end = payload + length
    if end > len(data):
        raise ModuleError("overrun", f"the section at {start} runs past the end of the file")
    if number != CUSTOM:
        return Section(number, start, payload, end, None, payload)
    name, content = read_name(data, payload, end, max_bytes=LIMITS.max_section_name_bytes)
    return Section(number, start, payload, end, name, content)


def read_u32(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return (value, position after it) of the LEB128 u32 at ``position``; a longer spelling than needed is legal.

    Raises:
        ModuleError: longer than five bytes, over 32 bits, or it runs over ``end``.
    """
    value = 0
    for count in range(_U32_BYTES):
        if position >= end:
            raise ModuleError(
                "overrun", f"a number at {position - count} runs past {end}, where its part ends"
            )
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            if value >> 32:
                raise ModuleError("leb_overflow", f"a number before {position} does not fit in 32 bits")
            return value, position
    raise ModuleError("leb_too_long", f"a number before {position} is longer than {_U32_BYTES} bytes")


def read_name(data: bytes, position: int, end: int, *, max_bytes: int) -> tuple[str, int]:
    """Return (name, position after it) of the length-prefixed UTF-8 at ``position``.

    Raises:
        ModuleError: too long, not UTF-8, or it runs over ``end``.
    """
    length, start = read_u32(data, position, end)
    if length > end - start:
        raise ModuleError("overrun", f"a name at {position} runs past {end}, where its part ends")
    if length > max_bytes:
        raise ModuleError(
            "name_too_long", f"a name at {position} has {length} bytes, {max_bytes} are allowed"
        )
    try:
        return data[start : start + length].decode("utf-8"), start + length
    except UnicodeDecodeError:
        raise ModuleError("not_utf8", f"a name at {position} is not UTF-8") from None


def encode_u32(value: int) -> bytes:
    """Return the shortest LEB128 of ``value``."""
    if not 0 <= value < 1 << 32:
        raise ValueError(f"{value} does not fit in 32 unsigned bits")
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def custom_section(name: str, content: bytes) -> bytes:
    """Return a custom section with the shortest numbers."""
    text = name.encode("utf-8")
    payload = encode_u32(len(text)) + text + content
    return bytes((CUSTOM,)) + encode_u32(len(payload)) + payload
