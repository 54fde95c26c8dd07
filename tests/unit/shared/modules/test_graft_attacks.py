"""Attacks with true signatures of other things: replayed, grafted, covering less, and of statements that disagree."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from blake3 import blake3

from stagebox.errors import ModuleError
from stagebox.modules.agreement import check_agreement
from stagebox.modules.capabilities import Capability
from stagebox.modules.limits import LIMITS
from stagebox.modules.statement import ClusterStatement, Statement
from stagebox.modules.verification import verify_vendor
from stagebox.modules.walker import custom_section, walk
from support.forging import (
    accepted_at_mixer,
    accepted_at_rack,
    at_mixer,
    at_rack,
    cluster_fields,
    cluster_signed,
    resigned,
    vendor_fields,
    vendor_signed,
)
from support.modules import (
    DAY,
    NOW,
    VENDOR,
    assemble,
    countersigned_module,
    gain_wat,
    make_vendor,
    signed_module,
    unsigned_module,
)

OTHER_VENDOR = make_vendor(2, owner="other-works")

PREFIX = unsigned_module()
SIGNED = signed_module()
COUNTERSIGNED = countersigned_module()
VENDOR_PART = SIGNED[len(PREFIX) :]
CLUSTER_PART = COUNTERSIGNED[len(SIGNED) :]
# A module of the same length whose process begins with another instruction.
OTHER_PREFIX = unsigned_module(gain_wat(process="(drop (i32.const 1))"))
SAME_SIZE = unsigned_module(gain_wat(process="(drop (i32.const 2))"))


# --- time, replay and downgrade ---------------------------------------------------------------------------


def test_a_vendors_signature_is_good_until_the_last_nanosecond() -> None:
    expires = accepted_at_mixer(SIGNED).statement.expires
    assert accepted_at_mixer(SIGNED, now_ns=expires - 1)
    assert at_mixer(SIGNED, now_ns=expires) == "expired"


def test_a_countersignature_is_good_until_the_last_nanosecond() -> None:
    expires = accepted_at_rack(COUNTERSIGNED).cluster.statement.expires
    assert accepted_at_rack(COUNTERSIGNED, now_ns=expires - 1)
    assert at_rack(COUNTERSIGNED, now_ns=expires) == "expired"


def test_a_vendors_signature_of_the_future_is_refused() -> None:
    ahead = vendor_signed(PREFIX, Issued=NOW + LIMITS.clock_skew_ns + 1)
    assert at_mixer(ahead) == "not_yet_valid"


def test_a_vendors_clock_may_be_a_little_ahead() -> None:
    assert accepted_at_mixer(vendor_signed(PREFIX, Issued=NOW + LIMITS.clock_skew_ns))


def test_how_far_a_clock_may_be_ahead_is_the_callers_to_say() -> None:
    ahead = vendor_signed(PREFIX, Issued=NOW + 1)
    with pytest.raises(ModuleError) as refused:
        verify_vendor(ahead, VENDOR.trust, now_ns=NOW, skew_ns=0)
    assert refused.value.code == "not_yet_valid"


def test_a_countersignature_of_the_future_is_refused() -> None:
    assert at_rack(cluster_signed(SIGNED, Issued=NOW + LIMITS.clock_skew_ns + 1)) == "not_yet_valid"


def test_a_module_that_was_countersigned_before_it_was_signed_is_refused() -> None:
    early = NOW - DAY - LIMITS.clock_skew_ns - 1
    assert at_rack(cluster_signed(SIGNED, Issued=early)) == "not_yet_valid"


def test_a_countersignature_for_another_cluster_by_the_same_key_is_refused() -> None:
    assert at_rack(COUNTERSIGNED, cluster="flux-other") == "wrong_cluster"


def test_a_countersignature_is_not_good_for_the_next_version() -> None:
    assert at_rack(signed_module(version="1.0.1") + CLUSTER_PART) == "wrong_digest"


def test_a_countersignature_is_not_good_for_a_longer_version() -> None:
    assert at_rack(signed_module(version="1.0.10") + CLUSTER_PART) == "wrong_offset"


def test_a_vendors_signature_is_not_good_for_the_next_build() -> None:
    assert len(OTHER_PREFIX) != len(PREFIX)
    assert at_mixer(OTHER_PREFIX + VENDOR_PART) == "wrong_offset"


# --- what is covered --------------------------------------------------------------------------------------


def test_a_flipped_bit_in_the_code_is_refused_at_import() -> None:
    at = PREFIX.rindex(b"\x94")  # f32.mul
    assert at_mixer(SIGNED[:at] + b"\x95" + SIGNED[at + 1 :]) == "wrong_digest"


def test_a_flipped_bit_in_the_code_is_refused_at_the_rack() -> None:
    at = PREFIX.rindex(b"\x94")
    assert at_rack(COUNTERSIGNED[:at] + b"\x95" + COUNTERSIGNED[at + 1 :]) == "wrong_digest"


def test_a_flipped_bit_in_the_code_is_refused_though_the_cluster_signed_it() -> None:
    at = PREFIX.rindex(b"\x94")
    assert at_rack(cluster_signed(SIGNED[:at] + b"\x95" + SIGNED[at + 1 :])) == "wrong_digest"


def test_a_padded_number_in_an_ordinary_section_is_another_module() -> None:
    first = walk(PREFIX)[0]
    size = first.end - first.payload
    padded = bytes((first.id, size | 0x80, 0)) + PREFIX[first.payload :]
    data = PREFIX[: first.start] + padded
    assert [section.id for section in walk(data)] == [section.id for section in walk(PREFIX)]
    assert at_mixer(data + VENDOR_PART) == "wrong_offset"


@pytest.mark.parametrize("covered", [0, 8, len(PREFIX) - 1, len(PREFIX) + 1, len(SIGNED), 2**32, 2**64 - 1])
def test_a_signature_that_covers_another_length_is_refused(covered: int) -> None:
    assert at_mixer(vendor_signed(PREFIX, Covered=covered)) == "wrong_offset"


def test_a_signature_of_a_part_does_not_cover_what_was_put_behind_it() -> None:
    part = PREFIX[: walk(PREFIX)[-1].start]
    fields = {name: vendor_fields(part)[name] for name in ("Covered", "SHA256", "BLAKE3")}
    assert at_mixer(vendor_signed(PREFIX, **fields)) == "wrong_offset"
    assert at_mixer(vendor_signed(PREFIX, **fields | {"Covered": len(PREFIX)})) == "wrong_digest"


def test_a_countersignature_that_leaves_the_vendor_out_is_refused() -> None:
    fields = {name: cluster_fields(PREFIX)[name] for name in ("Covered", "SHA256", "BLAKE3")}
    assert at_rack(cluster_signed(SIGNED, **fields)) == "wrong_offset"
    assert at_rack(cluster_signed(SIGNED, **fields | {"Covered": len(SIGNED)})) == "wrong_digest"


def test_both_digests_have_to_be_right() -> None:
    sha256, blake = hashlib.sha256(SAME_SIZE).digest(), blake3(SAME_SIZE).digest()
    assert at_mixer(vendor_signed(PREFIX, SHA256=sha256)) == "wrong_digest"
    assert at_mixer(vendor_signed(PREFIX, BLAKE3=blake)) == "wrong_digest"
    assert at_mixer(vendor_signed(PREFIX, SHA256=vendor_fields(PREFIX)["BLAKE3"])) == "wrong_digest"


def test_both_digests_of_a_countersignature_have_to_be_right() -> None:
    assert at_rack(cluster_signed(SIGNED, SHA256=bytes(32))) == "wrong_digest"
    assert at_rack(cluster_signed(SIGNED, BLAKE3=bytes(32))) == "wrong_digest"


# --- grafts -----------------------------------------------------------------------------------------------


def test_a_signature_taken_from_a_module_of_the_same_size_is_refused() -> None:
    assert len(SAME_SIZE) == len(OTHER_PREFIX)
    other = vendor_signed(SAME_SIZE)
    assert at_mixer(OTHER_PREFIX + other[len(SAME_SIZE) :]) == "wrong_digest"


def test_both_signatures_taken_from_a_module_of_the_same_size_are_refused() -> None:
    other = cluster_signed(vendor_signed(SAME_SIZE))
    assert at_rack(OTHER_PREFIX + other[len(SAME_SIZE) :]) == "wrong_digest"


def test_a_countersignature_taken_from_another_module_is_refused() -> None:
    other = cluster_signed(vendor_signed(OTHER_PREFIX))
    own = other[len(vendor_signed(OTHER_PREFIX)) :]
    assert at_rack(SIGNED + own) == "wrong_offset"


def test_a_vendors_signature_replaced_under_the_countersignature_is_refused() -> None:
    other = vendor_signed(PREFIX, key=OTHER_VENDOR.key)
    assert len(other) == len(SIGNED)
    assert at_rack(other + CLUSTER_PART) == "wrong_digest"


def test_a_vendors_signature_made_again_under_the_countersignature_is_refused() -> None:
    later = signed_module(issued=NOW - DAY + 1)
    assert len(later) == len(SIGNED)
    assert at_rack(later + CLUSTER_PART) == "wrong_digest"


def test_a_forged_vendors_signature_under_the_countersignature_is_refused() -> None:
    assert at_rack(resigned(SIGNED, bytes(64)) + CLUSTER_PART) == "wrong_digest"


def test_a_vendors_statement_of_another_module_is_refused_though_the_cluster_signed_over_it() -> None:
    graft = SAME_SIZE + vendor_signed(OTHER_PREFIX)[len(OTHER_PREFIX) :]
    assert at_rack(cluster_signed(graft)) == "wrong_digest"


def test_a_vendors_statement_of_a_shorter_module_is_refused_though_the_cluster_signed_over_it() -> None:
    assert at_rack(cluster_signed(OTHER_PREFIX + VENDOR_PART)) == "wrong_offset"


# --- where the two statements have to agree ---------------------------------------------------------------


def test_a_countersignature_of_another_name_is_refused() -> None:
    assert at_rack(cluster_signed(SIGNED, Name="limiter")) == "wrong_name"


def test_a_countersignature_of_another_version_is_refused() -> None:
    assert at_rack(cluster_signed(SIGNED, ModuleVersion="1.0.1")) == "wrong_module_version"


def test_a_countersignature_of_another_build_of_the_version_is_refused() -> None:
    assert at_rack(cluster_signed(SIGNED, ModuleVersion="1.0.0+2")) == "wrong_module_version"


def test_a_countersignature_that_asks_for_more_is_refused() -> None:
    assert at_rack(cluster_signed(SIGNED, Capabilities=["audio", "clock"])) == "wrong_capabilities"


def test_a_countersignature_that_asks_for_less_is_refused() -> None:
    assert at_rack(cluster_signed(SIGNED, Capabilities=[], Granted=[])) == "wrong_capabilities"


def test_a_grant_that_the_vendor_did_not_ask_for_is_refused() -> None:
    assert at_rack(cluster_signed(SIGNED, Granted=["audio", "emit"])) == "capability_not_allowed"


def test_a_grant_of_less_than_asked_for_is_accepted() -> None:
    signed = signed_module(capabilities=(Capability.AUDIO, Capability.LOG))
    assert accepted_at_rack(countersigned_module(signed)).cluster.granted == (Capability.AUDIO,)


def test_a_countersignature_that_outlives_the_vendors_is_refused() -> None:
    assert at_rack(cluster_signed(SIGNED, Expires=NOW + 90 * DAY + 1)) == "expiry_too_late"


def test_a_countersignature_that_lasts_as_long_as_the_vendors_is_accepted() -> None:
    assert accepted_at_rack(cluster_signed(SIGNED, Expires=NOW + 90 * DAY))


def test_a_countersignature_of_another_abi_is_refused() -> None:
    found = accepted_at_rack(COUNTERSIGNED)
    own = dataclasses.replace(found.cluster.statement, abi=2)
    with pytest.raises(ModuleError) as refused:
        check_agreement(found.vendor, dataclasses.replace(found.cluster, statement=own))
    assert refused.value.code == "wrong_abi"


def test_parameters_that_are_none_are_refused_at_both_ends() -> None:
    wasm = assemble(gain_wat()) + custom_section("stagebox.params", b"\x81\xa0")
    assert at_mixer(vendor_signed(wasm)) == "bad_params"
    assert at_rack(cluster_signed(vendor_signed(wasm))) == "bad_params"


# --- the statements that racks and mixers hand on ---------------------------------------------------------


def test_statements_read_back_as_they_were_signed() -> None:
    found = accepted_at_rack(COUNTERSIGNED)
    assert Statement.decode(found.vendor.encode()) == found.vendor
    assert ClusterStatement.decode(found.cluster.encode()) == found.cluster
