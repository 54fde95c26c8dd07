"""An Ed25519 identity key as a NATS user nkey: its public name, and signatures over server nonces.

An nkey is an ordinary Ed25519 key in another spelling, so a rack's identity key can prove itself to the
server without a second secret and without its seed ever becoming a string.
"""

from __future__ import annotations

import base64
from typing import cast

import nkeys
from nacl.signing import SigningKey

from stagebox.errors import KeyFileError


def user_public(public: bytes) -> str:
    """Return the ``U…`` name of a raw 32-byte Ed25519 public key."""
    if len(public) != 32:
        raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(public)}")
    body = bytes([nkeys.PREFIX_BYTE_USER]) + public
    checksum = cast(int, nkeys.crc16(bytearray(body)))
    return base64.b32encode(body + checksum.to_bytes(2, "little")).rstrip(b"=").decode("ascii")


def signing_key(seed: bytes) -> SigningKey:
    """Return the key of a NATS seed (``SU…``, ``SA…``), for those who hold one in that spelling.

    Raises:
        KeyFileError: not an nkey seed; the seed itself is never in the message.
    """
    try:
        _, raw = nkeys.decode_seed(bytes(seed).strip())
        return SigningKey(bytes(raw))
    except Exception:
        # nkeys raises many types, some quoting the seed: none is chained or repeated.
        raise KeyFileError("this is not a NATS seed", remedy="generate the NATS keys again") from None


def sign_nonce(key: SigningKey, nonce: str) -> bytes:
    """Return the base64 signature over the server's nonce that CONNECT carries."""
    return base64.b64encode(key.sign(nonce.encode("ascii")).signature)
