"""Attacks on where signatures stand and how their sections are written. Each has its reason.

Both ends use the same walk, so what is shown at one of them holds at the other; what differs is shown at both.
"""

from __future__ import annotations

import pytest

from stagebox import envelope
from stagebox.envelope import DOMAIN_MODULE_CLUSTER, DOMAIN_MODULE_VENDOR
from stagebox.modules.limits import LIMITS
from stagebox.modules.signature_section import CLUSTER_SECTION, VENDOR_SECTION
from stagebox.modules.verification import verify_countersigned, verify_vendor
from stagebox.modules.walker import Section, custom_section, encode_u32, walk
from support.forging import at_mixer, at_rack, cluster_signed, padded_u32, vendor_signed
from support.modules import (
    CLUSTER,
    CLUSTER_PUBLIC,
    NOW,
    VENDOR,
    countersigned_module,
    signed_module,
    unsigned_module,
)

PREFIX = unsigned_module()
SIGNED = signed_module()
COUNTERSIGNED = countersigned_module()
VENDOR_PART = SIGNED[len(PREFIX) :]
CLUSTER_PART = COUNTERSIGNED[len(SIGNED) :]
NOTE = custom_section("note", b"harmless")


def rewritten(data: bytes, *, size_bytes: int, name_bytes: int) -> bytes:
    """Return ``data`` with the numbers of its last section written longer than needed."""
    section: Section = walk(data)[-1]
    name = str(section.name).encode()
    payload = padded_u32(len(name), name_bytes) + name + data[section.content :]
    return data[: section.start] + b"\0" + padded_u32(len(payload), size_bytes) + payload


def test_the_modules_that_are_attacked_here_are_good() -> None:
    assert verify_vendor(SIGNED, VENDOR.trust, now_ns=NOW).data == SIGNED
    verified = verify_countersigned(COUNTERSIGNED, cluster=CLUSTER, cluster_public=CLUSTER_PUBLIC, now_ns=NOW)
    assert verified.data == COUNTERSIGNED == PREFIX + VENDOR_PART + CLUSTER_PART


def test_an_unsigned_module_is_refused_at_import() -> None:
    assert at_mixer(PREFIX) == "missing_signature"


def test_an_unsigned_module_is_refused_at_the_rack() -> None:
    assert at_rack(PREFIX) == "missing_signature"


def test_a_module_that_only_the_vendor_signed_is_refused_at_the_rack() -> None:
    assert at_rack(SIGNED) == "missing_countersignature"


def test_a_module_that_only_the_cluster_signed_is_refused_at_the_rack() -> None:
    assert at_rack(cluster_signed(PREFIX)) == "missing_signature"


def test_a_module_that_only_the_cluster_signed_is_refused_at_import() -> None:
    assert at_mixer(cluster_signed(PREFIX)) == "missing_signature"


def test_a_countersigned_module_is_not_imported_again() -> None:
    assert at_mixer(COUNTERSIGNED) == "already_countersigned"


def test_a_vendors_signature_that_is_there_twice_is_refused() -> None:
    assert at_mixer(SIGNED + VENDOR_PART) == "duplicate_signature"


def test_a_second_signature_that_verifies_does_not_stand_for_the_first() -> None:
    assert at_mixer(vendor_signed(SIGNED)) == "duplicate_signature"


def test_a_countersignature_that_is_there_twice_is_refused() -> None:
    assert at_rack(COUNTERSIGNED + CLUSTER_PART) == "duplicate_signature"


def test_a_second_countersignature_that_verifies_is_refused() -> None:
    assert at_rack(cluster_signed(COUNTERSIGNED)) == "duplicate_signature"


def test_a_countersignature_before_the_vendors_signature_is_refused() -> None:
    assert at_rack(PREFIX + CLUSTER_PART + VENDOR_PART) == "misplaced_signature"


def test_a_countersignature_that_the_vendor_signed_over_is_refused() -> None:
    assert at_rack(vendor_signed(cluster_signed(PREFIX))) == "misplaced_signature"


def test_a_section_between_the_signatures_is_refused() -> None:
    assert at_rack(SIGNED + NOTE + CLUSTER_PART) == "misplaced_signature"


def test_a_section_between_the_signatures_is_refused_also_if_it_is_countersigned() -> None:
    assert at_rack(cluster_signed(SIGNED + NOTE)) == "misplaced_signature"


def test_a_section_after_the_vendors_signature_is_refused() -> None:
    assert at_mixer(SIGNED + NOTE) == "trailing_section"


def test_a_nameless_section_after_the_vendors_signature_is_refused() -> None:
    assert at_mixer(SIGNED + custom_section("", b"")) == "trailing_section"


def test_code_after_the_vendors_signature_is_refused() -> None:
    assert at_mixer(SIGNED + b"\x0b\x01\x00") == "trailing_section"


def test_a_section_after_the_countersignature_is_refused() -> None:
    assert at_rack(COUNTERSIGNED + NOTE) == "trailing_section"


def test_parameters_after_the_countersignature_are_refused() -> None:
    assert at_rack(COUNTERSIGNED + custom_section("stagebox.params", b"\x80")) == "trailing_section"


def test_a_signature_that_is_not_last_is_refused() -> None:
    first = walk(PREFIX)[0].start
    assert at_mixer(PREFIX[:first] + VENDOR_PART + PREFIX[first:]) == "trailing_section"


def test_bytes_after_the_vendors_signature_are_refused() -> None:
    assert at_mixer(SIGNED + b"\0") == "overrun"


def test_bytes_after_the_countersignature_are_refused() -> None:
    assert at_rack(COUNTERSIGNED + b"\0\0") == "overrun"


