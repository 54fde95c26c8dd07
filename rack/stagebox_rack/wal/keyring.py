"""The journal's key file: its identity, and the key-encryption key (KEK) that wraps one data key a file.

Rules: the KEK is made once and never replaced; a KEK that is missing while data exists, unsafe, truncated or
of an unknown version stops the journal. A data key (DEK) encrypts exactly one file and is stored wrapped with
AES-256-GCM, whose associated data names the file, so a wrapped key moved to another file does not open.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stagebox import cbor, files
from stagebox.errors import DecodeError, KeyFileError, VerificationError
from stagebox.records.walbatch import JOURNAL_BYTES
from stagebox_rack.limits import LIMITS

KEY_BYTES = 32
NONCE_BYTES = 12
WRAPPED_BYTES = NONCE_BYTES + KEY_BYTES + 16

_FILE_VERSION = 1
_WRAP_PURPOSE = b"stagebox.wal.dek.v1\0"
_MARK_PURPOSE = "stagebox.wal.mark.v1"

Random = Callable[[int], bytes]


@dataclass(frozen=True)
class Keyring:
    """The KEK and what is done with it. Its bytes never show in ``repr``, logs or errors."""

    version: int
    _kek: bytes
    journal: bytes
    rack_public: bytes

    def __repr__(self) -> str:
        return f"Keyring(version={self.version}, journal={self.journal.hex()})"

    def encode(self) -> bytes:
        """Return the key file's bytes: CBOR {Version, KekVersion, Kek, Journal, RackPublic, Check}."""
        return cbor.encode(
            {
                "Version": _FILE_VERSION,
                "KekVersion": self.version,
                "Kek": self._kek,
                "Journal": self.journal,
                "RackPublic": self.rack_public,
                "Check": _check(self.version, self._kek, self.journal, self.rack_public),
            }
        )

    def wrap(self, dek: bytes, context: bytes, nonce: bytes) -> bytes:
        """Return ``nonce ‖ AES-256-GCM(dek)`` bound to ``context`` (which names one file)."""
        if len(dek) != KEY_BYTES or len(nonce) != NONCE_BYTES:
            raise ValueError("a data key has 32 bytes and its nonce 12")
        return nonce + AESGCM(self._kek).encrypt(nonce, dek, _WRAP_PURPOSE + context)

    def unwrap(self, wrapped: bytes, context: bytes, *, version: int, where: str) -> bytes:
        """Return the data key of the file called ``where``.

        Raises:
            VerificationError: wrapped by another KEK, for another file, or altered.
        """
        if version != self.version:
            raise VerificationError(
                f"{where} was written under journal key version {version}, the key file holds {self.version}",
                remedy="put back the wal/kek.key that this journal was written with",
            )
        if len(wrapped) != WRAPPED_BYTES:
            raise VerificationError(f"{where} has a wrapped key of {len(wrapped)} bytes, not {WRAPPED_BYTES}")
        try:
            sealed = wrapped[NONCE_BYTES:]
            return AESGCM(self._kek).decrypt(wrapped[:NONCE_BYTES], sealed, _WRAP_PURPOSE + context)
        except InvalidTag:
            raise VerificationError(
                f"{where} does not open with this journal key: another key, or its header was altered",
                remedy="put back the wal/kek.key that this journal was written with",
            ) from None

    def mark_tag(self, data: bytes) -> bytes:
        """Return a 32-byte keyed BLAKE3 over a high-water mark slot."""
        mark_key = blake3(self._kek, derive_key_context=_MARK_PURPOSE).digest()
        return blake3(data, key=mark_key).digest()


def create_keyring(path: Path, journal: bytes, rack_public: bytes, random: Random = os.urandom) -> Keyring:
    """Make the key file of a new journal (a UUIDv7) of one identity; never touches an existing one.

    Raises:
        KeyFileError: the file exists.
        StorageError: it cannot be written.
    """
    ring = Keyring(1, random(KEY_BYTES), journal, rack_public)
    files.write_new(path, ring.encode())
    return ring


def load_keyring(path: Path) -> Keyring:
    """Read the KEK file.

    Raises:
        KeyFileError: missing, readable by others, truncated, damaged or of an unknown version.
    """
    remedy = f"put {path} back from its backup; without it the journal beside it cannot be read"
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(LIMITS.wal_key_file_bytes + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read the journal key {path}: {error.strerror}", remedy=remedy) from error
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(
            f"the journal key {path} is accessible to other users (mode {stat.S_IMODE(mode):04o})",
            remedy=f"chmod 600 {path}",
        )
    try:
        return decode_key_file(data)
    except DecodeError as error:
        raise KeyFileError(f"the journal key {path} is not usable: {error.message}", remedy=remedy) from None


def decode_key_file(data: bytes) -> Keyring:
    """Parse a key file.

    Raises:
        DecodeError: truncated, damaged or of an unknown version.
    """
    what = "journal key file"
    fields = cbor.expect_map(cbor.decode_canonical(data, max_bytes=LIMITS.wal_key_file_bytes), what)
    version = cbor.take_uint(fields, "Version", what)
    if version != _FILE_VERSION:
        raise DecodeError(f"{what} has version {version}, this software understands {_FILE_VERSION}")
    kek_version = cbor.take_uint(fields, "KekVersion", what, bits=32)
    kek = cbor.take_bytes(fields, "Kek", what, length=KEY_BYTES)
    journal = cbor.take_bytes(fields, "Journal", what, length=JOURNAL_BYTES)
    rack_public = cbor.take_bytes(fields, "RackPublic", what, length=32)
    if cbor.take_bytes(fields, "Check", what) != _check(kek_version, kek, journal, rack_public):
        raise DecodeError(f"{what} does not match its own check value")
    return Keyring(kek_version, kek, journal, rack_public)


def _check(kek_version: int, kek: bytes, journal: bytes, rack_public: bytes) -> bytes:
    # Finds a damaged key before it is blamed on the data; 8 bytes of a one-way hash tell nothing of the key.
    named = kek_version.to_bytes(4, "big") + kek + journal + rack_public
    return blake3(b"stagebox.wal.kek.v1\0" + named).digest()[:8]
