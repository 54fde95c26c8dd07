"""Who is calling the API: the role in the client certificate that the TLS handshake proved."""

from __future__ import annotations

import datetime

from cryptography import x509
from starlette.requests import Request

from stagebox.certificates import verify_chain
from stagebox.errors import StageboxError, VerificationError
from stagebox.identity import ClientId, Role
from stagebox_mixer.api.server import PEER

_RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


class Forbidden(VerificationError):
    """The caller has no certificate, or its role is not enough."""


class Access:
    """Checks callers against this cluster's authorities."""

    def __init__(
        self, cluster: str, roots: tuple[x509.Certificate, ...], issuing: tuple[x509.Certificate, ...]
    ) -> None:
        self._cluster = cluster
        self._roots = roots
        self._issuing = issuing

    def require(self, request: Request, role: Role) -> ClientId:
        """Return the caller if its role is at least ``role``.

        Raises:
            Forbidden: no certificate, not one of this cluster's clients, or a lesser role.
        """
        der = request.scope.get("extensions", {}).get(PEER)
        if not der:
            raise Forbidden(
                "this request needs a client certificate",
                remedy="make one with stagebox keys gen-client --role admin, and give it with --identity",
            )
        try:
            caller = verify_chain(
                x509.load_der_x509_certificate(der),
                self._issuing,
                self._roots,
                datetime.datetime.now(datetime.UTC),
            )
        except (StageboxError, ValueError) as error:
            raise Forbidden(f"the client certificate is not acceptable: {error}") from None
        if not isinstance(caller, ClientId) or caller.cluster != self._cluster:
            raise Forbidden("the certificate is not that of a person or tool of this cluster")
        if _RANK[caller.role] < _RANK[role]:
            raise Forbidden(
                f"{caller.name} has the role {caller.role.value}, this needs {role.value}",
                remedy=f"use a certificate with the role {role.value}",
            )
        return caller
