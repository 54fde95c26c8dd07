"""Who is calling the API: the role in the client certificate that the TLS handshake proved, unless it is banned.

Both are looked at anew for every request, so a ban or the certificate's end also ends what a kept-alive connection
may do. Refusals go to the audit.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from starlette.requests import Request

from stagebox.certificates import fingerprint, verify_chain
from stagebox.errors import StageboxError, VerificationError
from stagebox.identity import ClientId, Role
from stagebox_mixer.api.ports import Audit, Denials
from stagebox_mixer.api.server import PEER
from stagebox_mixer.audit import Row
from stagebox_mixer.denial import DeniedError

_RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


class Forbidden(VerificationError):
    """The caller has no certificate, or its role is not enough; ``code`` goes to the audit."""

    def __init__(self, code: str, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


@dataclass(frozen=True)
class Caller:
    """Who calls, and the fingerprint of the certificate that says so."""

    identity: ClientId
    certificate: str

    @property
    def uri(self) -> str:
        """The caller's SPIFFE URI."""
        return self.identity.uri


class Access:
    """Checks callers against this cluster's authorities and its deny list."""

    def __init__(
        self,
        cluster: str,
        roots: tuple[x509.Certificate, ...],
        issuing: tuple[x509.Certificate, ...],
        *,
        denials: Denials,
        audit: Audit,
    ) -> None:
        self._cluster = cluster
        self._roots = roots
        self._issuing = issuing
        self._denials = denials
        self._audit = audit

    async def require(self, request: Request, role: Role) -> Caller:
        """Return the caller if its role is at least ``role``.

        Raises:
            Forbidden: no certificate, not one of this cluster's clients, or a lesser role.
            DeniedError: the certificate is banned. BusError: the deny list cannot be read, so nobody may pass.
        """
        host = request.client.host if request.client else ""
        actor = host
        try:
            caller = self._identify(request)
            actor = caller.uri
            await self._denials.check(certificates=(caller.certificate,))
            _demand(caller.identity, role)
        except (Forbidden, DeniedError) as refusal:
            called = f"{request.method} {request.url.path}"
            self._audit.refused(Row(actor, "api", called, "refused", refusal.code, {"host": host}))
            raise
        return caller

    def _identify(self, request: Request) -> Caller:
        der = request.scope.get("extensions", {}).get(PEER)
        if not der:
            raise Forbidden(
                "no_certificate",
                "this request needs a client certificate",
                remedy="make one with stagebox keys gen-client --role admin, and give it with --identity",
            )
        try:
            certificate = x509.load_der_x509_certificate(der)
            caller = verify_chain(
                certificate, self._issuing, self._roots, datetime.datetime.now(datetime.UTC)
            )
        except (StageboxError, ValueError) as error:
            raise Forbidden("certificate", f"the client certificate is not acceptable: {error}") from None
        if not isinstance(caller, ClientId) or caller.cluster != self._cluster:
            raise Forbidden("not_a_client", "the certificate is not that of a person or tool of this cluster")
        return Caller(caller, fingerprint(certificate))


def _demand(caller: ClientId, role: Role) -> None:
    if _RANK[caller.role] < _RANK[role]:
        raise Forbidden(
            "role",
            f"{caller.name} has the role {caller.role.value}, this needs {role.value}",
            remedy=f"use a certificate with the role {role.value}",
        )
