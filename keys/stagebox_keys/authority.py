"""The cluster authority: the Ed25519 key whose signature makes a passport, a command or a trust bundle.

Every signature names its purpose (a domain of :mod:`stagebox.envelope`), so none can be replayed as another. Wasm
modules are countersigned with the same key.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stagebox import envelope
from stagebox.keyfiles import encode_public, load_ed25519, signing_key
from stagebox.modules import signing
from stagebox.modules.capabilities import Capability
from stagebox.modules.statement import ModuleLimits


class ClusterAuthority:
    """Signs envelopes for one cluster; ``repr`` and errors never show the private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = signing_key(key)
        self.public: bytes = key.public_key().public_bytes_raw()

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None) -> ClusterAuthority:
        """Read ``authority.key``.

        Raises:
            KeyFileError: the file cannot be used.
        """
        return cls(load_ed25519(path, passphrase))

    @property
    def public_pem(self) -> bytes:
        """What ``cluster.pub`` holds: PEM SubjectPublicKeyInfo."""
        return encode_public(self.public)

    def seal(self, domain: bytes, payload: bytes) -> bytes:
        """Return the envelope of ``payload`` for the purpose ``domain``."""
        return envelope.seal(domain, payload, self._key)

    def countersign(
        self,
        module: bytes,
        *,
        cluster: str,
        granted: Collection[Capability],
        limits: ModuleLimits,
        serial: int,
        issued: int,
        expires: int,
    ) -> bytes:
        """Return a vendor-signed Wasm module, which the caller has verified, with the cluster's section appended.

        Raises:
            ModuleError, InputError: as :func:`stagebox.modules.signing.countersign`.
        """
        return signing.countersign(
            module,
            key=self._key,
            cluster=cluster,
            granted=granted,
            limits=limits,
            serial=serial,
            issued=issued,
            expires=expires,
        )

    def __repr__(self) -> str:
        return f"ClusterAuthority({self.public.hex()})"
