"""Why a connection failed: from any exception to one of a few causes an operator can act on.

Pure. An exception is followed through its ``__cause__`` and ``__context__`` to the TLS or socket error at
its root; the text of a NATS ``-ERR`` is matched as the server writes it (the client lower-cases it).
"""

from __future__ import annotations

import enum
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from stagebox.errors import BusError, StageboxError, TlsError


class Cause(enum.StrEnum):
    """The well-known causes."""

    UNKNOWN_CA = "unknown_ca"
    SERVER_CERTIFICATE_EXPIRED = "server_certificate_expired"
    SERVER_CERTIFICATE_INVALID = "server_certificate_invalid"
    HOSTNAME_MISMATCH = "hostname_mismatch"
    CLIENT_CERTIFICATE_EXPIRED = "client_certificate_expired"
    CLIENT_CERTIFICATE_REFUSED = "client_certificate_refused"
    TLS_VERSION = "tls_version"
    TLS_HANDSHAKE = "tls_handshake"
    NOT_TLS = "not_tls"
    NOT_A_BUS = "not_a_bus"
    NAME_NOT_FOUND = "name_not_found"
    CONNECTION_REFUSED = "connection_refused"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    AUTHORIZATION_REFUSED = "authorization_refused"
    AUTHORIZATION_EXPIRED = "authorization_expired"
    PEER_SILENT = "peer_silent"
    SLOW_CONSUMER = "slow_consumer"
    CLOSED_BY_PEER = "closed_by_peer"
    CLOSED_BY_US = "closed_by_us"
    REFUSED_BY_SERVER = "refused_by_server"
    PROTOCOL = "protocol"
    LOCAL = "local"
    OTHER = "other"

    @property
    def permanent(self) -> bool:
        """Whether trying again without changing anything is pointless (on a first connect)."""
        return self in _PERMANENT

    @property
    def is_tls(self) -> bool:
        """Whether a certificate or the TLS version is at fault."""
        return self in _TLS


_TLS = frozenset(
    {
        Cause.UNKNOWN_CA,
        Cause.SERVER_CERTIFICATE_EXPIRED,
        Cause.SERVER_CERTIFICATE_INVALID,
        Cause.HOSTNAME_MISMATCH,
        Cause.CLIENT_CERTIFICATE_EXPIRED,
        Cause.CLIENT_CERTIFICATE_REFUSED,
        Cause.TLS_VERSION,
        Cause.TLS_HANDSHAKE,
        Cause.NOT_TLS,
    }
)
_PERMANENT = _TLS | {
    Cause.AUTHORIZATION_REFUSED,
    Cause.AUTHORIZATION_EXPIRED,
    Cause.NOT_A_BUS,
    Cause.LOCAL,
}

_REMEDIES = {
    Cause.UNKNOWN_CA: "check that ca.pem is this cluster's bundle; it may have been rotated",
    Cause.SERVER_CERTIFICATE_EXPIRED: "renew the mixer's certificate; check this machine's clock",
    Cause.SERVER_CERTIFICATE_INVALID: "issue the server certificate again",
    Cause.HOSTNAME_MISMATCH: "connect by a name the server certificate carries, or issue it for this name",
    Cause.CLIENT_CERTIFICATE_EXPIRED: "renew this certificate; check the clocks of both machines",
    Cause.CLIENT_CERTIFICATE_REFUSED: "use a certificate issued by this cluster that is not revoked",
    Cause.TLS_VERSION: "both ends must speak TLS 1.3",
    Cause.TLS_HANDSHAKE: "check the certificates and the TLS settings of both ends",
    Cause.NOT_TLS: "the port does not speak TLS: check the address and the port",
    Cause.NOT_A_BUS: "something else answers there: check the address, the port and any proxy in between",
    Cause.NAME_NOT_FOUND: "check the host name and DNS",
    Cause.CONNECTION_REFUSED: "check that the mixer runs and that the port is right",
    Cause.UNREACHABLE: "check the network and the firewall",
    Cause.TIMED_OUT: "check the network and the firewall; the peer accepts connections but does not answer",
    Cause.AUTHORIZATION_REFUSED: "check with `stagebox admin racks show` that it is registered and active; "
    "a newer enrollment replaces an older one",
    Cause.AUTHORIZATION_EXPIRED: "renew the certificate",
    Cause.LOCAL: "check the credentials given to the bus client",
}

