"""Whose journal it is: what a process writes and signs it as."""

from __future__ import annotations

from dataclasses import dataclass

from nacl.signing import SigningKey


@dataclass(frozen=True)
class Owner:
    """The rack, its key when the journal was opened, the public keys it had before, and the id of its boot."""

    rack: str
    signing_key: SigningKey
    earlier: tuple[bytes, ...]
    boot: bytes

    @property
    def public(self) -> bytes:
        """The public key of ``signing_key``."""
        return bytes(self.signing_key.verify_key)
