"""The trust bundle: which roots and which cluster key a rack shall trust, signed by the cluster authority.

Today a cluster has one root and one authority and the bundle says so; its serial is how a later one, made in a
rotation, replaces an earlier one and never the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stagebox import cbor, envelope
from stagebox.control.fields import close_payload, open_payload, take_chain


@dataclass(frozen=True)
class TrustBundle:
    """``roots`` are DER certificates; ``cluster_public`` is the raw Ed25519 key of the cluster authority."""

    cluster: str
    serial: int
    issued: int
    roots: tuple[bytes, ...]
    cluster_public: bytes
    extra: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the deterministic CBOR payload."""
        return close_payload(
            self.extra,
            {
                "Cluster": self.cluster,
                "Serial": self.serial,
                "Issued": self.issued,
                "Roots": list(self.roots),
                "ClusterPublic": self.cluster_public,
            },
        )

    @classmethod
    def decode(cls, payload: bytes) -> TrustBundle:
        """Parse a payload; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed.
        """
        what = "trust bundle"
        fields = open_payload(payload, what)
        return cls(
            cluster=cbor.take(fields, "Cluster", str, what),
            serial=cbor.take_uint(fields, "Serial", what),
            issued=cbor.take_uint(fields, "Issued", what),
            roots=take_chain(fields, "Roots", what),
            cluster_public=cbor.take_bytes(fields, "ClusterPublic", what, length=32),
            extra=fields,
        )


def open_trust_bundle(data: bytes, cluster_public: bytes) -> TrustBundle:
    """Verify a trust bundle against the pinned cluster key.

    Raises:
        DecodeError: malformed. VerificationError: not signed by the pinned cluster.
    """
    return TrustBundle.decode(envelope.open_envelope(envelope.DOMAIN_TRUST, data, cluster_public))