_VERIFY_CODES = {
    2: Cause.UNKNOWN_CA,
    9: Cause.SERVER_CERTIFICATE_EXPIRED,
    10: Cause.SERVER_CERTIFICATE_EXPIRED,
    18: Cause.UNKNOWN_CA,
    19: Cause.UNKNOWN_CA,
    20: Cause.UNKNOWN_CA,
    21: Cause.UNKNOWN_CA,
    62: Cause.HOSTNAME_MISMATCH,
    63: Cause.HOSTNAME_MISMATCH,
    64: Cause.HOSTNAME_MISMATCH,
}

# What OpenSSL calls the alert or failure, by the end of its name (the prefix varies with the version).
_TLS_REASONS = (
    ("ALERT_CERTIFICATE_EXPIRED", Cause.CLIENT_CERTIFICATE_EXPIRED),
    ("ALERT_CERTIFICATE_REQUIRED", Cause.CLIENT_CERTIFICATE_REFUSED),
    ("ALERT_CERTIFICATE_REVOKED", Cause.CLIENT_CERTIFICATE_REFUSED),
    ("ALERT_CERTIFICATE_UNKNOWN", Cause.CLIENT_CERTIFICATE_REFUSED),
    ("ALERT_UNSUPPORTED_CERTIFICATE", Cause.CLIENT_CERTIFICATE_REFUSED),
    ("ALERT_BAD_CERTIFICATE", Cause.CLIENT_CERTIFICATE_REFUSED),
    ("ALERT_UNKNOWN_CA", Cause.CLIENT_CERTIFICATE_REFUSED),
    ("ALERT_ACCESS_DENIED", Cause.CLIENT_CERTIFICATE_REFUSED),
    ("ALERT_PROTOCOL_VERSION", Cause.TLS_VERSION),
    ("UNSUPPORTED_PROTOCOL", Cause.TLS_VERSION),
    ("WRONG_SSL_VERSION", Cause.TLS_VERSION),
    ("NO_PROTOCOLS_AVAILABLE", Cause.TLS_VERSION),
    ("WRONG_VERSION_NUMBER", Cause.NOT_TLS),
    ("RECORD_LAYER_FAILURE", Cause.NOT_TLS),
    ("HTTP_REQUEST", Cause.NOT_TLS),
)

_SERVER_ERRORS = (
    ("authorization violation", Cause.AUTHORIZATION_REFUSED),
    ("authentication timeout", Cause.AUTHORIZATION_REFUSED),
    ("authentication expired", Cause.AUTHORIZATION_EXPIRED),
    ("authentication revoked", Cause.AUTHORIZATION_REFUSED),
    ("slow consumer", Cause.SLOW_CONSUMER),
    ("stale connection", Cause.PEER_SILENT),
    ("secure connection", Cause.TLS_VERSION),
)


class ServerError(Exception):
    """A ``-ERR`` of the server; the text is the server's."""


class SilentPeer(Exception):
    """The peer left too many pings unanswered."""


class ClosedByPeer(Exception):
    """The peer ended the connection without saying why."""


class ClosedByUs(Exception):
    """We ended the connection."""


class NotABus(Exception):
    """What answers is not a NATS server or not a WebSocket endpoint."""


class CredentialsUnavailable(Exception):
    """A provider of our own credentials failed; the text names which, never what."""


@dataclass(frozen=True)
class Failure:
    """One failed or lost connection: its cause, and what happened in words."""

    cause: Cause
    detail: str
    server: str = ""

    @property
    def remedy(self) -> str | None:
        """What an operator can do about it."""
        return _REMEDIES.get(self.cause)

    def as_error(self) -> StageboxError:
        """Return the error to raise: TlsError when a certificate is at fault, BusError otherwise."""
        where = f" to {self.server}" if self.server else ""
        kind = TlsError if self.cause.is_tls else BusError
        return kind(f"no connection{where}: {self.detail}", remedy=self.remedy)


_PLAIN_WORDS = {
    Cause.TIMED_OUT: "no answer in time",
    Cause.CONNECTION_REFUSED: "nothing listens there (connection refused)",
    Cause.UNREACHABLE: "the network has no way there",
    Cause.NAME_NOT_FOUND: "the host name is not known",
}
_WORDS: dict[type[Exception], Cause] = {
    SilentPeer: Cause.PEER_SILENT,
    ClosedByPeer: Cause.CLOSED_BY_PEER,
    ClosedByUs: Cause.CLOSED_BY_US,
    NotABus: Cause.NOT_A_BUS,
    CredentialsUnavailable: Cause.LOCAL,
}


