"""Attacks with keys: unknown, revoked, of another purpose, and signatures that are no signatures.

The others: sections (test_structure_attacks.py), CBOR (test_cbor_attacks.py), times and grafts (test_graft_attacks.py).
"""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.envelope import DOMAIN_MODULE_CLUSTER, DOMAIN_MODULE_VENDOR
from stagebox.errors import ModuleError, VerificationError
from stagebox.modules.capabilities import Capability
from stagebox.modules.signature_section import CLUSTER_SECTION, VENDOR_SECTION, place, split_section
from stagebox.modules.statement import key_id
from stagebox.modules.vendor_root import VendorRoot, VendorRoots
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
    section_of,
    vendor_fields,
    vendor_signed,
)
from support.modules import (
    CLUSTER,
    CLUSTER_KEY,
    CLUSTER_PUBLIC,
    NOW,
    VENDOR,
    countersigned_module,
    make_vendor,
    signed_module,
    unsigned_module,
)

OTHER_VENDOR = make_vendor(2, owner="other-works")
STRANGER = SigningKey(bytes(range(64, 96)))
OTHER_CLUSTER = SigningKey(bytes(range(96, 128)))
DOMAINS = sorted(name for name in dir(envelope) if name.startswith("DOMAIN_"))
L = 2**252 + 27742317777372353535851937790883648493  # the order of Ed25519's group

PREFIX = unsigned_module()
SIGNED = signed_module()
COUNTERSIGNED = countersigned_module()
VENDOR_PART = SIGNED[len(PREFIX) :]


# --- what is good -----------------------------------------------------------------------------------------


def test_a_signed_module_is_accepted_with_the_very_bytes_that_were_verified() -> None:
    found = accepted_at_mixer(SIGNED)
    assert found.data == SIGNED
    assert found.digest == hashlib.sha256(SIGNED).digest()
    assert (found.public, found.root) == (VENDOR.root.public, VENDOR.root)
    assert (found.statement.name, found.statement.version) == ("gain", "1.0.0")
    assert [param.name for param in found.params] == ["gain"]


def test_a_countersigned_module_is_accepted_with_the_very_bytes_that_were_verified() -> None:
    found = accepted_at_rack(COUNTERSIGNED)
    assert found.data == COUNTERSIGNED
    assert found.digest == hashlib.sha256(COUNTERSIGNED).digest()
    assert found.vendor == accepted_at_mixer(SIGNED).statement
    assert (found.cluster.cluster, found.cluster.serial) == (CLUSTER, 1)
    assert found.cluster.granted == (Capability.AUDIO,)


def test_what_was_verified_does_not_change_with_the_buffer_it_came_in() -> None:
    buffer = bytearray(COUNTERSIGNED)
    found = accepted_at_rack(memoryview(buffer))  # type: ignore[arg-type]
    buffer[20] ^= 1
    assert found.data == COUNTERSIGNED


def test_nothing_before_the_signatures_is_changed() -> None:
    padded = b"\0asm\1\0\0\0" + b"\x01\x81\x80\x80\x80\x00\x00"
    signed = signed_module(padded)
    assert signed.startswith(padded)
    assert countersigned_module(signed).startswith(signed)
    assert accepted_at_mixer(signed).data[: len(padded)] == padded


# --- keys -------------------------------------------------------------------------------------------------


def test_a_vendor_that_is_not_known_is_refused() -> None:
    assert at_mixer(signed_module(vendor=OTHER_VENDOR)) == "unknown_key"


def test_no_vendor_is_known_without_roots() -> None:
    assert at_mixer(SIGNED, VendorRoots([])) == "unknown_key"


def test_a_revoked_vendor_is_refused() -> None:
    assert at_mixer(SIGNED, VENDOR.but(revoked=True, reason="key lost")) == "revoked_key"


def test_a_root_that_has_expired_is_refused() -> None:
    assert at_mixer(SIGNED, VENDOR.but(not_after=NOW)) == "key_expired"


def test_a_root_is_good_until_the_last_nanosecond() -> None:
    assert verify_vendor(SIGNED, VENDOR.but(not_after=NOW + 1), now_ns=NOW)


def test_a_root_that_is_not_valid_yet_is_refused() -> None:
    assert at_mixer(SIGNED, VENDOR.but(not_before=NOW + 1)) == "key_not_yet_valid"


def test_a_root_found_under_the_id_of_another_key_is_refused() -> None:
    class Confused:
        def find(self, key_id: bytes, /) -> VendorRoot | None:
            return OTHER_VENDOR.root

    with pytest.raises(ModuleError) as refused:
        verify_vendor(SIGNED, Confused(), now_ns=NOW)
    assert refused.value.code == "unknown_key"


