"""What the rack's guard lets run, and every reason for which it does not."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace
from typing import Any

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from stagebox.control.denylist import DenyKind, DenyList, denied, module_value
from stagebox.errors import ModuleError
from stagebox.modules.capabilities import Capability
from stagebox.modules.patch import Insert, Point
from stagebox.modules.signature_section import CLUSTER_SECTION
from stagebox.modules.statement import PAGE_BYTES
from stagebox.modules.walker import walk
from stagebox_rack.modules.guard import Admitted, Guard, recheck
from support import forging
from support.modules import (
    CLUSTER,
    CLUSTER_PUBLIC,
    DAY,
    LIMITS,
    NOW,
    SECOND,
    VENDOR,
    countersigned_module,
    gain_wat,
    signed_module,
    unsigned_module,
)

OTHER_KEY = SigningKey(bytes([9]) * 32)
NOBODY = DenyList(CLUSTER)
GUARD = Guard(CLUSTER, CLUSTER_PUBLIC)


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard judges; whatever it says, nothing is compiled for it."""
    compiling = (wasmtime.Module, wasmtime.Engine, wasmtime.Linker)
    for kind in compiling:
        monkeypatch.setattr(kind, "__init__", _no_compiler)


def _no_compiler(*_: object, **__: object) -> None:
    raise AssertionError("the guard has had something compiled")


@functools.cache
def module(**changes: Any) -> bytes:
    """A countersigned module, assembled before the compiler is taken away."""
    signed = {key: changes.pop(key) for key in ("name", "version") if key in changes}
    return countersigned_module(signed_module(**signed), **changes)


GOOD = module()


def section(data: bytes) -> bytes:
    """The cluster's section of a countersigned file."""
    return data[next(found.start for found in walk(data) if found.name == CLUSTER_SECTION) :]


def insert(data: bytes = GOOD, **changes: Any) -> Insert:
    made = Insert(
        id="eq-main", module="gain", version="1.0.0", digest=hashlib.sha256(data).digest(), size=len(data),
        point=Point.METERS, source="main",
    )  # fmt: skip
    return replace(made, **changes)


def admit(data: bytes = GOOD, asked: Insert | None = None, **changes: Any) -> Admitted:
    given: dict[str, Any] = {"denied": NOBODY, "floor": 0, "now_ns": NOW, **changes}
    guard: Guard = given.pop("guard", GUARD)
    return guard.admit(data, asked if asked is not None else insert(data), **given)


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(ModuleError) as caught:
        admit(*args, **kwargs)
    assert caught.value.message
    return caught.value.code


def test_a_countersigned_module_is_admitted_as_the_very_bytes_that_were_verified() -> None:
    found = admit(asked=insert(params={"gain": 0.5}))
    assert found.data is GOOD
    assert (found.name, found.version, found.digest) == ("gain", "1.0.0", hashlib.sha256(GOOD).digest())
    assert (found.granted, found.params) == (frozenset({Capability.AUDIO}), {0: 0.5})
    assert found.limits == replace(LIMITS, memory_bytes=5 * PAGE_BYTES), "of its memory, what it can grow to"
    assert (found.serial, found.vendor, found.expires) == (1, VENDOR.root.key_id, NOW + 30 * DAY)
    assert found.vendor_digest == hashlib.sha256(signed_module()).digest()


def test_what_the_hosts_are_given_is_what_was_admitted() -> None:
    found = admit()
    hosted = found.hosted
    assert hosted.data is GOOD
    assert (hosted.name, hosted.version, hosted.granted, hosted.limits, hosted.params) == (
        found.name, found.version, found.granted, found.limits, found.params,
    )  # fmt: skip


def test_bytes_that_can_still_be_changed_are_copied_before_they_are_verified() -> None:
    changeable = bytearray(GOOD)
    found = admit(changeable, insert())  # type: ignore[arg-type]
    changeable[-1] ^= 1
    assert type(found.data) is bytes
    assert found.data == GOOD


# As asked


