"""Attacks on the CBOR of the signature sections: spelled otherwise, malformed, or of something that is not understood.

Every statement here is signed by the right key over its real bytes, so only what is wrong with it can be the reason.
"""

from __future__ import annotations

from typing import Any

import pytest
from cbor2 import CBORTag

from stagebox import cbor
from stagebox.envelope import DOMAIN_MODULE_VENDOR
from stagebox.modules.limits import LIMITS
from stagebox.modules.signature_section import VENDOR_SECTION
from stagebox.modules.statement import ModuleLimits
from stagebox.modules.verification import verify_countersigned, verify_vendor
from stagebox.modules.walker import custom_section
from support.forging import (
    Fields,
    at_mixer,
    at_rack,
    cluster_fields,
    cluster_signed,
    section_of,
    vendor_fields,
    vendor_signed,
)
from support.modules import CLUSTER, CLUSTER_PUBLIC, NOW, VENDOR, signed_module, unsigned_module

PREFIX = unsigned_module()
SIGNED = signed_module()
BODY = cbor.encode(vendor_fields(PREFIX))
SIGNATURE = VENDOR.key.sign(DOMAIN_MODULE_VENDOR + BODY).signature


def with_content(content: bytes) -> bytes:
    """Return the module with any content in its signature section."""
    return PREFIX + custom_section(VENDOR_SECTION, content)


def with_body(body: bytes) -> bytes:
    """Return the module with any body, rightly signed."""
    return PREFIX + section_of(VENDOR_SECTION, body, VENDOR.key, DOMAIN_MODULE_VENDOR)


def respelled(key: str, was: bytes, becomes: bytes) -> bytes:
    """Return the module with the value of one field in other bytes, rightly signed."""
    old = cbor.encode(key) + was
    assert BODY.count(old) == 1
    return with_body(BODY.replace(old, cbor.encode(key) + becomes))


# --- around the body --------------------------------------------------------------------------------------


def test_the_layout_that_is_attacked_here_is_good() -> None:
    assert verify_vendor(with_content(b"\x82" + BODY + b"\x58\x40" + SIGNATURE), VENDOR.trust, now_ns=NOW)


def test_a_body_without_a_signature_is_refused() -> None:
    assert at_mixer(with_content(b"\x81" + BODY)) == "malformed"


def test_a_signature_without_a_body_is_refused() -> None:
    assert at_mixer(with_content(b"\x81\x58\x40" + SIGNATURE)) == "malformed"


def test_an_empty_body_is_refused() -> None:
    assert at_mixer(with_content(b"\x82\x58\x40" + SIGNATURE)) == "malformed"


def test_a_third_item_is_refused() -> None:
    assert at_mixer(with_content(b"\x83" + BODY + b"\x58\x40" + SIGNATURE + b"\x00")) == "malformed"


def test_a_third_item_before_the_signature_is_refused() -> None:
    assert at_mixer(with_content(b"\x83" + BODY + b"\x00\x58\x40" + SIGNATURE)) == "malformed"


def test_a_third_item_that_the_head_hides_is_refused() -> None:
    assert at_mixer(with_content(b"\x82" + BODY + b"\x00\x58\x40" + SIGNATURE)) == "malformed"


def test_a_byte_after_the_signature_is_refused() -> None:
    assert at_mixer(with_content(b"\x82" + BODY + b"\x58\x40" + SIGNATURE + b"\x00")) == "malformed"


def test_a_map_instead_of_the_pair_is_refused() -> None:
    assert at_mixer(with_content(b"\xa1" + BODY + b"\x58\x40" + SIGNATURE)) == "malformed"


def test_a_pair_of_indefinite_length_is_refused() -> None:
    assert at_mixer(with_content(b"\x9f" + BODY + b"\x58\x40" + SIGNATURE + b"\xff")) == "malformed"


def test_a_pair_with_a_longer_head_than_needed_is_refused() -> None:
    assert at_mixer(with_content(b"\x98\x02" + BODY + b"\x58\x40" + SIGNATURE)) == "not_canonical"


def test_a_signature_with_a_longer_head_than_needed_is_refused() -> None:
    assert at_mixer(with_content(b"\x82" + BODY + b"\x59\x00\x40" + SIGNATURE)) == "not_canonical"


def test_a_tagged_pair_is_refused() -> None:
    assert at_mixer(with_content(b"\xd2\x82" + BODY + b"\x58\x40" + SIGNATURE)) == "malformed"