def test_a_strangers_signature_under_a_known_key_id_is_refused() -> None:
    own = key_id(VENDOR.root.public)
    assert at_mixer(vendor_signed(PREFIX, key=STRANGER, KeyID=own)) == "bad_signature"


def test_a_known_signature_under_a_strangers_key_id_is_refused() -> None:
    assert at_mixer(vendor_signed(PREFIX, KeyID=key_id(bytes(STRANGER.verify_key)))) == "unknown_key"


def test_a_signer_is_no_key() -> None:
    assert at_mixer(vendor_signed(PREFIX, key=STRANGER, Signer="tone-works")) == "unknown_key"


def test_a_name_the_vendor_may_not_use_is_refused() -> None:
    assert at_mixer(SIGNED, VENDOR.but(modules=("eq-*", "gain-*"))) == "name_not_allowed"


def test_a_vendor_that_may_name_nothing_is_refused() -> None:
    assert at_mixer(SIGNED, VENDOR.but(modules=())) == "name_not_allowed"


def test_a_capability_the_vendor_may_not_ask_for_is_refused() -> None:
    wants = signed_module(capabilities=(Capability.AUDIO, Capability.CLOCK))
    assert at_mixer(wants, VENDOR.but(capabilities=(Capability.AUDIO,))) == "capability_not_allowed"


def test_a_countersignature_of_another_cluster_is_refused() -> None:
    assert at_rack(countersigned_module(key=OTHER_CLUSTER, cluster="flux-other")) == "unknown_key"


def test_a_countersignature_of_another_cluster_in_our_name_is_refused() -> None:
    assert at_rack(countersigned_module(key=OTHER_CLUSTER)) == "unknown_key"


def test_a_countersignature_of_another_cluster_under_our_key_id_is_refused() -> None:
    forged = cluster_signed(SIGNED, key=OTHER_CLUSTER, KeyID=key_id(CLUSTER_PUBLIC))
    assert at_rack(forged) == "bad_signature"


# --- signatures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", range(0, 512, 7))
def test_a_flipped_bit_of_a_signature_is_refused(bit: int) -> None:
    flipped = (int.from_bytes(SIGNED[-64:], "big") ^ 1 << bit).to_bytes(64, "big")
    assert at_mixer(resigned(SIGNED, flipped)) == "bad_signature"


def test_a_signature_of_zeros_is_refused() -> None:
    assert at_mixer(resigned(SIGNED, bytes(64))) == "bad_signature"
    assert at_rack(resigned(COUNTERSIGNED, bytes(64))) == "bad_signature"


def test_a_second_spelling_of_a_signature_is_refused() -> None:
    scalar = int.from_bytes(SIGNED[-32:], "little") + L
    assert at_mixer(resigned(SIGNED, SIGNED[-64:-32] + scalar.to_bytes(32, "little"))) == "bad_signature"


@pytest.mark.parametrize("public", [b"\1" + bytes(31), bytes(32), bytes(31) + b"\x80"])
def test_a_key_of_small_order_verifies_nothing(public: bytes) -> None:
    root = dataclasses.replace(VENDOR.root, public=public)
    # With such a key, R = A and S = 0 would verify for about every eighth message in a lax library.
    for number in range(32):
        body = cbor.encode({**vendor_fields(PREFIX), "KeyID": key_id(public), "Try": number})
        content = b"\x82" + body + b"\x58\x40" + public + bytes(32)
        assert (
            at_mixer(PREFIX + custom_section(VENDOR_SECTION, content), VendorRoots([root])) == "bad_signature"
        )


def test_the_body_of_one_signature_with_the_bytes_of_another_is_refused() -> None:
    assert at_mixer(resigned(SIGNED, signed_module(version="1.0.1")[-64:])) == "bad_signature"


def test_a_field_that_was_changed_after_signing_is_refused() -> None:
    at = SIGNED.index(b"1.0.0", len(PREFIX))
    assert at_mixer(SIGNED[:at] + b"9.0.0" + SIGNED[at + 5 :]) == "bad_signature"


def test_grants_that_were_changed_after_countersigning_are_refused() -> None:
    at = COUNTERSIGNED.index(b"Granted\x81\x65audio") + len(b"Granted\x81\x65")
    assert at_rack(COUNTERSIGNED[:at] + b"clock" + COUNTERSIGNED[at + 5 :]) == "bad_signature"


