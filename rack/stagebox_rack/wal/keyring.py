"""The journal's key file: its identity, and the key-encryption keys (KEKs) that wrap one data key a file.

Rules: there is one newest KEK, which wraps; older ones stay only while a file names them (``rotation.py``). A key file
that is missing while data exists, unsafe, truncated or of an unknown version stops the journal. A data key (DEK)
encrypts exactly one file and is stored wrapped with AES-256-GCM, whose associated data names the file, so a wrapped
key moved to another file does not open.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stagebox import cbor, files
from stagebox.errors import DecodeError, KeyFileError, VerificationError
from stagebox.records.walbatch import JOURNAL_BYTES
from stagebox_rack.limits import LIMITS
from stagebox_rack.wal.kek_protection import NONCE_BYTES as NONCE_BYTES
from stagebox_rack.wal.kek_protection import Keeper, Protection, decrypt, encrypt
from stagebox_rack.wal.kek_protection import Random as Random

KEY_BYTES = 32
WRAPPED_BYTES = NONCE_BYTES + KEY_BYTES + 16

_FIRST_VERSION = 1
_FILE_VERSION = 2
_WHAT = "journal key file"
_WRAP_PURPOSE = b"stagebox.wal.dek.v1\0"
_MARK_PURPOSE = "stagebox.wal.mark.v1"
_BOUND_PURPOSE = b"stagebox.wal.keks.v2\0"
_CHECK_PURPOSE = b"stagebox.wal.kek.v2\0"
_CHECK_BYTES = 8


@dataclass(frozen=True)
class Keyring:
    """The newest KEK, the older ones still needed, and what is done with them; never shown in ``repr`` or errors."""

    version: int
    _kek: bytes
    journal: bytes
    rack_public: bytes
    _older: tuple[tuple[int, bytes], ...] = ()
    protection: Protection = Protection.FILE

    def __repr__(self) -> str:
        return f"Keyring(version={self.version}, journal={self.journal.hex()})"

    @property
    def versions(self) -> tuple[int, ...]:
        """Every KEK version held, the newest last."""
        return tuple(version for version, _ in self._keks())

    def renewed(self, kek: bytes) -> Keyring:
        """Return this with ``kek`` as its newest; the others become older ones."""
        return replace(self, version=self.version + 1, _kek=kek, _older=self._keks())

    def keeping(self, versions: Collection[int], protection: Protection) -> Keyring:
        """Return this with only the older KEKs named, under ``protection``."""
        older = tuple((version, kek) for version, kek in self._older if version in versions)
        return replace(self, _older=older, protection=protection)

    def encode(self, keeper: Keeper, random: Random = os.urandom) -> bytes:
        """Return the key file's bytes, the KEKs under :attr:`protection`.

        Raises:
            KeyFileError: the credential or the TPM is not there or fails.
        """
        fields: dict[str, Any] = {
            "Version": _FILE_VERSION,
            "Protection": str(self.protection),
            "Journal": self.journal,
            "RackPublic": self.rack_public,
        }
        keks: Any = [list(pair) for pair in self._keks()]
        if self.protection is not Protection.FILE:
            secret, sealed = keeper.new_secret(self.protection, random)
            fields |= {"Sealed": sealed} if sealed else {}
            keks = encrypt(
                secret, cbor.encode(keks), _BOUND_PURPOSE + cbor.encode(fields), random(NONCE_BYTES)
            )
        fields["Keks"] = keks
        return cbor.encode({**fields, "Check": _check(fields)})

    def _keks(self) -> tuple[tuple[int, bytes], ...]:
        return (*self._older, (self.version, self._kek))

    def _kek_of(self, version: int) -> bytes | None:
        return dict(self._keks()).get(version)

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
        kek = self._kek_of(version)
        if kek is None:
            held = ", ".join(str(number) for number in self.versions)
            raise VerificationError(
                f"{where} was written under journal key version {version}, the key file holds {held}",
                remedy="put back the wal/kek.key that this journal was written with",
            )
        if len(wrapped) != WRAPPED_BYTES:
            raise VerificationError(f"{where} has a wrapped key of {len(wrapped)} bytes, not {WRAPPED_BYTES}")
        try:
            sealed = wrapped[NONCE_BYTES:]
            return AESGCM(kek).decrypt(wrapped[:NONCE_BYTES], sealed, _WRAP_PURPOSE + context)
        except InvalidTag:
            raise VerificationError(
                f"{where} does not open with this journal key: another key, or its header was altered",
                remedy="put back the wal/kek.key that this journal was written with",
            ) from None

    def mark_tag(self, data: bytes, version: int) -> bytes | None:
        """Return a 32-byte keyed BLAKE3 over a high-water mark slot; None for a version not held."""
        kek = self._kek_of(version)
        if kek is None:
            return None
        return blake3(data, key=blake3(kek, derive_key_context=_MARK_PURPOSE).digest()).digest()


def create_keyring(
    path: Path,
    journal: bytes,
    rack_public: bytes,
    random: Random = os.urandom,
    *,
    protection: Protection = Protection.AUTO,
    keeper: Keeper | None = None,
) -> Keyring:
    """Make the key file of a new journal (a UUIDv7) of one identity; never touches an existing one.

    Raises:
        KeyFileError: the file exists, or what shall protect it is not there.
        StorageError: it cannot be written.
    """
    keeper = keeper or Keeper.of_environment()
    kek = random(KEY_BYTES)
    ring = Keyring(1, kek, journal, rack_public, protection=keeper.choose(protection))
    files.write_new(path, ring.encode(keeper, random))
    return ring


def load_keyring(path: Path, keeper: Keeper | None = None) -> Keyring:
    """Read the key file.

    Raises:
        KeyFileError: missing, readable by others, truncated, damaged, of an unknown version, or what protects
            it is not there.
    """
    remedy = f"put {path} back from its backup; without it the journal beside it cannot be read"
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(LIMITS.wal_kek_file_bytes + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read the journal key {path}: {error.strerror}", remedy=remedy) from error
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(
            f"the journal key {path} is accessible to other users (mode {stat.S_IMODE(mode):04o})",
            remedy=f"chmod 600 {path}",
        )
    try:
        return decode_key_file(data, keeper or Keeper.of_environment())
    except DecodeError as error:
        raise KeyFileError(f"the journal key {path} is not usable: {error.message}", remedy=remedy) from None


def decode_key_file(data: bytes, keeper: Keeper) -> Keyring:
    """Parse a key file and open its keys.

    Raises:
        DecodeError: truncated, damaged or of an unknown version.
        KeyFileError: what protects it is not there or is another one.
    """
    fields = cbor.expect_map(cbor.decode_canonical(data, max_bytes=LIMITS.wal_kek_file_bytes), _WHAT)
    version = cbor.take_uint(dict(fields), "Version", _WHAT)
    if version == _FIRST_VERSION:
        return _decode_first(fields)
    if version != _FILE_VERSION:
        raise DecodeError(f"{_WHAT} has version {version}, this software understands 1 and {_FILE_VERSION}")
    # Checked first: damage must not be taken for a wrong credential.
    if cbor.take_bytes(fields, "Check", _WHAT) != _check(fields):
        raise DecodeError(f"{_WHAT} does not match its own check value")
    named = cbor.take(dict(fields), "Protection", str, _WHAT)
    if named not in (Protection.FILE, Protection.CREDENTIAL, Protection.TPM2):
        raise DecodeError(f"{_WHAT} is protected by {named!r}, which this software does not know")
    protection = Protection(named)
    keks = _keks(fields, protection, keeper)
    return Keyring(
        *keks[-1],
        cbor.take_bytes(fields, "Journal", _WHAT, length=JOURNAL_BYTES),
        cbor.take_bytes(fields, "RackPublic", _WHAT, length=32),
        keks[:-1],
        protection,
    )


def _keks(fields: dict[str, Any], protection: Protection, keeper: Keeper) -> tuple[tuple[int, bytes], ...]:
    """Take ``Keks`` from the key file's fields; what is left of them is what it is bound to."""
    if protection is Protection.FILE:
        items = cbor.take(fields, "Keks", list, _WHAT)
    else:
        hidden = cbor.take_bytes(fields, "Keks", _WHAT)
        bound = _BOUND_PURPOSE + cbor.encode(fields)
        sealed = cbor.take_bytes(fields, "Sealed", _WHAT) if protection is Protection.TPM2 else b""
        secret = keeper.secret(protection, sealed)
        try:
            plain = decrypt(secret, hidden, bound)
        except InvalidTag:
            raise KeyFileError(
                f"the journal's keys do not open with this {protection}: it is not the one they were protected with",
                remedy=f"start with the {protection} this journal was made with, or put both back from their backup",
            ) from None
        items = cbor.decode_canonical(plain, max_bytes=LIMITS.wal_kek_file_bytes)
    return _checked(items)


