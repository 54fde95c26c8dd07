"""What a vendor and a cluster say of a module: the bodies that their signatures cover.

A body is a deterministic CBOR map. Fields of a later release are kept and ignored; unknown versions, algorithms,
capabilities, ABIs and limits are refused, for none of these can be kept without being understood.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from stagebox import cbor
from stagebox.errors import DecodeError, InputError, ModuleError
from stagebox.identity import check_name
from stagebox.modules.capabilities import Capability
from stagebox.modules.limits import LIMITS

VERSION = 1
ALGORITHM = "Ed25519"
ABI = 1
KEY_ID_BYTES = 16
DIGEST_BYTES = 32
PAGE_BYTES = 65_536

_KEY_ID_DOMAIN = b"stagebox.module.keyid.v1\0"
_NUMBER = r"(?:0|[1-9][0-9]*)"
_IDENTIFIER = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
# Semantic Versioning 2.0.0
_SEMVER = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}"
    rf"(?:-{_IDENTIFIER}(?:\.{_IDENTIFIER})*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?\Z"
)


def key_id(public: bytes) -> bytes:
    """Return the 16 bytes by which a statement names an Ed25519 key."""
    return hashlib.sha256(_KEY_ID_DOMAIN + public).digest()[:KEY_ID_BYTES]


def check_version(value: str) -> str:
    """Return ``value`` if it is a semantic version (2.0.0).

    Raises:
        InputError: it is not, or too long.
    """
    if len(value) > LIMITS.max_version_chars or not _SEMVER.match(value):
        raise InputError(f"{value!r} is not a semantic version", remedy="write it as 1.2.3 or 1.2.3-rc.1")
    return value


@dataclass(frozen=True)
class ModuleLimits:
    """What one instance may use. Over a limit of a block the block is bypassed; memory and tables just do not grow."""

    fuel_per_block: int = 10_000_000
    memory_bytes: int = 16 << 20
    table_elements: int = 4_096
    epoch_ms: int = 1_000
    records_per_s: int = 20
    record_bytes: int = 8 << 10

    def check(self) -> ModuleLimits:
        """Return these limits if they may be granted.

        Raises:
            ModuleError: one of them is over what this software allows, or too small to run anything.
        """
        for name, least in _LEAST.items():
            value, most = getattr(self, name), getattr(LIMITS, name)
            if not least <= value <= most:
                raise ModuleError(
                    "limit_not_allowed", f"the limit {name} is {value}; {least} to {most} is allowed"
                )
        return self

    def wire(self) -> dict[str, int]:
        """Return the CBOR map."""
        return {key: getattr(self, name) for key, name in _LIMIT_KEYS.items()}

    @classmethod
    def from_wire(cls, value: dict[str, Any]) -> ModuleLimits:
        """Parse and check the map; a limit that is not known cannot be kept, so it is refused.

        Raises:
            DecodeError: malformed. ModuleError: not allowed.
        """
        found = {name: cbor.take_uint(value, key, "limits") for key, name in _LIMIT_KEYS.items()}
        if value:
            raise DecodeError(f"limits have an unknown field {min(value)!r}")
        return cls(**found).check()


_LIMIT_KEYS = {
    "FuelPerBlock": "fuel_per_block",
    "MemoryBytes": "memory_bytes",
    "TableElements": "table_elements",
    "EpochMs": "epoch_ms",
    "RecordsPerSecond": "records_per_s",
    "RecordBytes": "record_bytes",
}
_LEAST = {
    "fuel_per_block": 1,
    "memory_bytes": PAGE_BYTES,
    "table_elements": 0,
    "epoch_ms": 1,
    "records_per_s": 0,
    "record_bytes": 0,
}


@dataclass(frozen=True)
class Statement:
    """What a vendor says of ``covered`` bytes of a file. Times are ns since the Unix epoch."""

    key_id: bytes
    covered: int
    sha256: bytes
    blake3: bytes
    signer: str
    name: str
    version: str
    capabilities: tuple[Capability, ...]
    issued: int
    expires: int
    abi: int = ABI
    extra: dict[str, Any] = field(default_factory=dict)

    def wire(self) -> dict[str, Any]:
        """Return the CBOR map."""
        return {
            **self.extra,
            "Version": VERSION,
            "Algorithm": ALGORITHM,
            "KeyID": self.key_id,
            "Covered": self.covered,
            "SHA256": self.sha256,
            "BLAKE3": self.blake3,
            "Signer": self.signer,
            "Name": self.name,
            "ModuleVersion": self.version,
            "ABI": self.abi,
            "Capabilities": [capability.value for capability in self.capabilities],
            "Issued": self.issued,
            "Expires": self.expires,
        }

    def encode(self) -> bytes:
        """Return the deterministic body."""
        return cbor.encode(self.wire())

    @classmethod
    def decode(cls, body: bytes) -> Statement:
        """Parse the body of a vendor's section.

        Raises:
            ModuleError: not deterministic, of another version, algorithm or ABI, or a field is missing or malformed.
        """
        values = _open(body)
        try:
            return _take_statement(values, extra=values)
        except (DecodeError, InputError) as error:
            raise ModuleError("malformed", f"the vendor's statement: {error.message}") from None


@dataclass(frozen=True)
class ClusterStatement:
    """What a cluster says of a vendor-signed file: ``statement`` by its own key, and what it grants."""

    statement: Statement
    cluster: str
    granted: tuple[Capability, ...]
    limits: ModuleLimits
    serial: int
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the deterministic body."""
        return cbor.encode(
            {
                **self.extra,
                **self.statement.wire(),
                "ClusterID": self.cluster,
                "Granted": [capability.value for capability in self.granted],
                "Limits": self.limits.wire(),
                "Serial": self.serial,
            }
        )

    @classmethod
    def decode(cls, body: bytes) -> ClusterStatement:
        """Parse the body of a cluster's section.

        Raises:
            ModuleError: as :meth:`Statement.decode`, or limits over what this software allows.
        """
        what = "statement"
        values = _open(body)
        try:
            cluster = check_name("cluster", cbor.take(values, "ClusterID", str, what))
            granted = _take_capabilities(values, "Granted")
            limits = ModuleLimits.from_wire(
                cbor.expect_map(cbor.take(values, "Limits", dict, what), "limits")
            )
            serial = cbor.take_uint(values, "Serial", what)
            statement = _take_statement(values, extra={})
        except (DecodeError, InputError) as error:
            raise ModuleError("malformed", f"the cluster's statement: {error.message}") from None
        return cls(statement, cluster, granted, limits, serial, extra=values)


