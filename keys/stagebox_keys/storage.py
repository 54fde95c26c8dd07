"""Keys for data at rest at the mixer, all derived from one root secret.

Each purpose has its own label, so learning one derived key tells nothing about another, and one file
(``storage.key``) is all there is to back up.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

JETSTREAM_LABEL = "stagebox.jetstream.v1"
LAKE_LABEL = "stagebox.lake.v1"
LEDGER_LABEL = "stagebox.ledger.v1"
PASSPORT_SECRET_LABEL = "stagebox.passport_issue.v1"  # noqa: S105 - the label of a purpose


def derive_key(storage_key: Ed25519PrivateKey, label: str) -> bytes:
    """Return the 32-byte key for the purpose ``label``.

    HKDF-SHA256 (RFC 5869) with no salt, the raw 32-byte private key as input and ``label`` as info.
    """
    kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=label.encode("ascii"))
    return kdf.derive(storage_key.private_bytes_raw())
