"""Tombstones: what a rack signs when it removes a segment, so that records which are gone are gone on the record."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.errors import DecodeError
from stagebox.limits import LIMITS
from stagebox.records.walbatch import JOURNAL_BYTES

VERSION: Final = 1
KIND: Final = "tombstone"
"""The kind under which a rack journals the tombstones of what the mixer never had."""
_WHAT: Final = "tombstone"


class Reason(enum.StrEnum):
    """Why a segment went."""

    QUOTA = "quota"
    AGE = "age"


@dataclass(frozen=True)
class Tombstone:
    """One removed segment: its records and the batch digests around them.

    ``acknowledged`` says whether the mixer held them; ``time_ns`` when they were removed.
    """

    rack: str
    journal: bytes
    first: int
    last: int
    previous: bytes
    head: bytes
    seal: bytes
    acknowledged: bool
    reason: Reason
    time_ns: int

    def sign(self, key: SigningKey) -> bytes:
        """Return the payload in an envelope."""
        payload = cbor.encode(
            {
                "Version": VERSION,
                "Rack": self.rack,
                "Journal": self.journal,
                "First": self.first,
                "Last": self.last,
                "Previous": self.previous,
                "Head": self.head,
                "Seal": self.seal,
                "Acknowledged": int(self.acknowledged),
                "Reason": self.reason.value,
                "Time": self.time_ns,
            }
        )
        return envelope.seal(envelope.DOMAIN_TOMBSTONE, payload, key)


def open_tombstone(data: bytes, public: bytes, earlier: Collection[bytes] = ()) -> Tombstone:
    """Verify and parse a tombstone; ``earlier`` are the keys this rack had before.

    Raises:
        DecodeError: malformed or of an unknown version.
        VerificationError: signed by none of these keys.
    """
    keys = (public, *earlier)
    payload = envelope.open_by_any(envelope.DOMAIN_TOMBSTONE, data, keys, max_bytes=LIMITS.max_seal_bytes)
    fields = cbor.expect_map(cbor.decode_canonical(payload, max_bytes=LIMITS.max_seal_bytes), _WHAT)
    version = cbor.take_uint(fields, "Version", _WHAT)
    if version != VERSION:
        raise DecodeError(f"{_WHAT} has version {version}, this software understands {VERSION}")
    reason = cbor.take(fields, "Reason", str, _WHAT)
    if reason not in set(Reason):
        raise DecodeError(f"{_WHAT} has an unknown Reason {reason!r}")
    found = Tombstone(
        rack=cbor.take(fields, "Rack", str, _WHAT),
        journal=cbor.take_bytes(fields, "Journal", _WHAT, length=JOURNAL_BYTES),
        first=cbor.take_uint(fields, "First", _WHAT),
        last=cbor.take_uint(fields, "Last", _WHAT),
        previous=cbor.take_bytes(fields, "Previous", _WHAT, length=32),
        head=cbor.take_bytes(fields, "Head", _WHAT, length=32),
        seal=cbor.take_bytes(fields, "Seal", _WHAT, length=32),
        acknowledged=bool(cbor.take_uint(fields, "Acknowledged", _WHAT, bits=1)),
        reason=Reason(reason),
        time_ns=cbor.take_uint(fields, "Time", _WHAT),
    )
    if not 1 <= found.first <= found.last:
        raise DecodeError(f"{_WHAT} speaks of records {found.first}-{found.last}")
    return found
