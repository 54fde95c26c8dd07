"""The patch sheet: which modules one rack runs and where, signed by the cluster authority.

A sheet is the whole truth for its rack: what it does not list is not run, but for the version before while the file of
a new one is on its way. ``serial`` is the mixer's time of issue and
only rises, so an older sheet never takes the place of a newer one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stagebox import cbor, envelope
from stagebox.control.fields import close_payload, open_payload, take_map
from stagebox.errors import DecodeError, InputError
from stagebox.identity import check_name
from stagebox.modules.limits import LIMITS

DIGEST_BYTES = 32
_ITEMS = 32 * LIMITS.max_inserts + 8 * LIMITS.max_params


class Point(enum.StrEnum):
    """Where in a rack a module sits."""

    METERS = "meters"
    """Before the meters of a source; what it returns is measured. The ring keeps the audio as it was captured."""
    MONITOR = "monitor"
    """On a monitor bus, after the mix and before Opus."""
    TAP = "tap"
    """Beside a source, as a recorder is: it hears the audio, and what it returns goes nowhere."""
    TELEMETRY = "telemetry"
    """Beside the publisher: it is given meter frames, events and alerts."""


@dataclass(frozen=True)
class Insert:
    """One module at one point. ``digest`` is SHA-256 of the countersigned file, ``size`` its length in bytes.

    ``source`` is empty for a telemetry module that hears all sources; ``bus`` is set at :attr:`Point.MONITOR` only.
    """

    id: str
    module: str
    version: str
    digest: bytes
    size: int
    point: Point
    source: str = ""
    bus: str = ""
    params: Mapping[str, float] = field(default_factory=dict)

    def wire(self) -> dict[str, Any]:
        """Return the CBOR map."""
        return {
            "ID": self.id,
            "Module": self.module,
            "ModuleVersion": self.version,
            "Digest": self.digest,
            "Size": self.size,
            "Point": self.point.value,
            "Source": self.source,
            "Bus": self.bus,
            "Params": {name: float(value) for name, value in self.params.items()},
        }

    @classmethod
    def from_wire(cls, value: object) -> Insert:
        """Parse one; fields of a later release are ignored.

        Raises:
            DecodeError: malformed.
        """
        what = "insert"
        fields = cbor.expect_map(value, what)
        try:
            point = Point(cbor.take(fields, "Point", str, what))
        except ValueError:
            raise DecodeError(f"{what} has an unknown Point") from None
        insert = cls(
            id=cbor.take(fields, "ID", str, what),
            module=cbor.take(fields, "Module", str, what),
            version=cbor.take(fields, "ModuleVersion", str, what),
            digest=cbor.take_bytes(fields, "Digest", what, length=DIGEST_BYTES),
            size=cbor.take_uint(fields, "Size", what),
            point=point,
            source=cbor.take(fields, "Source", str, what),
            bus=cbor.take(fields, "Bus", str, what),
            params=take_map(fields, "Params", what),
        )
        _check(insert, what)
        return insert


def _check(insert: Insert, what: str) -> None:
    try:
        check_name("module", insert.module)
        check_name("insert", insert.id)
        if insert.source or insert.point is not Point.TELEMETRY:
            check_name("source", insert.source)
        if insert.point is Point.MONITOR:
            check_name("bus", insert.bus)
    except InputError as error:
        raise DecodeError(f"{what}: {error.message}") from None
    if insert.bus and insert.point is not Point.MONITOR:
        raise DecodeError(f"{what} {insert.id!r} names a bus, but is not at a monitor")
    if not 0 < insert.size <= LIMITS.max_module_bytes:
        raise DecodeError(f"{what} {insert.id!r} is of a module of {insert.size} bytes")
    if len(insert.params) > LIMITS.max_params or not all(
        type(value) is float for value in insert.params.values()
    ):
        raise DecodeError(f"{what} {insert.id!r} has parameters that are not numbers")


@dataclass(frozen=True)
class PatchSheet:
    """All modules of one rack; of several at one point the first listed comes first. Times in ns since the epoch."""

    cluster: str
    rack: str
    serial: int = 0
    inserts: tuple[Insert, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the deterministic CBOR payload."""
        return close_payload(
            self.extra,
            {
                "Cluster": self.cluster,
                "Rack": self.rack,
                "Serial": self.serial,
                "Inserts": [insert.wire() for insert in self.inserts],
            },
        )

    @classmethod
    def decode(cls, payload: bytes) -> PatchSheet:
        """Parse a payload; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed, or two inserts of one id.
        """
        what = "patch sheet"
        fields = open_payload(payload, what, max_items=_ITEMS)
        raw = cbor.take(fields, "Inserts", list, what)
        if len(raw) > LIMITS.max_inserts:
            raise DecodeError(f"{what} holds {len(raw)} inserts")
        inserts = tuple(Insert.from_wire(item) for item in raw)
        if len({insert.id for insert in inserts}) != len(inserts):
            raise DecodeError(f"{what} holds two inserts of one id")
        return cls(
            cluster=cbor.take(fields, "Cluster", str, what),
            rack=cbor.take(fields, "Rack", str, what),
            serial=cbor.take_uint(fields, "Serial", what),
            inserts=inserts,
            extra=fields,
        )


def open_sheet(data: bytes, cluster_public: bytes) -> PatchSheet:
    """Verify a patch sheet against the pinned cluster key; the caller judges cluster, rack and serial.

    Raises:
        DecodeError: malformed. VerificationError: not signed by the pinned cluster as a patch sheet.
    """
    return PatchSheet.decode(envelope.open_envelope(envelope.DOMAIN_PATCH, data, cluster_public))
