"""Parameters of a module: the section that lists them, and the values that an operator sets."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox import cbor
from stagebox.errors import InputError, ModuleError
from stagebox.modules.limits import LIMITS
from stagebox.modules.params import PARAMS_SECTION, Param, encode_params, read_params, resolve
from stagebox.modules.walker import PREAMBLE, custom_section, walk

GAIN = Param("gain", 0, -60.0, 12.0, 0.0, "dB")
WIDTH = Param("width", 7, 0.0, 1.0, 0.5)
GOOD = GAIN.wire()


def reading(content: bytes, *, sections: int = 1) -> tuple[Param, ...]:
    data = PREAMBLE + custom_section(PARAMS_SECTION, content) * sections
    return read_params(data, walk(data))


def refusal(content: bytes, *, sections: int = 1) -> str:
    with pytest.raises(ModuleError) as refused:
        reading(content, sections=sections)
    return refused.value.code


def test_parameters_read_as_they_were_written() -> None:
    data = PREAMBLE + encode_params([GAIN, WIDTH])
    assert read_params(data, walk(data)) == (GAIN, WIDTH)


def test_a_module_without_the_section_has_no_parameters() -> None:
    assert read_params(PREAMBLE, walk(PREAMBLE)) == ()


def test_an_empty_list_is_no_parameters() -> None:
    assert reading(b"\x80") == ()


def test_parameters_may_be_written_as_whole_numbers() -> None:
    data = PREAMBLE + encode_params([Param("gain", 0, 0, 4, 1)])
    (found,) = read_params(data, walk(data))
    assert [type(value) for value in (found.min, found.max, found.default)] == [float] * 3


def test_a_field_of_a_later_release_is_ignored() -> None:
    assert reading(cbor.encode([{**GOOD, "Curve": "log"}])) == (GAIN,)


def test_a_section_that_is_there_twice_is_refused() -> None:
    assert refusal(b"\x80", sections=2) == "bad_params"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xa0",
        b"\x80\x00",
        b"\x9f\xff",
        b"\x98\x00",
        b"\x81\x01",
        b"\x81\x80",
        cbor.encode([GOOD])[:-1],
        cbor.encode([GOOD, GOOD]),
        cbor.encode([GOOD, {**GOOD, "ID": 1}]),
        cbor.encode([GOOD, {**GOOD, "Name": "width"}]),
        cbor.encode(
            [{**GOOD, "Name": f"p{number}", "ID": number} for number in range(LIMITS.max_params + 1)]
        ),
        cbor.encode([{**GOOD, "Note": "x" * LIMITS.max_params_bytes}]),
    ],
)
def test_a_section_that_is_no_list_of_parameters_is_refused(content: bytes) -> None:
    assert refusal(content) == "bad_params"


@pytest.mark.parametrize("name", list(GOOD))
def test_a_parameter_without_a_field_is_refused(name: str) -> None:
    assert refusal(cbor.encode([{key: value for key, value in GOOD.items() if key != name}])) == "bad_params"


@pytest.mark.parametrize(
    "changes",
    [
        {"Name": "Gain"},
        {"Name": ""},
        {"Name": 1},
        {"ID": -1},
        {"ID": 1 << 31},
        {"ID": True},
        {"ID": 1.0},
        {"Min": 0},
        {"Min": math.nan},
        {"Min": -math.inf},
        {"Max": math.inf},
        {"Max": 1e39},
        {"Default": math.nan},
        {"Default": 12.5},
        {"Default": -60.5},
        {"Min": 13.0},
        {"Unit": None},
        {"Unit": "u" * (LIMITS.max_unit_chars + 1)},
        {"Unit": "\x1b[0m"},
    ],
)
def test_a_parameter_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    assert refusal(cbor.encode([{**GOOD, **changes}])) == "bad_params"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Gain"},
        {"id": -1},
        {"id": 1 << 31},
        {"default": 13.0},
        {"max": 1e39},
        {"unit": "\n"},
        {"min": math.nan},
    ],
)
def test_a_parameter_that_is_none_is_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        encode_params([dataclasses.replace(GAIN, **changes)])


def test_parameters_over_the_limit_are_not_written() -> None:
    with pytest.raises(InputError, match="65 parameters"):
        encode_params([dataclasses.replace(GAIN, name=f"p{number}", id=number) for number in range(65)])


def test_as_many_parameters_as_allowed_are_written_at_their_longest() -> None:
    longest = [
        Param(
            f"{number:02d}" + "a" * 61,
            (1 << 31) - 1 - number,
            -0.1,
            0.1,
            0.01,
            "\u00b5" * LIMITS.max_unit_chars,
        )
        for number in range(LIMITS.max_params)
    ]
    data = PREAMBLE + encode_params(longest)
    assert read_params(data, walk(data)) == tuple(longest)


def test_two_parameters_of_one_name_or_id_are_not_written() -> None:
    for twin in (dataclasses.replace(GAIN, id=1), dataclasses.replace(GAIN, name="other")):
        with pytest.raises(InputError, match="same name or the same id"):
            encode_params([GAIN, twin])


def test_every_parameter_has_a_value() -> None:
    assert resolve((GAIN, WIDTH), {}) == {0: 0.0, 7: 0.5}
    assert resolve((GAIN, WIDTH), {"gain": -6}) == {0: -6.0, 7: 0.5}
    assert resolve((), {}) == {}


def test_the_ends_of_a_range_are_in_it() -> None:
    assert resolve((GAIN,), {"gain": -60.0}) == {0: -60.0}
    assert resolve((GAIN,), {"gain": 12.0}) == {0: 12.0}


@pytest.mark.parametrize("value", [-60.001, 12.001, math.nan, math.inf, -math.inf, 10**400, True, "0", None])
def test_a_value_that_is_no_number_in_the_range_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="'gain'"):
        resolve((GAIN,), {"gain": value})


def test_a_name_that_is_no_parameters_is_refused_and_the_parameters_are_named() -> None:
    with pytest.raises(InputError, match="no parameter 'volume'") as refused:
        resolve((GAIN, WIDTH), {"volume": 1.0})
    assert refused.value.remedy == "its parameters: gain, width"


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_every_float32_survives_the_section(value: float) -> None:
    data = PREAMBLE + encode_params([Param("a", 0, value, value, value)])
    assert read_params(data, walk(data)) == (Param("a", 0, value, value, value),)