# --- purposes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in DOMAINS if not name.startswith("DOMAIN_MODULE")])
def test_a_vendors_signature_for_any_other_purpose_is_refused(name: str) -> None:
    assert at_mixer(vendor_signed(PREFIX, domain=getattr(envelope, name))) == "bad_signature"


@pytest.mark.parametrize("name", [name for name in DOMAINS if not name.startswith("DOMAIN_MODULE")])
def test_a_clusters_signature_for_any_other_purpose_is_refused(name: str) -> None:
    assert at_rack(cluster_signed(SIGNED, domain=getattr(envelope, name))) == "bad_signature"


def test_a_signature_without_a_domain_is_refused() -> None:
    assert at_mixer(vendor_signed(PREFIX, domain=b"")) == "bad_signature"
    assert at_rack(cluster_signed(SIGNED, domain=b"")) == "bad_signature"


def test_a_vendors_statement_signed_as_a_clusters_is_refused() -> None:
    assert at_mixer(vendor_signed(PREFIX, domain=DOMAIN_MODULE_CLUSTER)) == "wrong_purpose_key"


def test_a_clusters_statement_signed_as_a_vendors_is_refused() -> None:
    assert at_rack(cluster_signed(SIGNED, domain=DOMAIN_MODULE_VENDOR)) == "wrong_purpose_key"


def test_the_cluster_authority_is_no_vendor() -> None:
    assert at_mixer(vendor_signed(PREFIX, key=CLUSTER_KEY)) == "wrong_purpose_key"


def test_the_cluster_authority_is_no_vendor_though_a_root_says_so() -> None:
    root = dataclasses.replace(VENDOR.root, public=CLUSTER_PUBLIC)
    assert at_mixer(vendor_signed(PREFIX, key=CLUSTER_KEY), VendorRoots([root])) == "wrong_purpose_key"


@pytest.mark.parametrize("domain", [DOMAIN_MODULE_VENDOR, DOMAIN_MODULE_CLUSTER])
def test_the_cluster_authority_does_not_sign_in_a_vendors_name(domain: bytes) -> None:
    own = key_id(VENDOR.root.public)
    assert at_mixer(vendor_signed(PREFIX, key=CLUSTER_KEY, domain=domain, KeyID=own)) == "wrong_purpose_key"


def test_a_vendor_is_no_cluster_authority() -> None:
    assert at_rack(cluster_signed(SIGNED, key=VENDOR.key)) == "wrong_purpose_key"


def test_a_vendor_is_no_cluster_authority_under_the_clusters_key_id() -> None:
    forged = cluster_signed(SIGNED, key=VENDOR.key, KeyID=key_id(CLUSTER_PUBLIC))
    assert at_rack(forged) == "bad_signature"


def test_another_vendor_is_no_cluster_authority() -> None:
    assert at_rack(cluster_signed(SIGNED, key=OTHER_VENDOR.key)) == "unknown_key"


def test_the_cluster_authority_does_not_vouch_for_itself() -> None:
    assert at_rack(cluster_signed(vendor_signed(PREFIX, key=CLUSTER_KEY))) == "wrong_purpose_key"


def test_a_vendors_section_under_the_clusters_name_is_refused() -> None:
    content = VENDOR_PART[VENDOR_PART.index(b"\x82") :]
    assert at_rack(SIGNED + custom_section(CLUSTER_SECTION, content)) == "malformed"


def test_a_clusters_section_under_the_vendors_name_is_refused() -> None:
    body = cbor.encode(cluster_fields(PREFIX))
    section = section_of(VENDOR_SECTION, body, CLUSTER_KEY, DOMAIN_MODULE_CLUSTER)
    assert at_mixer(PREFIX + section) == "wrong_purpose_key"


def test_a_clusters_section_as_the_vendors_is_refused_at_the_rack_too() -> None:
    body = cbor.encode(cluster_fields(PREFIX))
    section = section_of(VENDOR_SECTION, body, CLUSTER_KEY, DOMAIN_MODULE_CLUSTER)
    assert at_rack(cluster_signed(PREFIX + section)) == "wrong_purpose_key"


def test_a_modules_signature_opens_no_envelope() -> None:
    section = place(walk(COUNTERSIGNED)).cluster
    assert section is not None
    body, signature = split_section(COUNTERSIGNED, section)
    for name in DOMAINS:
        if name != "DOMAIN_MODULE_CLUSTER":
            with pytest.raises(VerificationError):
                envelope.verify(getattr(envelope, name), body, signature, CLUSTER_PUBLIC)
