"""Modules as an attacker makes them: sections and statements that the signing code would never write.

What is signed here is signed with real keys, so that a refusal is for its one reason and not for a broken signature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
from blake3 import blake3
from nacl.signing import SigningKey

from stagebox import cbor
from stagebox.envelope import DOMAIN_MODULE_CLUSTER, DOMAIN_MODULE_VENDOR
from stagebox.errors import ModuleError
from stagebox.modules.signature_section import CLUSTER_SECTION, VENDOR_SECTION
from stagebox.modules.statement import ModuleLimits, key_id
from stagebox.modules.vendor_root import VendorRoots
from stagebox.modules.verification import Countersigned, Signed, verify_countersigned, verify_vendor
from stagebox.modules.walker import custom_section
from support.modules import CLUSTER, CLUSTER_KEY, CLUSTER_PUBLIC, DAY, NOW, VENDOR

Fields = dict[str, Any]


def vendor_fields(prefix: bytes, key: SigningKey = VENDOR.key) -> Fields:
    """Return the true fields of a vendor's statement of ``prefix``."""
    return {
        "Version": 1,
        "Algorithm": "Ed25519",
        "KeyID": key_id(bytes(key.verify_key)),
        "Covered": len(prefix),
        "SHA256": hashlib.sha256(prefix).digest(),
        "BLAKE3": blake3(prefix).digest(),
        "Signer": "tone-works",
        "Name": "gain",
        "ModuleVersion": "1.0.0",
        "ABI": 1,
        "Capabilities": ["audio"],
        "Issued": NOW - DAY,
        "Expires": NOW + 90 * DAY,
    }


def cluster_fields(prefix: bytes, key: SigningKey = CLUSTER_KEY) -> Fields:
    """Return the true fields of a cluster's statement of ``prefix``."""
    return {
        **vendor_fields(prefix, key),
        "Signer": CLUSTER,
        "Issued": NOW,
        "Expires": NOW + 30 * DAY,
        "ClusterID": CLUSTER,
        "Granted": ["audio"],
        "Limits": ModuleLimits().wire(),
        "Serial": 1,
    }


def vendor_signed(
    prefix: bytes, *, key: SigningKey = VENDOR.key, domain: bytes = DOMAIN_MODULE_VENDOR, **changes: Any
) -> bytes:
    """Return ``prefix`` with a vendor's section in which some fields are others; None removes one."""
    body = cbor.encode(changed(vendor_fields(prefix, key), changes))
    return prefix + section_of(VENDOR_SECTION, body, key, domain)


def cluster_signed(
    prefix: bytes, *, key: SigningKey = CLUSTER_KEY, domain: bytes = DOMAIN_MODULE_CLUSTER, **changes: Any
) -> bytes:
    """Return ``prefix`` with a cluster's section in which some fields are others; None removes one."""
    body = cbor.encode(changed(cluster_fields(prefix, key), changes))
    return prefix + section_of(CLUSTER_SECTION, body, key, domain)


def changed(fields: Fields, changes: Mapping[str, Any]) -> Fields:
    """Return ``fields`` with ``changes``; None removes one."""
    return {name: value for name, value in {**fields, **changes}.items() if value is not None}


def section_of(name: str, body: bytes, key: SigningKey, domain: bytes) -> bytes:
    """Return a signature section with the usual layout around any body."""
    return custom_section(name, b"\x82" + body + b"\x58\x40" + key.sign(domain + body).signature)


def padded_u32(value: int, size: int) -> bytes:
    """Return LEB128 in ``size`` bytes, longer than needed."""
    groups = [value >> 7 * place & 0x7F for place in range(size)]
    return bytes(group | 0x80 for group in groups[:-1]) + bytes(groups[-1:])


def at_mixer(data: bytes, trust: VendorRoots = VENDOR.trust, *, now_ns: int = NOW) -> str:
    """Return the code with which a mixer refuses to import ``data``, which it must."""
    with pytest.raises(ModuleError) as refused:
        verify_vendor(data, trust, now_ns=now_ns, cluster_public=CLUSTER_PUBLIC)
    return refused.value.code


def at_rack(data: bytes, *, cluster: str = CLUSTER, now_ns: int = NOW) -> str:
    """Return the code with which a rack of the cluster refuses ``data``, which it must."""
    with pytest.raises(ModuleError) as refused:
        verify_countersigned(data, cluster=cluster, cluster_public=CLUSTER_PUBLIC, now_ns=now_ns)
    return refused.value.code


def accepted_at_mixer(data: bytes, *, now_ns: int = NOW) -> Signed:
    """Return what a mixer verified, which must be accepted."""
    return verify_vendor(data, VENDOR.trust, now_ns=now_ns, cluster_public=CLUSTER_PUBLIC)


def accepted_at_rack(data: bytes, *, now_ns: int = NOW) -> Countersigned:
    """Return what a rack verified, which must be accepted."""
    return verify_countersigned(data, cluster=CLUSTER, cluster_public=CLUSTER_PUBLIC, now_ns=now_ns)


def resigned(data: bytes, signature: bytes) -> bytes:
    """Return ``data`` with other 64 bytes as the last signature."""
    return data[:-64] + signature
