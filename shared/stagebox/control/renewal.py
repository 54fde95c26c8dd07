"""The bodies of ``renew``: what a rack shows to get a new certificate and passport, and what it gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stagebox import cbor
from stagebox.control.fields import take_chain


@dataclass(frozen=True)
class RenewalRequest:
    """``csr`` is a DER PKCS#10 request, signed by the key to certify (another than the identity key to rekey).

    ``passport`` is the ``state.flux`` the rack holds; the key it names signs the request. ``chain`` is the
    certificate the rack holds, DER, leaf first; it may have expired.
    """

    csr: bytes
    passport: bytes = field(repr=False)
    chain: tuple[bytes, ...]

    def body(self) -> dict[str, Any]:
        """Return the request's body."""
        return {"Csr": self.csr, "Passport": self.passport, "Chain": list(self.chain)}

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> RenewalRequest:
        """Parse a request's body.

        Raises:
            DecodeError: malformed.
        """
        what, fields = "renewal request", dict(body)
        return cls(
            csr=cbor.take_bytes(fields, "Csr", what),
            passport=cbor.take_bytes(fields, "Passport", what),
            chain=take_chain(fields, "Chain", what),
        )


@dataclass(frozen=True)
class Renewal:
    """``chain`` is the new certificate and its issuer (DER, leaf first), ``trust`` a signed trust bundle,
    ``passport`` the reissued ``state.flux``.
    """

    chain: tuple[bytes, ...]
    trust: bytes
    passport: bytes = field(repr=False)

    def body(self) -> dict[str, Any]:
        """Return the answer's body."""
        return {"Chain": list(self.chain), "Trust": self.trust, "Passport": self.passport}

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> Renewal:
        """Parse an answer's body.

        Raises:
            DecodeError: malformed.
        """
        what, fields = "renewal", dict(body)
        return cls(
            chain=take_chain(fields, "Chain", what),
            trust=cbor.take_bytes(fields, "Trust", what),
            passport=cbor.take_bytes(fields, "Passport", what),
        )