@pytest.mark.parametrize("size", [0, 1, 32, 63, 65, 128])
def test_a_signature_of_another_length_is_refused(size: int) -> None:
    assert at_mixer(with_content(cbor.encode([vendor_fields(PREFIX), (SIGNATURE * 2)[:size]]))) == "malformed"


def test_a_signature_that_is_text_is_refused() -> None:
    assert at_mixer(with_content(b"\x82" + BODY + b"\x78\x40" + b"a" * 64)) == "malformed"


def test_a_body_wrapped_in_a_byte_string_is_refused() -> None:
    assert at_mixer(with_body(cbor.encode(BODY))) == "malformed"


@pytest.mark.parametrize("value", [[], [1], "text", b"bytes", 1, None, True, 1.5])
def test_a_body_that_is_no_map_is_refused(value: Any) -> None:
    assert at_mixer(with_body(cbor.encode(value))) == "malformed"


# --- other bytes for the same body ------------------------------------------------------------------------


def test_a_body_whose_keys_are_not_sorted_is_refused() -> None:
    pairs = [cbor.encode(key) + cbor.encode(value) for key, value in vendor_fields(PREFIX).items()]
    assert at_mixer(with_body(BODY[:1] + b"".join(reversed(pairs)))) == "not_canonical"


def test_a_body_of_indefinite_length_is_refused() -> None:
    assert at_mixer(with_body(b"\xbf" + BODY[1:] + b"\xff")) == "malformed"


def test_a_body_with_a_longer_head_than_needed_is_refused() -> None:
    assert at_mixer(with_body(b"\xb8" + bytes((BODY[0] & 0x1F,)) + BODY[1:])) == "not_canonical"


def test_a_number_with_a_longer_head_than_needed_is_refused() -> None:
    assert at_mixer(respelled("Version", b"\x01", b"\x18\x01")) == "not_canonical"


def test_a_text_with_a_longer_head_than_needed_is_refused() -> None:
    assert at_mixer(respelled("Name", b"\x64gain", b"\x78\x04gain")) == "not_canonical"


def test_a_list_with_a_longer_head_than_needed_is_refused() -> None:
    assert at_mixer(respelled("Capabilities", b"\x81", b"\x98\x01")) == "not_canonical"


def test_a_text_in_pieces_is_refused() -> None:
    assert at_mixer(respelled("Name", b"\x64gain", b"\x7f\x62ga\x62in\xff")) == "malformed"


def test_a_field_that_is_there_twice_is_refused() -> None:
    twice = cbor.encode("ABI") + b"\x01"
    assert at_mixer(with_body(bytes((BODY[0] + 1,)) + twice + BODY[1:])) == "malformed"


def test_a_field_that_is_there_twice_in_two_spellings_is_refused() -> None:
    twice = b"\x78\x03ABI\x02"
    assert at_mixer(with_body(bytes((BODY[0] + 1,)) + twice + BODY[1:])) == "malformed"


def test_a_key_that_is_not_text_is_refused() -> None:
    assert at_mixer(with_body(bytes((BODY[0] + 1,)) + b"\x01\x01" + BODY[1:])) == "malformed"


def test_a_text_that_is_not_utf8_is_refused() -> None:
    assert at_mixer(respelled("Name", b"\x64gain", b"\x64ga\xffn")) == "malformed"


def test_a_tag_is_refused() -> None:
    assert at_mixer(respelled("Issued", b"\x1b", b"\xc1\x1b")) == "malformed"


@pytest.mark.parametrize("tag", [0, 1, 35, 72, 77, 85, 258, 55_799])
def test_a_tag_in_an_unknown_field_is_refused(tag: int) -> None:
    assert at_mixer(vendor_signed(PREFIX, Note=CBORTag(tag, bytes(4)))) == "malformed"
    assert at_rack(cluster_signed(SIGNED, Note=CBORTag(tag, bytes(4)))) == "malformed"


def test_a_number_as_a_big_integer_is_refused() -> None:
    assert at_mixer(respelled("Version", b"\x01", b"\xc2\x41\x01")) == "malformed"


def test_a_float_of_more_bytes_than_needed_is_refused() -> None:
    body = cbor.encode({**vendor_fields(PREFIX), "Gain": 1.5})
    assert at_mixer(with_body(body.replace(b"\xf9\x3e\x00", b"\xfa\x3f\xc0\x00\x00"))) == "not_canonical"


def test_a_nan_with_something_in_it_is_refused() -> None:
    body = cbor.encode({**vendor_fields(PREFIX), "Gain": float("nan")})
    assert at_mixer(with_body(body.replace(b"\xf9\x7e\x00", b"\xf9\x7e\x01"))) == "not_canonical"