def _open(body: bytes) -> dict[str, Any]:
    """Return the map of a body whose version and algorithm are known."""
    try:
        value = cbor.decode(
            body, max_bytes=LIMITS.max_signature_section_bytes, max_items=LIMITS.max_signature_items
        )
        if cbor.encode(value) != body:
            raise ModuleError(
                "not_canonical", "a statement is not deterministically encoded (RFC 8949 §4.2.1)"
            )
        values = cbor.expect_map(value, "statement")
        version = cbor.take_uint(values, "Version", "statement")
        if version != VERSION:
            raise ModuleError(
                "bad_version", f"a statement has version {version}, this software understands {VERSION}"
            )
        algorithm = cbor.take(values, "Algorithm", str, "statement")
    except DecodeError as error:
        raise ModuleError("malformed", f"a statement is malformed: {error.message}") from None
    if algorithm != ALGORITHM:
        raise ModuleError("bad_algorithm", f"a statement is signed by {algorithm!r}, not {ALGORITHM}")
    return values


def _take_statement(values: dict[str, Any], *, extra: dict[str, Any]) -> Statement:
    """Take the fields that both statements have out of ``values``."""
    what = "statement"
    statement = Statement(
        key_id=cbor.take_bytes(values, "KeyID", what, length=KEY_ID_BYTES),
        covered=cbor.take_uint(values, "Covered", what),
        sha256=cbor.take_bytes(values, "SHA256", what, length=DIGEST_BYTES),
        blake3=cbor.take_bytes(values, "BLAKE3", what, length=DIGEST_BYTES),
        signer=cbor.take(values, "Signer", str, what),
        name=cbor.take(values, "Name", str, what),
        version=cbor.take(values, "ModuleVersion", str, what),
        abi=cbor.take_uint(values, "ABI", what),
        capabilities=_take_capabilities(values, "Capabilities"),
        issued=cbor.take_uint(values, "Issued", what),
        expires=cbor.take_uint(values, "Expires", what),
        extra=extra,
    )
    return check_statement(statement)


def check_statement(statement: Statement) -> Statement:
    """Return ``statement`` if all of its fields are what they have to be.

    Raises:
        InputError: a name, version, signer or validity that is none. ModuleError: an ABI that is not known.
    """
    check_name("module", statement.name)
    check_version(statement.version)
    signer = statement.signer
    if not 0 < len(signer) <= LIMITS.max_signer_chars or not signer.isprintable():
        raise InputError(f"the signer {signer!r} is not 1 to {LIMITS.max_signer_chars} printable characters")
    if statement.abi != ABI:
        raise ModuleError("unknown_abi", f"the module is of ABI {statement.abi}, this software has {ABI}")
    if not 0 <= statement.issued < statement.expires < 1 << 64:
        raise InputError("the statement's times are none, or it expires before it is issued")
    return statement


def in_order(capabilities: Collection[Capability]) -> tuple[Capability, ...]:
    """Return capabilities as a statement lists them: sorted, each once."""
    return tuple(sorted(set(capabilities)))


def _take_capabilities(values: dict[str, Any], name: str) -> tuple[Capability, ...]:
    raw = cbor.take(values, name, list, "statement")
    if len(raw) > LIMITS.max_capabilities or not all(type(item) is str for item in raw):
        raise DecodeError(f"statement field {name!r} is not a list of capabilities")
    try:
        found = tuple(Capability(item) for item in raw)
    except ValueError as error:
        raise ModuleError("unknown_capability", f"a statement's {name}: {error}") from None
    if found != in_order(found):
        raise ModuleError("not_canonical", f"a statement's {name} are not sorted, each once")
    return found
