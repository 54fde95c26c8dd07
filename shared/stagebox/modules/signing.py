"""Putting signatures on modules. The bytes before a signature are what is signed; none of them is changed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from blake3 import blake3
from nacl.signing import SigningKey

from stagebox.envelope import DOMAIN_MODULE_CLUSTER, DOMAIN_MODULE_VENDOR
from stagebox.errors import InputError, ModuleError
from stagebox.identity import check_name
from stagebox.modules.agreement import check_agreement
from stagebox.modules.capabilities import Capability
from stagebox.modules.limits import LIMITS
from stagebox.modules.signature_section import (
    CLUSTER_SECTION,
    VENDOR_SECTION,
    make_section,
    place,
    split_section,
    vendor_section,
)
from stagebox.modules.statement import (
    ABI,
    ClusterStatement,
    ModuleLimits,
    Statement,
    check_statement,
    in_order,
    key_id,
)
from stagebox.modules.walker import walk


def sign(
    data: bytes,
    *,
    key: SigningKey,
    signer: str,
    name: str,
    version: str,
    capabilities: Collection[Capability],
    issued: int,
    expires: int,
    abi: int = ABI,
) -> bytes:
    """Return the module with the vendor's section appended. Times are ns since the Unix epoch.

    Raises:
        InputError: a name, version, signer or validity that no statement may have.
        ModuleError: not a module, already signed, or too large with the signature.
    """
    data = bytes(data)
    placed = place(walk(data))
    if placed.vendor is not None:
        raise ModuleError(
            "already_signed", "the module is signed already", remedy="sign the file that the build made"
        )
    statement = Statement(
        key_id=key_id(bytes(key.verify_key)),
        covered=len(data),
        sha256=hashlib.sha256(data).digest(),
        blake3=blake3(data).digest(),
        signer=signer,
        name=name,
        version=version,
        abi=abi,
        capabilities=in_order(capabilities),
        issued=issued,
        expires=expires,
    )
    return append_signature(
        data, VENDOR_SECTION, check_statement(statement).encode(), DOMAIN_MODULE_VENDOR, key
    )


def countersign(
    data: bytes,
    *,
    key: SigningKey,
    cluster: str,
    granted: Collection[Capability],
    limits: ModuleLimits,
    serial: int,
    issued: int,
    expires: int,
    signer: str = "",
) -> bytes:
    """Return the vendor-signed module with the cluster's section appended; the caller has verified the vendor.

    ``signer`` is the cluster's name if it is not given.

    Raises:
        InputError: a cluster name, signer or validity that no statement may have.
        ModuleError: not signed, already countersigned, grants, limits or a validity beyond what is allowed.
    """
    data = bytes(data)
    placed = place(walk(data))
    section = vendor_section(placed)
    if placed.cluster is not None:
        raise ModuleError("already_countersigned", "the module is countersigned already")
    vendor = Statement.decode(split_section(data, section)[0])
    own = Statement(
        key_id=key_id(bytes(key.verify_key)),
        covered=len(data),
        sha256=hashlib.sha256(data).digest(),
        blake3=blake3(data).digest(),
        signer=signer or cluster,
        name=vendor.name,
        version=vendor.version,
        abi=vendor.abi,
        capabilities=vendor.capabilities,
        issued=issued,
        expires=expires,
    )
    statement = ClusterStatement(
        check_statement(own), check_name("cluster", cluster), in_order(granted), limits.check(), serial
    )
    if not 0 <= serial < 1 << 64:
        raise InputError(f"the serial {serial} does not fit in 64 unsigned bits")
    check_agreement(vendor, statement)
    return append_signature(data, CLUSTER_SECTION, statement.encode(), DOMAIN_MODULE_CLUSTER, key)


def append_signature(data: bytes, section: str, body: bytes, domain: bytes, key: SigningKey) -> bytes:
    """Return ``data`` with one signature section appended, whatever ``body`` says.

    Raises:
        ModuleError: the section or the file is over its limit.
        InputError: the signature is over its limit.
    """
    appended = make_section(section, body, key.sign(domain + body).signature)
    if len(appended) > LIMITS.max_signature_section_bytes:
        raise InputError(f"the statement makes a section of {len(appended)} bytes")
    signed = data + appended
    walk(signed)
    return signed