@settings(max_examples=200)
@given(st.integers(0, len(GOOD) * 8 - 1))
def test_a_planted_file_with_a_flipped_bit_anywhere_is_refused(bit: int) -> None:
    planted = bytearray(GOOD)
    planted[bit // 8] ^= 1 << bit % 8
    assert refusal(bytes(planted), insert()) == "wrong_digest"


@settings(max_examples=200)
@given(st.integers(0, len(GOOD) * 8 - 1))
def test_a_flipped_bit_is_refused_also_if_the_sheet_names_the_altered_file(bit: int) -> None:
    planted = bytearray(GOOD)
    planted[bit // 8] ^= 1 << bit % 8
    refusal(bytes(planted))


@given(st.binary(max_size=200))
def test_garbage_is_refused_also_if_the_sheet_names_it(data: bytes) -> None:
    refusal(data)
    refusal(GOOD + data if data else b"", insert(GOOD + data if data else b""))


def test_a_file_other_than_the_sheet_names_is_refused() -> None:
    other = module(serial=2)
    assert refusal(other, insert()) == "wrong_digest"
    assert refusal(GOOD[:-1], insert()) == "wrong_digest"
    assert refusal(GOOD + b"\0", insert()) == "wrong_digest"
    assert refusal(b"", insert()) == "wrong_digest"


def test_a_file_of_another_size_than_the_sheet_says_is_refused() -> None:
    assert refusal(asked=insert(size=len(GOOD) + 1)) == "wrong_size"


def test_the_text_format_is_no_module_here() -> None:
    text = gain_wat().encode()
    assert refusal(text) == "bad_preamble"


def test_another_name_or_version_than_the_insert_asks_for_is_refused() -> None:
    assert refusal(asked=insert(module="limiter")) == "wrong_name"
    assert refusal(asked=insert(version="1.0.1")) == "wrong_module_version"


# Signatures


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (unsigned_module(), "missing_signature"),
        (signed_module(), "missing_countersignature"),
        (countersigned_module(key=OTHER_KEY), "unknown_key"),
        (countersigned_module(cluster="other"), "wrong_cluster"),
        (GOOD + section(GOOD), "duplicate_signature"),
        (GOOD[: len(GOOD) - len(section(GOOD))] + section(GOOD)[:-1], "overrun"),
        (section(GOOD).join((GOOD[:8], GOOD[8 : len(GOOD) - len(section(GOOD))])), "misplaced_signature"),
    ],
    ids=[
        "unsigned", "vendor-signed", "another-clusters-key", "another-clusters-name", "twice", "cut-short", "first",
    ],
)  # fmt: skip
def test_only_the_pinned_clusters_countersignature_counts_in_its_place(data: bytes, code: str) -> None:
    assert refusal(data) == code


def test_another_clusters_section_grafted_onto_our_vendors_file_is_refused() -> None:
    theirs = section(countersigned_module(key=OTHER_KEY, cluster="other"))
    assert refusal(signed_module() + theirs) == "unknown_key"


def test_our_section_grafted_onto_another_vendor_file_is_refused() -> None:
    assert refusal(signed_module(version="1.0.1") + section(GOOD)) == "wrong_digest"
    assert refusal(signed_module(version="1.0.10") + section(GOOD)) == "wrong_offset"


def test_our_section_does_not_verify_for_a_rack_of_another_cluster() -> None:
    assert refusal(guard=Guard("other", bytes(OTHER_KEY.verify_key))) == "unknown_key"
    assert refusal(guard=Guard("other", CLUSTER_PUBLIC)) == "wrong_cluster"


def test_a_vendors_signature_in_the_clusters_place_is_refused() -> None:
    forged = forging.cluster_signed(signed_module(), key=VENDOR.key)
    assert refusal(forged) == "wrong_purpose_key"


# Time


def test_a_countersignature_is_good_to_its_last_nanosecond() -> None:
    assert admit(now_ns=NOW + 30 * DAY - 1).expires == NOW + 30 * DAY
    assert refusal(now_ns=NOW + 30 * DAY) == "expired"


def test_a_module_of_the_future_is_refused_beyond_the_skew_of_clocks() -> None:
    assert refusal(now_ns=NOW - DAY) == "not_yet_valid"
    assert admit(now_ns=NOW - 300 * SECOND)


# Serial


