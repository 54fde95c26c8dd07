"""Stored forms of modules and assignments: what is written is read, what a later release adds is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox import cbor
from stagebox.errors import DecodeError, InputError
from stagebox.modules.params import Param
from stagebox.modules.patch import Point
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.model import Assignment, AssignmentState, ModuleEntry, module_key
from support.patched import module_assignment, module_entry

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ASSIGNMENTS = st.builds(
    module_assignment,
    racks=st.lists(st.text("ab*", min_size=1, max_size=5), min_size=1, max_size=3).map(tuple),
    point=st.sampled_from(Point),
    params=st.dictionaries(st.sampled_from(["gain", "q"]), FLOATS),
    percent=st.integers(0, 100),
    previous=st.sampled_from(["", "0.9.0-rc.1"]),
    previous_params=st.dictionaries(st.sampled_from(["gain"]), FLOATS),
    state=st.sampled_from(AssignmentState),
    reason=st.text(max_size=20),
    extra=st.dictionaries(st.text("xyz", min_size=2, max_size=4), st.integers(0, 9), max_size=2),
)


@given(ASSIGNMENTS)
def test_an_assignment_reads_back_as_it_was_written(assignment: Assignment) -> None:
    assert Assignment.decode(assignment.encode()) == assignment


def test_a_module_reads_back_as_it_was_written_with_what_a_later_release_adds() -> None:
    entry = module_entry(
        version="1.0.0-rc.1+night.5", revoked_at=7, revoked_by="spiffe://ops", revoked_reason="why",
        params=(Param("gain", 0, 0.0, 4.0, 1.0, "dB"), Param("q", 1, 0.1, 9.5, 1.5)), extra={"colour": [1, 2]},
    )  # fmt: skip
    assert ModuleEntry.decode(entry.encode()) == entry
    later = cbor.encode({**cbor.decode(entry.encode(), max_bytes=1 << 16), "name": "gain", "hue": b"x"})
    assert ModuleEntry.decode(later).encode() == later


def test_a_key_names_one_version_of_one_module() -> None:
    names = [("eq", "1.0.0"), ("eq", "1.0.0+a"), ("eq", "1.0.0-a"), ("eq-1", "0.0.0"), ("eq", "1.0.0-a+b")]
    assert len({module_key(*name) for name in names}) == len(names)
    assert module_key("eq", "1.0.0+a.b") == "eq.1.0.0=a.b"
    for name, version in (("Eq", "1.0.0"), ("eq", "1.0"), ("eq", "1.0.0/x"), ("e.q", "1.0.0")):
        with pytest.raises(InputError):
            module_key(name, version)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2}, {"name": "Gain"}, {"version": "one"}, {"digest": b"short"}, {"granted": ["telepathy"]},
        {"granted": "audio"}, {"limits": {}}, {"serial": -1}, {"params": [{"Name": "gain"}]}, {"key_id": bytes(15)},
    ],
)  # fmt: skip
def test_a_damaged_module_entry_is_an_error(change: dict[str, Any]) -> None:
    fields = cbor.decode(module_entry().encode(), max_bytes=1 << 16)
    with pytest.raises(DecodeError):
        ModuleEntry.decode(cbor.encode({**fields, **change}))


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2}, {"id": "a.b"}, {"point": "kitchen"}, {"state": "asleep"}, {"percent": 128}, {"params": {"gain": 1}},
        {"racks": [1]}, {"racks": "all"}, {"module": ""}, {"version": "1"},
    ],
)  # fmt: skip
def test_a_damaged_assignment_is_an_error(change: dict[str, Any]) -> None:
    fields = cbor.decode(module_assignment().encode(), max_bytes=1 << 16)
    with pytest.raises(DecodeError):
        Assignment.decode(cbor.encode({**fields, **change}))


@given(st.binary(max_size=60))
def test_noise_is_a_decode_error_and_nothing_else(noise: bytes) -> None:
    for decode in (ModuleEntry.decode, Assignment.decode):
        with pytest.raises(DecodeError):
            decode(noise)


def test_the_largest_entries_fit_their_bound() -> None:
    params = tuple(Param(f"{'p' * 57}-{number}", number, 0.1, 0.9, 0.5, "u" * 16) for number in range(64))
    values = {param.name: 0.3 for param in params}
    entry = module_entry(params=params, imported_by="x" * 256, revoked_reason="ü" * 200)
    assignment = module_assignment(
        params=values, previous_params=values, racks=("r" * 63,) * LIMITS.assignment_patterns
    )
    for data in (entry.encode(), assignment.encode()):
        assert len(data) < LIMITS.module_record_bytes
    assert replace(ModuleEntry.decode(entry.encode()), serial=2).serial == 2