def _checked(items: Any) -> tuple[tuple[int, bytes], ...]:
    keks: list[tuple[int, bytes]] = []
    if not isinstance(items, list) or not 0 < len(items) <= LIMITS.wal_kek_versions:
        raise DecodeError(f"{_WHAT} holds no list of 1 to {LIMITS.wal_kek_versions} keys")
    for item in items:
        if not isinstance(item, list) or len(item) != 2:
            raise DecodeError(f"{_WHAT} has a key that is not a pair")
        pair: dict[str, Any] = {"version": item[0], "key": item[1]}
        number = cbor.take_uint(pair, "version", _WHAT, bits=32)
        keks.append((number, cbor.take_bytes(pair, "key", _WHAT, length=KEY_BYTES)))
    if any(before[0] >= after[0] for before, after in pairwise(keks)):
        raise DecodeError(f"{_WHAT} has keys out of order")
    return tuple(keks)


def _decode_first(fields: dict[str, Any]) -> Keyring:
    kek_version = cbor.take_uint(fields, "KekVersion", _WHAT, bits=32)
    kek = cbor.take_bytes(fields, "Kek", _WHAT, length=KEY_BYTES)
    journal = cbor.take_bytes(fields, "Journal", _WHAT, length=JOURNAL_BYTES)
    rack_public = cbor.take_bytes(fields, "RackPublic", _WHAT, length=32)
    named = kek_version.to_bytes(4, "big") + kek + journal + rack_public
    check = blake3(b"stagebox.wal.kek.v1\0" + named).digest()[:_CHECK_BYTES]
    if cbor.take_bytes(fields, "Check", _WHAT) != check:
        raise DecodeError(f"{_WHAT} does not match its own check value")
    return Keyring(kek_version, kek, journal, rack_public)


def _check(fields: dict[str, Any]) -> bytes:
    # Finds a damaged key before it is blamed on the data; 8 bytes of a one-way hash tell nothing of the key.
    return blake3(_CHECK_PURPOSE + cbor.encode(fields)).digest()[:_CHECK_BYTES]