def test_a_body_that_is_nested_too_deep_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    assert at_mixer(vendor_signed(PREFIX, Note=deep)) == "malformed"


def test_a_body_of_too_many_items_is_refused() -> None:
    assert at_mixer(vendor_signed(PREFIX, Note=[0] * LIMITS.max_signature_items)) == "malformed"


def test_a_list_that_claims_more_items_than_there_are_bytes_is_refused() -> None:
    assert at_mixer(respelled("Capabilities", b"\x81", b"\x9a\xff\xff\xff\xff")) == "malformed"


def test_a_text_that_claims_more_bytes_than_there_are_is_refused() -> None:
    assert at_mixer(respelled("Name", b"\x64", b"\x7b" + b"\xff" * 8)) == "malformed"


# --- fields -----------------------------------------------------------------------------------------------

VENDOR_FIELDS = tuple(vendor_fields(PREFIX))
CLUSTER_FIELDS = tuple(cluster_fields(SIGNED))
WRONG_TYPES: tuple[Any, ...] = (True, 1.5, -1, [1], {"a": 1}, b"", "")


@pytest.mark.parametrize("name", VENDOR_FIELDS)
def test_a_vendors_statement_without_a_field_is_refused(name: str) -> None:
    changes: Fields = {name: None}
    assert at_mixer(vendor_signed(PREFIX, **changes)) == "malformed"


@pytest.mark.parametrize("name", CLUSTER_FIELDS)
def test_a_clusters_statement_without_a_field_is_refused(name: str) -> None:
    changes: Fields = {name: None}
    assert at_rack(cluster_signed(SIGNED, **changes)) == "malformed"


@pytest.mark.parametrize("name", VENDOR_FIELDS)
def test_a_vendors_statement_with_a_field_of_another_type_is_refused(name: str) -> None:
    for value in WRONG_TYPES:
        changes: Fields = {name: value}
        expected = "bad_algorithm" if (name, value) == ("Algorithm", "") else "malformed"
        assert at_mixer(vendor_signed(PREFIX, **changes)) == expected, value


@pytest.mark.parametrize("name", CLUSTER_FIELDS)
def test_a_clusters_statement_with_a_field_of_another_type_is_refused(name: str) -> None:
    for value in WRONG_TYPES:
        changes: Fields = {name: value}
        expected = "bad_algorithm" if (name, value) == ("Algorithm", "") else "malformed"
        assert at_rack(cluster_signed(SIGNED, **changes)) == expected, value


@pytest.mark.parametrize("version", [0, 2, 255, 2**64 - 1])
def test_another_version_of_the_format_is_refused(version: int) -> None:
    assert at_mixer(vendor_signed(PREFIX, Version=version)) == "bad_version"
    assert at_rack(cluster_signed(SIGNED, Version=version)) == "bad_version"


@pytest.mark.parametrize("algorithm", ["none", "ed25519", "Ed25519ph", "Ed25519ctx", "HS256", "Ed25519\0"])
def test_another_algorithm_is_refused(algorithm: str) -> None:
    assert at_mixer(vendor_signed(PREFIX, Algorithm=algorithm)) == "bad_algorithm"
    assert at_rack(cluster_signed(SIGNED, Algorithm=algorithm)) == "bad_algorithm"


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_a_key_id_of_another_length_is_refused(size: int) -> None:
    assert at_mixer(vendor_signed(PREFIX, KeyID=bytes(size))) == "malformed"


@pytest.mark.parametrize("name", ["SHA256", "BLAKE3"])
def test_a_digest_of_another_length_is_refused(name: str) -> None:
    whole = vendor_fields(PREFIX)[name]
    for digest in (whole[:-1], whole + b"\0", whole[:16]):
        assert at_mixer(vendor_signed(PREFIX, **{name: digest})) == "malformed"


@pytest.mark.parametrize(
    "name", ["Gain", "../gain", "gain/../eq", "gain.wasm", "-gain", "gain\n", "gaïn", "a" * 64]
)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    assert at_mixer(vendor_signed(PREFIX, Name=name)) == "malformed"


@pytest.mark.parametrize(
    "version",
    ["1", "1.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.0-01", "1.0.0+", "1.0.0\n", "1.0.0-" + "a" * 64],
)
def test_a_version_that_is_not_semantic_is_refused(version: str) -> None:
    assert at_mixer(vendor_signed(PREFIX, ModuleVersion=version)) == "malformed"


@pytest.mark.parametrize("signer", ["a\nb", "\x1b[31mred", "a\u202eb", "a\0", "s" * 129])
def test_a_signer_that_does_not_print_is_refused(signer: str) -> None:
    assert at_mixer(vendor_signed(PREFIX, Signer=signer)) == "malformed"


