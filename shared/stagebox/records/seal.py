"""Seals: what a rack signs about one sealed segment of its journal. docs/reference/wal.md has the bytes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from blake3 import blake3
from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.errors import DecodeError
from stagebox.limits import LIMITS
from stagebox.records.walbatch import JOURNAL_BYTES

VERSION: Final = 2
_FIRST_VERSION: Final = 1
KIND: Final = "seal"
"""The kind under which a rack journals its own seals."""
FILE_ID_BYTES: Final = 16
NO_SEAL: Final = bytes(32)
"""What the first seal of a journal names as the one before it."""
_WHAT: Final = "segment seal"


@dataclass(frozen=True)
class Seal:
    """What is signed about one segment.

    ``previous`` and ``head`` are batch digests around it, ``chain`` is the frame chain head of the hot file it was made
    from, ``previous_seal`` the hash of the seal before it. ``boots`` names the process starts that wrote it, ``clock``
    what was known of the clock when it was sealed. A seal of version 1 knows neither chain, seal before nor clock.
    """

    rack: str
    journal: bytes
    first: int
    last: int
    count: int
    batches: int
    previous: bytes
    head: bytes
    file_id: bytes
    file_blake3: bytes
    file_bytes: int
    torn_bytes: int
    boots: tuple[bytes, ...]
    chain: bytes = bytes(32)
    previous_seal: bytes = NO_SEAL
    clock: str = "unknown"
    version: int = VERSION

    def payload(self) -> bytes:
        """Return the deterministic CBOR that is signed."""
        fields = {
            "Version": self.version,
            "Rack": self.rack,
            "Journal": self.journal,
            "First": self.first,
            "Last": self.last,
            "Count": self.count,
            "Batches": self.batches,
            "Previous": self.previous,
            "Head": self.head,
            "FileId": self.file_id,
            "FileBlake3": self.file_blake3,
            "FileBytes": self.file_bytes,
            "TornBytes": self.torn_bytes,
        }
        if self.version == _FIRST_VERSION:
            return cbor.encode({**fields, "Boot": self.boots[0]})
        later = {"Boots": list(self.boots), "Chain": self.chain, "PreviousSeal": self.previous_seal}
        return cbor.encode({**fields, **later, "Clock": self.clock})

    def sign(self, key: SigningKey) -> bytes:
        """Return the seal file's bytes: the payload in an envelope."""
        return envelope.seal(envelope.DOMAIN_SEAL, self.payload(), key)


def seal_hash(data: bytes) -> bytes:
    """Return what the next seal names as ``PreviousSeal``: BLAKE3-256 of the seal's payload.

    Raises:
        DecodeError: not an envelope.
    """
    return blake3(envelope.split(data, max_bytes=LIMITS.max_seal_bytes)[0]).digest()


def open_seal(data: bytes, public: bytes, earlier: Collection[bytes] = ()) -> Seal:
    """Verify and parse a seal; ``earlier`` are the keys this rack had before it was rekeyed.

    Raises:
        DecodeError: malformed or of an unknown version.
        VerificationError: signed by none of these keys.
    """
    keys = (public, *earlier)
    payload = envelope.open_by_any(envelope.DOMAIN_SEAL, data, keys, max_bytes=LIMITS.max_seal_bytes)
    fields = cbor.expect_map(cbor.decode_canonical(payload, max_bytes=LIMITS.max_seal_bytes), _WHAT)
    version = cbor.take_uint(fields, "Version", _WHAT)
    if version not in (_FIRST_VERSION, VERSION):
        raise DecodeError(f"{_WHAT} has version {version}, this software understands 1 and {VERSION}")
    seal = Seal(
        version=version,
        rack=cbor.take(fields, "Rack", str, _WHAT),
        journal=cbor.take_bytes(fields, "Journal", _WHAT, length=JOURNAL_BYTES),
        first=cbor.take_uint(fields, "First", _WHAT),
        last=cbor.take_uint(fields, "Last", _WHAT),
        count=cbor.take_uint(fields, "Count", _WHAT),
        batches=cbor.take_uint(fields, "Batches", _WHAT),
        previous=cbor.take_bytes(fields, "Previous", _WHAT, length=32),
        head=cbor.take_bytes(fields, "Head", _WHAT, length=32),
        file_id=cbor.take_bytes(fields, "FileId", _WHAT, length=FILE_ID_BYTES),
        file_blake3=cbor.take_bytes(fields, "FileBlake3", _WHAT, length=32),
        file_bytes=cbor.take_uint(fields, "FileBytes", _WHAT),
        torn_bytes=cbor.take_uint(fields, "TornBytes", _WHAT),
        **_later(fields, version),
    )
    if seal.count != seal.last - seal.first + 1 or seal.count < 1:
        raise DecodeError(f"{_WHAT} counts {seal.count} records in {seal.first}-{seal.last}")
    return seal


def _later(fields: dict[str, Any], version: int) -> dict[str, Any]:
    if version == _FIRST_VERSION:
        return {"boots": (cbor.take_bytes(fields, "Boot", _WHAT, length=16),)}
    boots = cbor.take(fields, "Boots", list, _WHAT)
    if not boots or not all(type(boot) is bytes and len(boot) == 16 for boot in boots):
        raise DecodeError(f"{_WHAT} field 'Boots' is no list of boot ids")
    return {
        "boots": tuple(boots),
        "chain": cbor.take_bytes(fields, "Chain", _WHAT, length=32),
        "previous_seal": cbor.take_bytes(fields, "PreviousSeal", _WHAT, length=32),
        "clock": cbor.take(fields, "Clock", str, _WHAT),
    }
