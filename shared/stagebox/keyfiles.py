"""Private keys at rest: PKCS#8 PEM, mode 0600, encrypted when a passphrase is given, written once.

A key that cannot be read is an error for a person to solve; it is never replaced by a new one.
"""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from nacl.signing import SigningKey

from stagebox.errors import KeyFileError
from stagebox.files import write_new
from stagebox.limits import LIMITS

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def encode_private_key(key: PrivateKey, passphrase: bytes | None) -> bytes:
    """Return the PKCS#8 PEM of ``key``, encrypted if ``passphrase`` is not None.

    Raises:
        KeyFileError: the passphrase is empty: that never means "no passphrase".
    """
    protection: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        if not passphrase:
            raise KeyFileError("the passphrase is empty", remedy="give one, or say --no-passphrase")
        protection = BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


def save_private_key(path: Path, key: PrivateKey, passphrase: bytes | None) -> None:
    """Write ``key`` to the new file ``path``.

    Raises:
        KeyFileError: the file exists, or the passphrase is empty.
        StorageError: it cannot be written.
    """
    write_new(path, encode_private_key(key, passphrase), mode=0o600)


def load_private_key(path: Path, passphrase: bytes | None) -> PrivateKey:
    """Read the private key in ``path`` (Ed25519 or P-256).

    Raises:
        KeyFileError: missing, unreadable, open to others, truncated, or the passphrase is wrong or missing.
    """
    data = _read_private(path)
    key: object
    try:
        key = load_pem_private_key(data, passphrase)
    except TypeError:
        if passphrase is None:
            raise KeyFileError(
                f"the key {path} is encrypted and no passphrase was given",
                remedy="give it by prompt, --passphrase-file or STAGEBOX_KEYS_PASSPHRASE",
            ) from None
        # An unencrypted key was given a passphrase: the file alone is enough.
        key = _load_unencrypted(path, data)
    except (ValueError, UnsupportedAlgorithm):
        if passphrase is not None and b"ENCRYPTED" in data and b"-----END" in data:
            raise KeyFileError(
                f"the key {path} does not open with this passphrase, or is damaged",
                remedy="check the passphrase; if it is right, restore the file from your backup",
            ) from None
        raise KeyFileError(
            f"the key {path} is truncated or damaged",
            remedy="restore the file from your backup; it is never replaced automatically",
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"the key {path} is neither Ed25519 nor an elliptic-curve key")
    return key


def load_ed25519(path: Path, passphrase: bytes | None = None) -> ed25519.Ed25519PrivateKey:
    """Read an Ed25519 private key.

    Raises:
        KeyFileError: as :func:`load_private_key`, or it is another kind of key.
    """
    key = load_private_key(path, passphrase)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise KeyFileError(f"the key {path} is not an Ed25519 key")
    return key


def signing_key(key: ed25519.Ed25519PrivateKey) -> SigningKey:
    """Return the PyNaCl form of an Ed25519 key, for envelopes."""
    return SigningKey(key.private_bytes_raw())


def encode_public(public: bytes) -> bytes:
    """Return the PEM (SubjectPublicKeyInfo) of a raw 32-byte Ed25519 public key."""
    key = ed25519.Ed25519PublicKey.from_public_bytes(public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_public(path: Path) -> bytes:
    """Read an Ed25519 public key PEM such as ``cluster.pub``; returns its 32 raw bytes.

    Raises:
        KeyFileError: missing, damaged, or another kind of key.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"cannot read the public key {path}: {error.strerror}") from None
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(
            f"{path} is not a PEM public key", remedy="use the cluster's cluster.pub"
        ) from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise KeyFileError(f"{path} is not an Ed25519 public key", remedy="use the cluster's cluster.pub")
    return key.public_bytes_raw()


def _load_unencrypted(path: Path, data: bytes) -> object:
    try:
        return load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"the key {path} is truncated or damaged") from None


def _read_private(path: Path) -> bytes:
    try:
        info = path.stat()
        if stat.S_IMODE(info.st_mode) & 0o077:
            raise KeyFileError(
                f"the key {path} is readable by other users (mode {stat.S_IMODE(info.st_mode):04o})",
                remedy=f"chmod 600 {path}",
            )
        if info.st_size > LIMITS.max_key_file_bytes:
            raise KeyFileError(f"{path} is too large to be a key ({info.st_size} bytes)")
        return path.read_bytes()
    except FileNotFoundError:
        raise KeyFileError(
            f"there is no key {path}", remedy="restore it from your backup; it is never made anew silently"
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"cannot read the key {path}: {error.strerror}",
            remedy="run as the user who owns it",
        ) from None
