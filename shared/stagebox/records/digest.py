"""The digest a checkpoint lists for each live record."""

from __future__ import annotations

from blake3 import blake3

DIGEST_BYTES = 32
_PREFIX = b"stagebox.record.v1\0"


def record_digest(subject: str, payload: bytes) -> bytes:
    """Return BLAKE3-256 over ``"stagebox.record.v1\\0" ‖ subject ‖ "\\0" ‖ payload``.

    The subject is part of it, so a payload replayed on another subject does not verify.
    """
    return blake3(_PREFIX + subject.encode() + b"\0" + payload).digest()