def test_an_older_serial_than_ran_here_before_is_refused_and_the_same_one_is_not() -> None:
    assert refusal(module(serial=6), floor=7) == "downgrade"
    assert admit(module(serial=7), floor=7).serial == 7
    assert admit(module(serial=8), floor=7).serial == 8


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_serial_passes_iff_it_is_no_lower_than_the_floor(serial: int, floor: int) -> None:
    found = replace(ADMITTED, serial=serial)
    if serial >= floor:
        recheck(found, denied=NOBODY, floor=floor, now_ns=NOW)
    else:
        with pytest.raises(ModuleError):
            recheck(found, denied=NOBODY, floor=floor, now_ns=NOW)


ADMITTED = GUARD.admit(GOOD, insert(), denied=NOBODY, floor=0, now_ns=NOW)


# Deny list


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (DenyKind.MODULE, module_value(hashlib.sha256(GOOD).digest())),
        (DenyKind.MODULE, module_value(hashlib.sha256(signed_module()).digest())),
        (DenyKind.VENDOR, VENDOR.root.key_id.hex()),
    ],
    ids=["file", "vendor-signed-file", "vendor"],
)
def test_what_is_denied_is_refused_and_stops(kind: DenyKind, value: str) -> None:
    bans = NOBODY.with_denied(denied(kind, value), now_ns=NOW)
    assert refusal(denied=bans) == "denied"
    with pytest.raises(ModuleError) as caught:
        recheck(ADMITTED, denied=bans, floor=0, now_ns=NOW)
    assert caught.value.code == "denied"


def test_another_modules_ban_hits_nobody_else() -> None:
    bans = NOBODY.with_denied(denied(DenyKind.MODULE, module_value(bytes(32))), now_ns=NOW)
    bans = bans.with_denied(denied(DenyKind.VENDOR, bytes(16).hex()), now_ns=NOW)
    assert admit(denied=bans)


# Capabilities, interface, parameters

LOGGING = gain_wat(imports='(import "stagebox" "log" (func (param i32 i32 i32)))')


@pytest.mark.parametrize("point", [Point.METERS, Point.MONITOR, Point.TAP])
def test_audio_points_take_what_is_granted_audio(point: Point) -> None:
    assert admit(asked=insert(point=point)).granted == {Capability.AUDIO}


def test_an_audio_module_is_not_given_telemetry() -> None:
    assert refusal(asked=insert(point=Point.TELEMETRY, source="")) == "capability_not_granted"


def test_a_module_that_imports_more_than_it_is_granted_is_refused() -> None:
    asks = signed_module(unsigned_module(LOGGING), capabilities=(Capability.AUDIO, Capability.LOG))
    assert refusal(countersigned_module(asks)) == "import_not_granted"
    both = countersigned_module(asks, granted=(Capability.AUDIO, Capability.LOG))
    assert admit(both).granted == {Capability.AUDIO, Capability.LOG}


@pytest.mark.parametrize(
    ("imports", "code"),
    [
        ('(import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))', "unknown_import"),
        ('(import "stagebox" "open" (func (param i32)))', "unknown_import"),
        ('(import "stagebox" "level" (global i32))', "import_kind"),
    ],
)
def test_what_nobody_can_grant_is_refused(imports: str, code: str) -> None:
    data = countersigned_module(signed_module(unsigned_module(gain_wat(imports=imports))))
    assert refusal(data) == code


def test_a_memory_beyond_the_limit_is_refused() -> None:
    small = replace(LIMITS, memory_bytes=4 * 65_536)
    assert refusal(countersigned_module(limits=small)) == "memory_too_large"


@pytest.mark.parametrize("params", [{"gain": 4.1}, {"gain": float("nan")}, {"loudness": 1.0}])
def test_parameters_that_are_not_the_modules_or_out_of_range_are_refused(params: dict[str, float]) -> None:
    assert refusal(asked=insert(params=params)) == "bad_params"


def test_parameters_not_named_have_their_defaults() -> None:
    assert admit().params == {0: 1.0}


def test_a_refusal_shows_no_control_characters_of_the_file() -> None:
    hostile = gain_wat(imports='(import "stage\\1b[31m\\0abox" "log" (func))')
    with pytest.raises(ModuleError) as caught:
        admit(countersigned_module(signed_module(unsigned_module(hostile))))
    assert caught.value.message.isprintable()
