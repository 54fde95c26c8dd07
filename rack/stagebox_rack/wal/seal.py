"""The seal and the key file beside a segment, to the byte. Pure.

A segment is three files with one stem: ``.parquet`` (encrypted), ``.key`` (its wrapped data key: replaceable
when the KEK is rotated, so not part of what is signed) and ``.seal`` (what the rack's identity key signs
about it). The seal is written last: a segment without a seal does not count.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from nacl.signing import SigningKey

from stagebox import cbor, envelope
from stagebox.errors import DecodeError
from stagebox.records.walbatch import JOURNAL_BYTES
from stagebox_rack.limits import LIMITS
from stagebox_rack.wal.keyring import FILE_ID_BYTES, WRAPPED_BYTES, Keyring

VERSION = 1
_KEY_DOMAIN = b"stagebox.wal.segment.v1\0"


@dataclass(frozen=True)
class Seal:
    """What a rack signs about one segment. ``previous`` and ``head`` are batch digests around it."""

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
    boot: bytes

    def payload(self) -> bytes:
        """Return the deterministic CBOR that is signed."""
        return cbor.encode(
            {
                "Version": VERSION,
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
                "Boot": self.boot,
            }
        )

    def sign(self, key: SigningKey) -> bytes:
        """Return the seal file's bytes: the payload in an envelope."""
        return envelope.seal(envelope.DOMAIN_SEAL, self.payload(), key)


def open_seal(data: bytes, public: bytes, earlier: Collection[bytes] = ()) -> Seal:
    """Verify and parse a seal file; ``earlier`` are the keys this rack had before it was rekeyed.

    Raises:
        DecodeError: malformed or of an unknown version.
        VerificationError: signed by none of these keys.
    """
    keys = (public, *earlier)
    payload = envelope.open_by_any(envelope.DOMAIN_SEAL, data, keys, max_bytes=LIMITS.wal_seal_bytes)
    what = "segment seal"
    fields = cbor.expect_map(cbor.decode_canonical(payload, max_bytes=LIMITS.wal_seal_bytes), what)
    version = cbor.take_uint(fields, "Version", what)
    if version != VERSION:
        raise DecodeError(f"{what} has version {version}, this software understands {VERSION}")
    seal = Seal(
        rack=cbor.take(fields, "Rack", str, what),
        journal=cbor.take_bytes(fields, "Journal", what, length=JOURNAL_BYTES),
        first=cbor.take_uint(fields, "First", what),
        last=cbor.take_uint(fields, "Last", what),
        count=cbor.take_uint(fields, "Count", what),
        batches=cbor.take_uint(fields, "Batches", what),
        previous=cbor.take_bytes(fields, "Previous", what, length=32),
        head=cbor.take_bytes(fields, "Head", what, length=32),
        file_id=cbor.take_bytes(fields, "FileId", what, length=FILE_ID_BYTES),
        file_blake3=cbor.take_bytes(fields, "FileBlake3", what, length=32),
        file_bytes=cbor.take_uint(fields, "FileBytes", what),
        torn_bytes=cbor.take_uint(fields, "TornBytes", what),
        boot=cbor.take_bytes(fields, "Boot", what, length=16),
    )
    if seal.count != seal.last - seal.first + 1 or seal.count < 1:
        raise DecodeError(f"{what} counts {seal.count} records in {seal.first}-{seal.last}")
    return seal


def key_context(rack: str, first: int, last: int, file_id: bytes) -> bytes:
    """Return what a segment's wrapped key is bound to."""
    return _KEY_DOMAIN + cbor.encode({"Rack": rack, "First": first, "Last": last, "FileId": file_id})


def encode_key(keyring: Keyring, wrapped: bytes) -> bytes:
    """Return the ``.key`` file's bytes."""
    return cbor.encode({"Version": VERSION, "KekVersion": keyring.version, "WrappedDek": wrapped})


def open_key(data: bytes, keyring: Keyring, context: bytes, where: str) -> bytes:
    """Return the data key held by a ``.key`` file.

    Raises:
        DecodeError: malformed or of an unknown version.
        VerificationError: another KEK, another segment, or altered.
    """
    what = "segment key file"
    fields = cbor.expect_map(cbor.decode_canonical(data, max_bytes=LIMITS.wal_key_file_bytes), what)
    version = cbor.take_uint(fields, "Version", what)
    if version != VERSION:
        raise DecodeError(f"{what} has version {version}, this software understands {VERSION}")
    kek_version = cbor.take_uint(fields, "KekVersion", what, bits=32)
    wrapped = cbor.take_bytes(fields, "WrappedDek", what, length=WRAPPED_BYTES)
    return keyring.unwrap(wrapped, context, version=kek_version, where=where)
