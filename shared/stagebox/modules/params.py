"""The parameters of a module: the custom section ``stagebox.params``, made when a module is built.

The section is covered by the signatures, so a parameter's range is the vendor's word. A module without parameters has
no such section.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stagebox import cbor
from stagebox.errors import DecodeError, InputError, ModuleError
from stagebox.identity import check_name
from stagebox.modules.limits import LIMITS
from stagebox.modules.walker import Section, custom_section

PARAMS_SECTION = "stagebox.params"
_ITEMS = 32 * LIMITS.max_params


@dataclass(frozen=True)
class Param:
    """One parameter. ``id`` is what the guest's ``param`` is called with; values are finite and fit a float32."""

    name: str
    id: int
    min: float
    max: float
    default: float
    unit: str = ""

    def wire(self) -> dict[str, Any]:
        """Return the CBOR map."""
        return {
            "Name": self.name,
            "ID": self.id,
            "Min": float(self.min),
            "Max": float(self.max),
            "Default": float(self.default),
            "Unit": self.unit,
        }

    @classmethod
    def from_wire(cls, value: object) -> Param:
        """Parse one; fields of a later release are ignored.

        Raises:
            DecodeError: malformed. InputError: not a parameter.
        """
        what = "parameter"
        fields = cbor.expect_map(value, what)
        return cls(
            name=cbor.take(fields, "Name", str, what),
            id=cbor.take_uint(fields, "ID", what, bits=31),
            min=cbor.take(fields, "Min", float, what),
            max=cbor.take(fields, "Max", float, what),
            default=cbor.take(fields, "Default", float, what),
            unit=cbor.take(fields, "Unit", str, what),
        ).check()

    def check(self) -> Param:
        """Return this parameter if it is one.

        Raises:
            InputError: an illegal name, id, unit or range.
        """
        check_name("parameter", self.name)
        if not 0 <= self.id < 1 << 31:
            raise InputError(f"the parameter {self.name!r} has the id {self.id}")
        if len(self.unit) > LIMITS.max_unit_chars or not (self.unit == "" or self.unit.isprintable()):
            raise InputError(f"the parameter {self.name!r} has a unit that is too long or not printable")
        if not all(_fits_float32(value) for value in (self.min, self.max, self.default)):
            raise InputError(f"the parameter {self.name!r} has a value that is no finite float32")
        if not self.min <= self.default <= self.max:
            raise InputError(f"the parameter {self.name!r} has a default outside of its range")
        return self


def _fits_float32(value: float) -> bool:
    try:
        return math.isfinite(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return False


def encode_params(params: Iterable[Param]) -> bytes:
    """Return the whole custom section, to be appended to a module that is not signed yet.

    Raises:
        InputError: not parameters, too many, or two of one name or id.
    """
    listed = _checked([param.check() for param in params])
    content = cbor.encode([param.wire() for param in listed])
    if len(content) > LIMITS.max_params_bytes:
        raise InputError(f"the parameters take {len(content)} bytes, {LIMITS.max_params_bytes} are allowed")
    return custom_section(PARAMS_SECTION, content)


def read_params(data: bytes, sections: tuple[Section, ...]) -> tuple[Param, ...]:
    """Return a module's parameters; none if it has no such section.

    Raises:
        ModuleError: two such sections, or a malformed one.
    """
    found = [section for section in sections if section.name == PARAMS_SECTION]
    if not found:
        return ()
    if len(found) > 1:
        raise ModuleError("bad_params", f"the section {PARAMS_SECTION!r} is there twice")
    content = data[found[0].content : found[0].end]
    try:
        listed = cbor.decode_canonical(content, max_bytes=LIMITS.max_params_bytes, max_items=_ITEMS)
        if not isinstance(listed, list):
            raise DecodeError("it is not a list")
        return _checked([Param.from_wire(item) for item in listed])
    except (DecodeError, InputError) as error:
        raise ModuleError("bad_params", f"the section {PARAMS_SECTION!r}: {error.message}") from None


def _checked(params: list[Param]) -> tuple[Param, ...]:
    if len(params) > LIMITS.max_params:
        raise InputError(f"there are {len(params)} parameters, {LIMITS.max_params} are allowed")
    if len({param.name for param in params}) != len(params) or len({param.id for param in params}) != len(
        params
    ):
        raise InputError("two parameters have the same name or the same id")
    return tuple(params)


def resolve(params: Iterable[Param], values: Mapping[str, float]) -> dict[int, float]:
    """Return the value of every parameter by its id: what ``values`` says, or its default.

    Raises:
        InputError: a name that is no parameter's, or a value that is no number in its range.
    """
    known = {param.name: param for param in params}
    for name in values:
        if name not in known:
            names = ", ".join(known) or "none"
            raise InputError(f"the module has no parameter {name!r}", remedy=f"its parameters: {names}")
    return {param.id: _value(param, values.get(param.name, param.default)) for param in known.values()}


def _value(param: Param, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"the parameter {param.name!r} is set to something that is not a number")
    # NaN is in no range.
    if not param.min <= value <= param.max:
        raise InputError(
            f"the parameter {param.name!r} is set to {value}, its range is {param.min} to {param.max}"
        )
    return float(value)