def classify(error: BaseException, server: str = "") -> Failure:
    """Return the cause of ``error``, following it to its root."""
    for link in _links(error):
        found = _one(link)
        if found is not None:
            return Failure(found, _describe(found, link), server)
    return Failure(Cause.OTHER, f"{type(error).__name__}: {error}", server)


def _links(error: BaseException) -> Iterator[BaseException]:
    # Deepest first: aiohttp wraps the TLS error that matters in its own OSError, losing its type on the way.
    chain: list[BaseException] = []
    seen: set[int] = set()
    stack: list[BaseException | None] = [error]
    while stack:
        link = stack.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        chain.append(link)
        stack += [getattr(link, "certificate_error", None), getattr(link, "os_error", None)]
        stack += [link.__context__, link.__cause__]
    yield from sorted(chain, key=_rank)


def _rank(error: BaseException) -> int:
    if _verify_code(error) is not None:
        return 0
    if _openssl_reason(error):
        return 1
    if isinstance(error, ssl.SSLError):
        return 2
    if isinstance(error, TimeoutError):
        return 5
    return 4 if isinstance(error, OSError) else 3


def _verify_code(error: BaseException) -> int | None:
    # aiohttp derives an error from SSLCertVerificationError that lacks its attributes.
    code = getattr(error, "verify_code", None)
    return code if isinstance(code, int) else None


def _one(error: BaseException) -> Cause | None:
    code = _verify_code(error)
    if code is not None:
        return _VERIFY_CODES.get(code, Cause.SERVER_CERTIFICATE_INVALID)
    if isinstance(error, ssl.SSLError) or _openssl_reason(error):
        return _tls_cause(error)
    if isinstance(error, ServerError):
        text = str(error).lower()
        return next((cause for part, cause in _SERVER_ERRORS if part in text), Cause.REFUSED_BY_SERVER)
    for kind, cause in _WORDS.items():
        if isinstance(error, kind):
            return cause
    if isinstance(error, socket.gaierror):
        return Cause.NAME_NOT_FOUND
    if isinstance(error, ConnectionRefusedError) or getattr(error, "errno", None) == 111:
        return Cause.CONNECTION_REFUSED
    if isinstance(error, TimeoutError):
        return Cause.TIMED_OUT
    if isinstance(error, ConnectionError):
        return Cause.CLOSED_BY_PEER
    if isinstance(error, OSError) and error.errno in (101, 113):
        return Cause.UNREACHABLE
    return None


def _openssl_reason(error: BaseException) -> str:
    """Return OpenSSL's reason, also from an OSError that merely repeats an SSLError's arguments."""
    reason = getattr(error, "reason", None)
    if isinstance(error, ssl.SSLError) and isinstance(reason, str):
        return reason
    text = " ".join(str(part) for part in error.args if isinstance(part, str))
    if "[SSL" not in text:
        return ""
    return text.split("[SSL", 1)[1].lstrip(": ").split("]", 1)[0]


def _tls_cause(error: BaseException) -> Cause:
    reason = _openssl_reason(error).upper()
    return next((cause for end, cause in _TLS_REASONS if reason.endswith(end)), Cause.TLS_HANDSHAKE)


def _describe(cause: Cause, error: BaseException) -> str:
    if _verify_code(error) is not None:
        reason = getattr(error, "verify_message", "no reason given")
        return f"the server's certificate is not acceptable: {reason}"
    if cause.is_tls:
        reason = _openssl_reason(error).lower().replace("_", " ")
        if cause in (Cause.CLIENT_CERTIFICATE_EXPIRED, Cause.CLIENT_CERTIFICATE_REFUSED):
            return f"the server does not accept our certificate ({reason})"
        return f"the TLS handshake failed ({reason or 'no reason given'})"
    if cause in _PLAIN_WORDS:
        return _PLAIN_WORDS[cause]
    if cause is Cause.AUTHORIZATION_REFUSED:
        return f"the server does not admit us ({error})"
    text = str(error)
    return text if text else type(error).__name__
