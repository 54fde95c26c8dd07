"""What the mixer keeps of modules and of where they run, and its stored form. Pure.

Entries are deterministic CBOR maps with a version; unknown fields are kept, as in :mod:`stagebox_mixer.registry.model`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stagebox import cbor
from stagebox.errors import DecodeError, InputError, ModuleError
from stagebox.identity import check_name
from stagebox.modules.capabilities import Capability
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.params import Param
from stagebox.modules.patch import Point
from stagebox.modules.statement import DIGEST_BYTES, KEY_ID_BYTES, ModuleLimits, check_version
from stagebox_mixer.limits import LIMITS

VERSION = 1


def module_key(name: str, version: str) -> str:
    """Return the key of a module's entry: ``+`` is legal in a version and not in a key, ``=`` the other way round.

    Raises:
        InputError: not a module's name, or not a version.
    """
    return f"{check_name('module', name)}.{check_version(version).replace('+', '=')}"


def named_by(key: str) -> tuple[str, str] | None:
    """Return name and version of the module whose entry that key is for, None if it is for none."""
    name, _, version = key.replace("=", "+").partition(".")
    try:
        return (name, version) if module_key(name, version) == key else None
    except InputError:
        return None


@dataclass(frozen=True)
class ModuleEntry:
    """One version of a module as it was imported. Times are ns since the Unix epoch.

    ``digest`` and ``size`` are of the countersigned file in force, ``vendor_digest`` and ``vendor_size`` of the file as
    the vendor signed it, which is the beginning of the other. ``expires`` is the end of the
    countersignature: that of the vendor's signature, or of its root if that is earlier.
    """

    name: str
    version: str
    digest: bytes
    size: int
    vendor_digest: bytes
    vendor_size: int
    vendor: str
    key_id: bytes
    signer: str
    capabilities: tuple[Capability, ...]
    granted: tuple[Capability, ...]
    limits: ModuleLimits
    serial: int
    expires: int
    imported: int
    imported_by: str
    params: tuple[Param, ...] = ()
    revoked_at: int = 0
    revoked_by: str = ""
    revoked_reason: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key it is stored under."""
        return module_key(self.name, self.version)

    @property
    def title(self) -> str:
        """How audits and people name it."""
        return f"{self.name}@{self.version}"

    def encode(self) -> bytes:
        """Return the stored form."""
        return cbor.encode(
            {
                **self.extra,
                "v": VERSION,
                "name": self.name,
                "version": self.version,
                "digest": self.digest,
                "size": self.size,
                "vendor_digest": self.vendor_digest,
                "vendor_size": self.vendor_size,
                "vendor": self.vendor,
                "key_id": self.key_id,
                "signer": self.signer,
                "capabilities": [item.value for item in self.capabilities],
                "granted": [item.value for item in self.granted],
                "limits": self.limits.wire(),
                "serial": self.serial,
                "expires": self.expires,
                "imported": self.imported,
                "imported_by": self.imported_by,
                "params": [param.wire() for param in self.params],
                "revoked_at": self.revoked_at,
                "revoked_by": self.revoked_by,
                "revoked_reason": self.revoked_reason,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> ModuleEntry:
        """Parse the stored form.

        Raises:
            DecodeError: malformed or of an unknown version.
        """
        what = "module entry"
        fields = _open(data, what)
        try:
            return cls(
                name=check_name("module", cbor.take(fields, "name", str, what)),
                version=check_version(cbor.take(fields, "version", str, what)),
                digest=cbor.take_bytes(fields, "digest", what, length=DIGEST_BYTES),
                size=cbor.take_uint(fields, "size", what),
                vendor_digest=cbor.take_bytes(fields, "vendor_digest", what, length=DIGEST_BYTES),
                vendor_size=cbor.take_uint(fields, "vendor_size", what),
                vendor=cbor.take(fields, "vendor", str, what),
                key_id=cbor.take_bytes(fields, "key_id", what, length=KEY_ID_BYTES),
                signer=cbor.take(fields, "signer", str, what),
                capabilities=_take_capabilities(fields, "capabilities", what),
                granted=_take_capabilities(fields, "granted", what),
                limits=ModuleLimits.from_wire(_take_map(fields, "limits", what)),
                serial=cbor.take_uint(fields, "serial", what),
                expires=cbor.take_uint(fields, "expires", what),
                imported=cbor.take_uint(fields, "imported", what),
                imported_by=cbor.take(fields, "imported_by", str, what),
                params=tuple(Param.from_wire(item) for item in cbor.take(fields, "params", list, what)),
                revoked_at=cbor.take_uint(fields, "revoked_at", what),
                revoked_by=cbor.take(fields, "revoked_by", str, what),
                revoked_reason=cbor.take(fields, "revoked_reason", str, what),
                extra=fields,
            )
        except DecodeError:
            raise
        except (InputError, ModuleError) as error:
            raise DecodeError(f"{what}: {error.message}") from None


class AssignmentState(enum.StrEnum):
    """Whether an assignment does what it was made for."""

    ACTIVE = "active"
    ROLLED_BACK = "rolled_back"
    """Its version failed on a rack: every rack has the previous one, or none."""


@dataclass(frozen=True)
class Assignment:
    """A module at one place on many racks; ``id`` is the id of its insert on every sheet. Times in ns.

    ``percent`` of the racks that a pattern of ``racks`` matches run ``version``, the others ``previous`` with
    ``previous_params``; an empty ``previous`` is none. ``reason`` says why it is as it is.
    """

    id: str
    module: str
    version: str
    racks: tuple[str, ...]
    point: Point
    source: str
    bus: str
    created: int
    time: int
    by: str
    params: Mapping[str, float] = field(default_factory=dict)
    percent: int = 100
    previous: str = ""
    previous_params: Mapping[str, float] = field(default_factory=dict)
    state: AssignmentState = AssignmentState.ACTIVE
    reason: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the stored form."""
        return cbor.encode(
            {
                **self.extra,
                "v": VERSION,
                "id": self.id,
                "module": self.module,
                "version": self.version,
                "racks": list(self.racks),
                "point": self.point.value,
                "source": self.source,
                "bus": self.bus,
                "created": self.created,
                "time": self.time,
                "by": self.by,
                "params": _floats(self.params),
                "percent": self.percent,
                "previous": self.previous,
                "previous_params": _floats(self.previous_params),
                "state": self.state.value,
                "reason": self.reason,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Assignment:
        """Parse the stored form.

        Raises:
            DecodeError: malformed or of an unknown version.
        """
        what = "assignment"
        fields = _open(data, what)
        try:
            return cls(
                id=check_name("assignment", cbor.take(fields, "id", str, what)),
                module=check_name("module", cbor.take(fields, "module", str, what)),
                version=check_version(cbor.take(fields, "version", str, what)),
                racks=_take_texts(fields, "racks", what),
                point=Point(cbor.take(fields, "point", str, what)),
                source=cbor.take(fields, "source", str, what),
                bus=cbor.take(fields, "bus", str, what),
                created=cbor.take_uint(fields, "created", what),
                time=cbor.take_uint(fields, "time", what),
                by=cbor.take(fields, "by", str, what),
                params=_take_params(fields, "params", what),
                percent=cbor.take_uint(fields, "percent", what, bits=7),
                previous=cbor.take(fields, "previous", str, what),
                previous_params=_take_params(fields, "previous_params", what),
                state=AssignmentState(cbor.take(fields, "state", str, what)),
                reason=cbor.take(fields, "reason", str, what),
                extra=fields,
            )
        except DecodeError:
            raise
        except (InputError, ValueError) as error:
            raise DecodeError(f"{what}: {error}") from None


def _open(data: bytes, what: str) -> dict[str, Any]:
    fields = cbor.expect_map(cbor.decode(data, max_bytes=LIMITS.module_record_bytes), what)
    version = cbor.take_uint(fields, "v", what)
    if version != VERSION:
        raise DecodeError(f"{what} has version {version}, this mixer understands {VERSION}")
    return fields


def _floats(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _take_map(fields: dict[str, Any], name: str, what: str) -> dict[str, Any]:
    return cbor.expect_map(cbor.take(fields, name, dict, what), f"{what} {name}")


def _take_params(fields: dict[str, Any], name: str, what: str) -> dict[str, float]:
    values = _take_map(fields, name, what)
    if len(values) > FORMAT.max_params or not all(type(value) is float for value in values.values()):
        raise DecodeError(f"{what} field {name!r} is not a map of numbers")
    return values


def _take_texts(fields: dict[str, Any], name: str, what: str) -> tuple[str, ...]:
    values = cbor.take(fields, name, list, what)
    if not all(type(value) is str for value in values):
        raise DecodeError(f"{what} field {name!r} is not a list of texts")
    return tuple(values)


def _take_capabilities(fields: dict[str, Any], name: str, what: str) -> tuple[Capability, ...]:
    values: Iterable[str] = _take_texts(fields, name, what)
    try:
        return tuple(Capability(value) for value in values)
    except ValueError as error:
        raise DecodeError(f"{what} field {name!r}: {error}") from None
