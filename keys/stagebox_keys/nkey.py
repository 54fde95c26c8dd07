"""NATS nkeys: Ed25519 keys in the text form that nats-server and its clients read.

Rules:
- The text of a public key carries a kind (operator, account, user, server) and a CRC-16; both are
  checked on the way in, so a mistyped or misplaced key is refused rather than used.
- The seed leaves this module only through ``Nkey.seed()``; ``repr`` shows the public key.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache

import nkeys
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from stagebox.errors import InputError, VerificationError

_TEXT_CHARS = 56
_REMEMBERED_TEXTS = 4096


class NkeyKind(Enum):
    """What a key speaks for; the value is the prefix byte of its text form."""

    OPERATOR = nkeys.PREFIX_BYTE_OPERATOR
    ACCOUNT = nkeys.PREFIX_BYTE_ACCOUNT
    USER = nkeys.PREFIX_BYTE_USER
    SERVER = nkeys.PREFIX_BYTE_SERVER

    @cached_property
    def letter(self) -> str:
        """First character of the text form: O, A, U or N."""
        return chr(base64.b32encode(bytes([self.value, 0, 0, 0, 0]))[0])


@dataclass(frozen=True)
class Nkey:
    """One Ed25519 private key used as an nkey of one kind."""

    kind: NkeyKind
    private: Ed25519PrivateKey

    @classmethod
    def generate(cls, kind: NkeyKind) -> Nkey:
        """Return a fresh key from the operating system's random source."""
        return cls(kind, Ed25519PrivateKey.generate())

    @cached_property
    def public(self) -> str:
        """Text form of the public key, e.g. ``ABJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA``."""
        raw = self.private.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        return encode_public(self.kind, raw)

    def seed(self) -> str:
        """Text form of the private key (``S…``). A secret: for handing to a NATS client, never for a log."""
        raw = self.private.private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        )
        return bytes(nkeys.encode_seed(raw, self.kind.value)).decode("ascii")

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature over ``data``."""
        return self.private.sign(data)

    def __repr__(self) -> str:
        return f"Nkey({self.kind.name}, {self.public})"


def encode_public(kind: NkeyKind, raw: bytes) -> str:
    """Return the text form of a 32-byte Ed25519 public key."""
    if len(raw) != 32:
        raise InputError(f"an Ed25519 public key is 32 bytes, not {len(raw)}")
    body = bytes([kind.value]) + raw
    return base64.b32encode(body + bytes(nkeys.crc16_checksum(body))).decode("ascii")


@lru_cache(_REMEMBERED_TEXTS)
def decode_public(text: str, kind: NkeyKind) -> bytes:
    """Return the 32-byte Ed25519 public key that ``text`` spells.

    Raises:
        InputError: it is not the text of a public key of ``kind``.
    """
    wanted = f"the public key of a NATS {kind.name.lower()} ({kind.letter}…, {_TEXT_CHARS} characters)"
    if len(text) != _TEXT_CHARS:
        raise InputError(f"{text[:_TEXT_CHARS]!r} is not {wanted}: it has {len(text)} characters")
    try:
        raw = base64.b32decode(text)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{text!r} is not {wanted}: not base32") from error
    body, checksum = raw[:-2], raw[-2:]
    if bytes(nkeys.crc16_checksum(body)) != checksum:
        raise InputError(f"{text!r} is not {wanted}: its checksum does not match")
    if body[0] != kind.value:
        raise InputError(f"{text!r} is not {wanted}: it is a key of another kind")
    return body[1:]


def verify_signature(public: str, kind: NkeyKind, data: bytes, signature: bytes) -> None:
    """Demand that ``signature`` over ``data`` was made by ``public``.

    Raises:
        InputError: ``public`` is not a key of ``kind``.
        VerificationError: the signature does not verify.
    """
    key = VerifyKey(decode_public(public, kind))
    try:
        # libsodium takes half the time OpenSSL does, and every admission verifies two.
        key.verify(data, signature)
    except (BadSignatureError, ValueError) as error:
        raise VerificationError(f"the signature was not made by {public}") from error