@pytest.mark.parametrize("abi", [0, 2, 2**32])
def test_another_abi_is_refused(abi: int) -> None:
    assert at_mixer(vendor_signed(PREFIX, ABI=abi)) == "unknown_abi"
    assert at_rack(cluster_signed(SIGNED, ABI=abi)) == "unknown_abi"


def test_capabilities_that_are_not_sorted_are_refused() -> None:
    assert at_mixer(vendor_signed(PREFIX, Capabilities=["log", "audio"])) == "not_canonical"


def test_a_capability_that_is_listed_twice_is_refused() -> None:
    assert at_mixer(vendor_signed(PREFIX, Capabilities=["audio", "audio"])) == "not_canonical"


@pytest.mark.parametrize("capability", ["wasi", "Audio", "audio ", "", "*"])
def test_an_unknown_capability_is_refused(capability: str) -> None:
    assert at_mixer(vendor_signed(PREFIX, Capabilities=[capability])) == "unknown_capability"


def test_more_capabilities_than_the_limit_are_refused() -> None:
    many = ["audio"] * (LIMITS.max_capabilities + 1)
    assert at_mixer(vendor_signed(PREFIX, Capabilities=many)) == "malformed"


def test_grants_that_are_not_sorted_are_refused() -> None:
    assert at_rack(cluster_signed(SIGNED, Granted=["log", "audio"])) == "not_canonical"


def test_an_unknown_grant_is_refused() -> None:
    assert at_rack(cluster_signed(SIGNED, Granted=["audio", "network"])) == "unknown_capability"


def test_a_statement_that_expires_when_it_is_issued_is_refused() -> None:
    assert at_mixer(vendor_signed(PREFIX, Issued=NOW, Expires=NOW)) == "malformed"


def test_a_statement_that_expires_before_it_is_issued_is_refused() -> None:
    assert at_mixer(vendor_signed(PREFIX, Issued=NOW, Expires=NOW - 1)) == "malformed"


def test_a_cluster_that_has_no_legal_name_is_refused() -> None:
    assert at_rack(cluster_signed(SIGNED, ClusterID="Flux Test")) == "malformed"


@pytest.mark.parametrize("limit", list(ModuleLimits().wire()))
def test_limits_without_one_of_them_are_refused(limit: str) -> None:
    limits = {name: value for name, value in ModuleLimits().wire().items() if name != limit}
    assert at_rack(cluster_signed(SIGNED, Limits=limits)) == "malformed"


def test_a_limit_that_nobody_would_keep_is_refused() -> None:
    assert at_rack(cluster_signed(SIGNED, Limits={**ModuleLimits().wire(), "Files": 1})) == "malformed"


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("FuelPerBlock", 0),
        ("FuelPerBlock", LIMITS.fuel_per_block + 1),
        ("FuelPerBlock", 2**64 - 1),
        ("MemoryBytes", 65_535),
        ("MemoryBytes", LIMITS.memory_bytes + 1),
        ("TableElements", LIMITS.table_elements + 1),
        ("EpochMs", 0),
        ("EpochMs", LIMITS.epoch_ms + 1),
        ("RecordsPerSecond", LIMITS.records_per_s + 1),
        ("RecordBytes", LIMITS.record_bytes + 1),
    ],
)
def test_a_limit_beyond_what_this_software_allows_is_refused(limit: str, value: int) -> None:
    limits = {**ModuleLimits().wire(), limit: value}
    assert at_rack(cluster_signed(SIGNED, Limits=limits)) == "limit_not_allowed"


# --- what is not an attack --------------------------------------------------------------------------------


def test_a_field_of_a_later_release_is_signed_kept_and_ignored() -> None:
    data = vendor_signed(PREFIX, Homepage="https://vendor.example", Aux={"a": [1, 2.5, None]})
    found = verify_vendor(data, VENDOR.trust, now_ns=NOW).statement
    assert found.extra == {"Homepage": "https://vendor.example", "Aux": {"a": [1, 2.5, None]}}
    assert found.encode() in data


def test_a_field_of_a_later_release_in_a_clusters_statement_is_kept_too() -> None:
    data = cluster_signed(SIGNED, Ticket=7)
    found = verify_countersigned(data, cluster=CLUSTER, cluster_public=CLUSTER_PUBLIC, now_ns=NOW)
    assert (found.cluster.extra, found.cluster.statement.extra) == ({"Ticket": 7}, {})
    assert found.cluster.encode() in data
