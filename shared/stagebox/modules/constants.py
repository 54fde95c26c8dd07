"""Constant expressions of a Wasm file: skipped, so that what follows them can be read."""

from __future__ import annotations

from stagebox.errors import ModuleError
from stagebox.modules.limits import LIMITS

_END = 0x0B
_GLOBAL_GET, _REF_FUNC, _REF_NULL = 0x23, 0xD2, 0xD0
_I32_CONST, _I64_CONST, _F32_CONST, _F64_CONST = 0x41, 0x42, 0x43, 0x44
_VECTOR = 0xFD
_V128_CONST = b"\x0c"
_ARITHMETIC = frozenset({0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E})  # add, sub, mul of i32 and i64
_LEB_BYTES = {_GLOBAL_GET: 5, _REF_FUNC: 5, _I32_CONST: 5, _I64_CONST: 10}
_FIXED_BYTES = {_REF_NULL: 1, _F32_CONST: 4, _F64_CONST: 8}


def skip_constant(data: bytes, position: int, end: int) -> int:
    """Return the position after the constant expression at ``position``.

    Raises:
        ModuleError: an instruction that no constant has, or it runs over ``end``, or is too long.
    """
    most = position + LIMITS.max_constant_bytes
    while position < min(end, most):
        opcode = data[position]
        position += 1
        if opcode == _END:
            return position
        if opcode in _LEB_BYTES:
            position = _skip_leb(data, position, end, _LEB_BYTES[opcode])
        elif opcode in _FIXED_BYTES:
            position += _FIXED_BYTES[opcode]
        elif opcode == _VECTOR and data[position : position + 1] == _V128_CONST:
            position += 17
        elif opcode not in _ARITHMETIC:
            raise ModuleError("malformed", f"a constant at {position - 1} has the instruction {opcode:#04x}")
    if position < end:
        raise ModuleError(
            "too_large", f"a constant before {position} has over {LIMITS.max_constant_bytes} bytes"
        )
    raise ModuleError("overrun", f"a constant runs past {end}, where its section ends")


def _skip_leb(data: bytes, position: int, end: int, most: int) -> int:
    for place in range(position, min(position + most, end)):
        if data[place] < 0x80:
            return place + 1
    if end - position < most:
        raise ModuleError("overrun", f"a number at {position} runs past {end}, where its section ends")
    raise ModuleError("leb_too_long", f"a number at {position} is longer than {most} bytes")
