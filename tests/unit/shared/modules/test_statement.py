"""Statements and the signing of modules: what is written, and what is refused before anything is signed."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
from nacl.signing import SigningKey

from stagebox import cbor
from stagebox.errors import InputError, ModuleError
from stagebox.modules.capabilities import Capability
from stagebox.modules.limits import LIMITS
from stagebox.modules.signature_section import place, split_section
from stagebox.modules.signing import append_signature, countersign, sign
from stagebox.modules.statement import ModuleLimits, Statement, check_version, in_order, key_id
from stagebox.modules.walker import custom_section, walk
from support.modules import (
    ALL_CAPABILITIES,
    CLUSTER,
    CLUSTER_KEY,
    DAY,
    NOW,
    VENDOR,
    countersigned_module,
    make_vendor,
    signed_module,
    unsigned_module,
)

PREFIX = unsigned_module()
SIGNED = signed_module()


def vendor_statement(data: bytes) -> Statement:
    section = place(walk(data)).vendor
    assert section is not None
    return Statement.decode(split_section(data, section)[0])


def signing(**changes: Any) -> bytes:
    """Sign the gain module with some arguments changed."""
    arguments: dict[str, Any] = {
        "key": VENDOR.key,
        "signer": "tone-works",
        "name": "gain",
        "version": "1.0.0",
        "capabilities": (Capability.AUDIO,),
        "issued": NOW,
        "expires": NOW + DAY,
    }
    return sign(changes.pop("data", PREFIX), **{**arguments, **changes})


def countersigning(**changes: Any) -> bytes:
    """Countersign the gain module with some arguments changed."""
    arguments: dict[str, Any] = {
        "key": CLUSTER_KEY,
        "cluster": CLUSTER,
        "granted": (Capability.AUDIO,),
        "limits": ModuleLimits(),
        "serial": 1,
        "issued": NOW,
        "expires": NOW + DAY,
    }
    return countersign(changes.pop("data", SIGNED), **{**arguments, **changes})


def test_a_key_id_is_of_the_key_and_of_its_purpose() -> None:
    public = bytes(range(32))
    assert key_id(public) == hashlib.sha256(b"stagebox.module.keyid.v1\0" + public).digest()[:16]
    assert key_id(public) != hashlib.sha256(public).digest()[:16]


def test_a_statement_says_all_that_was_asked_for() -> None:
    data = signing(capabilities=[Capability.LOG, Capability.AUDIO, Capability.LOG], version="2.1.0-rc.1+7")
    found = vendor_statement(data)
    assert found == Statement(
        key_id=key_id(VENDOR.root.public),
        covered=len(PREFIX),
        sha256=hashlib.sha256(PREFIX).digest(),
        blake3=found.blake3,
        signer="tone-works",
        name="gain",
        version="2.1.0-rc.1+7",
        capabilities=(Capability.AUDIO, Capability.LOG),
        issued=NOW,
        expires=NOW + DAY,
    )


def test_the_same_module_is_signed_to_the_same_bytes() -> None:
    assert signing() == signing()
    assert countersigning() == countersigning()


def test_the_layout_is_the_documented_one() -> None:
    section = place(walk(SIGNED)).vendor
    assert section is not None
    content = SIGNED[section.content : section.end]
    body, signature = split_section(SIGNED, section)
    assert content == b"\x82" + body + b"\x58\x40" + signature
    assert cbor.decode(content, max_bytes=8192) == [cbor.decode(body, max_bytes=8192), signature]


def test_a_known_field_is_not_overridden_by_an_unknown_one() -> None:
    statement = dataclasses.replace(vendor_statement(SIGNED), extra={"Name": "limiter", "Note": 1})
    assert Statement.decode(statement.encode()).name == "gain"


def test_capabilities_are_put_in_order_each_once() -> None:
    assert in_order([Capability.LOG, Capability.AUDIO, Capability.LOG]) == (Capability.AUDIO, Capability.LOG)
    assert in_order(set(Capability)) == ALL_CAPABILITIES


@pytest.mark.parametrize(
    "version",
    [
        "0.0.0",
        "1.2.3",
        "10.20.30",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-0.3.7",
        "1.0.0--",
        "1.0.0+001",
        "1.0.0-a+b.c",
    ],
)
def test_a_semantic_version_is_one(version: str) -> None:
    assert check_version(version) == version


@pytest.mark.parametrize(
    "version", ["", "1", "1.2", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-a..b", "1.2.3-01", " 1.2.3"]
)
def test_anything_else_is_no_semantic_version(version: str) -> None:
    with pytest.raises(InputError, match="semantic version"):
        check_version(version)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Gain"},
        {"name": ""},
        {"version": "1.0"},
        {"signer": ""},
        {"signer": "a\nb"},
        {"signer": "s" * (LIMITS.max_signer_chars + 1)},
        {"issued": NOW, "expires": NOW},
        {"issued": -1},
        {"expires": 1 << 64},
    ],
)
def test_what_no_statement_may_say_is_not_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        signing(**changes)


def test_an_unknown_abi_is_not_signed() -> None:
    with pytest.raises(ModuleError) as refused:
        signing(abi=2)
    assert refused.value.code == "unknown_abi"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"no module", "bad_preamble"),
        (PREFIX + b"\x0e\0", "unknown_section"),
        (SIGNED, "already_signed"),
        (countersigned_module(), "already_signed"),
        (PREFIX + custom_section("fluxrig.x", b""), "reserved_name"),
        (PREFIX + custom_section("note", bytes(LIMITS.max_module_bytes - len(PREFIX) - 64)), "too_large"),
        (PREFIX + custom_section("", b"") * (LIMITS.max_sections - len(walk(PREFIX))), "too_many_sections"),
    ],
)
def test_what_would_not_verify_is_not_signed(data: bytes, code: str) -> None:
    with pytest.raises(ModuleError) as refused:
        signing(data=data)
    assert refused.value.code == code


def test_a_statement_over_the_limit_is_not_appended() -> None:
    body = bytes(LIMITS.max_signature_section_bytes)
    with pytest.raises(InputError, match="section of"):
        append_signature(PREFIX, "fluxrig.signature", body, b"test\0", VENDOR.key)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"data": PREFIX}, "missing_signature"),
        ({"data": countersigned_module()}, "already_countersigned"),
        ({"granted": (Capability.AUDIO, Capability.EMIT)}, "capability_not_allowed"),
        ({"expires": NOW + 91 * DAY}, "expiry_too_late"),
        ({"issued": NOW - 30 * DAY}, "not_yet_valid"),
        ({"key": VENDOR.key}, "wrong_purpose_key"),
        ({"limits": ModuleLimits(memory_bytes=LIMITS.memory_bytes + 1)}, "limit_not_allowed"),
        ({"limits": ModuleLimits(fuel_per_block=0)}, "limit_not_allowed"),
    ],
)
def test_what_no_rack_would_accept_is_not_countersigned(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(ModuleError) as refused:
        countersigning(**changes)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "changes", [{"cluster": "Flux"}, {"serial": -1}, {"serial": 1 << 64}, {"expires": NOW}]
)
def test_what_no_clusters_statement_may_say_is_not_countersigned(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        countersigning(**changes)


def test_a_countersignature_is_the_clusters_unless_somebody_else_is_named() -> None:
    assert b"mixer-1" in countersigning(signer="mixer-1")
    assert countersigning().count(CLUSTER.encode()) == 2


def test_the_defaults_of_the_limits_may_be_granted() -> None:
    assert ModuleLimits().check() == ModuleLimits()
    assert ModuleLimits.from_wire(ModuleLimits().wire()) == ModuleLimits()


def test_a_private_key_is_in_nothing_that_is_signed() -> None:
    key = SigningKey(bytes(range(200, 232)))
    vendor = make_vendor(9)
    assert bytes(key) not in signing(key=key)
    assert bytes(vendor.key) not in signed_module(vendor=vendor)