def test_a_vendors_signature_cut_short_is_refused() -> None:
    assert at_mixer(SIGNED[:-1]) == "overrun"


def test_a_countersignature_cut_short_is_refused() -> None:
    assert at_rack(COUNTERSIGNED[:-1]) == "overrun"


@pytest.mark.parametrize(
    "name", ["fluxrig.", "fluxrig.signature2", "fluxrig.signature\0", "fluxrig.cluster", "fluxrig.Signature"]
)
def test_no_other_section_has_a_name_of_a_signatures(name: str) -> None:
    assert at_mixer(vendor_signed(PREFIX + custom_section(name, b""))) == "reserved_name"


@pytest.mark.parametrize(
    "name", ["fluxrig", "Fluxrig.signature", " fluxrig.signature", "fluxrig\u2024signature", "signature"]
)
def test_a_signature_under_a_similar_name_is_none(name: str) -> None:
    content = VENDOR_PART[VENDOR_PART.index(VENDOR_SECTION.encode()) + len(VENDOR_SECTION) :]
    assert at_mixer(PREFIX + custom_section(name, content)) == "missing_signature"


def test_a_signature_hidden_in_another_section_is_none() -> None:
    assert at_mixer(PREFIX + custom_section("note", VENDOR_PART)) == "missing_signature"


def test_a_signature_in_a_data_section_is_none() -> None:
    assert at_rack(PREFIX + custom_section("note", VENDOR_PART + CLUSTER_PART)) == "missing_signature"


def test_a_vendors_section_of_a_padded_size_is_refused() -> None:
    assert at_mixer(rewritten(SIGNED, size_bytes=5, name_bytes=1)) == "not_canonical"


def test_a_vendors_section_of_a_padded_name_length_is_refused() -> None:
    assert at_mixer(rewritten(SIGNED, size_bytes=2, name_bytes=2)) == "not_canonical"


def test_a_clusters_section_of_a_padded_size_is_refused() -> None:
    assert at_rack(rewritten(COUNTERSIGNED, size_bytes=3, name_bytes=1)) == "not_canonical"


def test_a_clusters_section_of_a_padded_name_length_is_refused() -> None:
    assert at_rack(rewritten(COUNTERSIGNED, size_bytes=2, name_bytes=4)) == "not_canonical"


def test_a_vendors_section_that_was_padded_before_it_was_countersigned_is_refused() -> None:
    assert at_rack(cluster_signed(rewritten(SIGNED, size_bytes=5, name_bytes=1))) == "not_canonical"


def test_a_vendors_section_over_the_limit_is_refused() -> None:
    large = vendor_signed(PREFIX, Note="x" * LIMITS.max_signature_section_bytes)
    assert at_mixer(large) == "too_large"


def test_a_clusters_section_over_the_limit_is_refused() -> None:
    large = cluster_signed(SIGNED, Note=bytes(LIMITS.max_signature_section_bytes))
    assert at_rack(large) == "too_large"


def test_a_module_over_the_limit_is_refused_though_it_is_signed() -> None:
    large = vendor_signed(PREFIX + custom_section("note", bytes(LIMITS.max_module_bytes)))
    assert at_mixer(large) == "too_large"


def test_a_module_of_too_many_sections_is_refused_though_it_is_signed() -> None:
    assert at_mixer(vendor_signed(PREFIX + NOTE * LIMITS.max_sections)) == "too_many_sections"


@pytest.mark.parametrize(
    ("tail", "code"),
    [
        (b"\x0e\x00", "unknown_section"),
        (b"\x01\x01\x00", "duplicate_section"),
        (b"\x04\x01\x00", "section_order"),
        (b"\x00\x02\x01\xff", "not_utf8"),
        (b"\x0b\x80\x80\x80\x80\x80\x00", "leb_too_long"),
        (b"\x0b\x80\x80\x80\x80\x10", "leb_overflow"),
        (b"\x0b\xff\xff\x03", "overrun"),
    ],
)
def test_a_trusted_signature_does_not_make_a_malformed_module_good(tail: bytes, code: str) -> None:
    assert at_mixer(vendor_signed(PREFIX + tail)) == code
    assert at_rack(cluster_signed(vendor_signed(PREFIX + tail))) == code


def test_something_that_is_no_module_is_refused_though_it_is_signed() -> None:
    assert at_mixer(vendor_signed(b"#!/bin/sh\n")) == "bad_preamble"


def test_a_signature_of_64_bare_bytes_is_refused() -> None:
    bare = VENDOR.key.sign(PREFIX).signature
    assert at_mixer(PREFIX + custom_section(VENDOR_SECTION, bare)) == "malformed"


def test_a_countersignature_of_64_bare_bytes_is_refused() -> None:
    bare = VENDOR.key.sign(DOMAIN_MODULE_CLUSTER + SIGNED).signature
    assert at_rack(SIGNED + custom_section(CLUSTER_SECTION, bare)) == "malformed"


def test_an_empty_signature_section_is_refused() -> None:
    assert at_mixer(PREFIX + custom_section(VENDOR_SECTION, b"")) == "malformed"


def test_the_sections_name_alone_is_no_signature() -> None:
    name = VENDOR_SECTION.encode()
    assert at_mixer(PREFIX + b"\0" + encode_u32(len(name)) + name) == "overrun"


def test_an_envelope_is_no_signature_section() -> None:
    sealed = envelope.seal(DOMAIN_MODULE_VENDOR, b"\xa0", VENDOR.key)
    assert at_mixer(PREFIX + custom_section(VENDOR_SECTION, sealed)) == "malformed"
