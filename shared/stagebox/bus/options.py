"""How to reach and enter the bus: the settings of one BusClient, checked when they are made.

Plaintext is for loopback only, and credentials never stand in an address.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from nacl.signing import SigningKey

from stagebox.bus.limits import BUS_LIMITS, BusLimits
from stagebox.errors import ConfigError
from stagebox.loopback import is_loopback

_PLAIN = frozenset({"nats", "ws"})
_SECURE = frozenset({"tls", "wss"})
_WEBSOCKET = frozenset({"ws", "wss"})

TlsContext = ssl.SSLContext | Callable[[], ssl.SSLContext] | None


@dataclass(frozen=True)
class BusOptions:
    """Settings of a BusClient.

    ``identity``, ``user_jwt`` and ``token``, and ``ssl_context`` where it is a callable, are called anew for
    every connection, on the event loop, so they may change on renewal and must not block. ``ssl_context`` is
    called first, so it may choose the identity that the others then give. ``identity`` returns the Ed25519 key
    that signs the server's nonce; with ``user_jwt`` it proves that JWT, without it the key's own nkey name is sent.

    ``give_up_after`` bounds the *first* connect, in seconds; None tries for ever (a rack). After the first
    connection the client always reconnects for ever.
    """

    servers: tuple[str, ...]
    name: str
    ssl_context: TlsContext = None
    identity: Callable[[], SigningKey] | None = None
    user_jwt: Callable[[], str] | None = None
    token: Callable[[], str] | None = None
    inbox_prefix: str = "_INBOX"
    server_hostname: str | None = None
    give_up_after: float | None = None
    limits: BusLimits = field(default=BUS_LIMITS)

    def __post_init__(self) -> None:
        if not self.servers:
            raise ConfigError("the bus client needs the address of at least one server")
        websocket = {check_server(server, self.ssl_context) for server in self.servers}
        if len(websocket) > 1:
            raise ConfigError("WebSocket and NATS addresses cannot be mixed in one list of servers")
        if self.user_jwt is not None and self.identity is None:
            raise ConfigError("a user JWT needs the key it was issued to")


def check_server(server: str, context: TlsContext) -> bool:
    """Check one address; return whether it is a WebSocket one.

    Raises:
        ConfigError: malformed, carries credentials, plaintext to another machine, or TLS without a context.
    """
    try:
        parts = urlsplit(server)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("a bus address is malformed", remedy="write wss://<host>:<port>") from None
    if "@" in parts.netloc:
        raise ConfigError(f"the bus address of {host} carries credentials", remedy="leave them out")
    if parts.scheme not in _PLAIN | _SECURE or not host or (port is None and parts.scheme != "wss"):
        raise ConfigError(f"{server!r} is not a bus address", remedy="write wss://<host>:<port>")
    if parts.scheme in _PLAIN and not is_loopback(host):
        raise ConfigError(
            f"{server!r} would send plaintext to another machine",
            remedy="use wss:// (or tls:// for a NATS port)",
        )
    if parts.scheme in _SECURE and context is None:
        raise ConfigError(f"{server!r} needs a TLS context with the cluster's CA")
    return parts.scheme in _WEBSOCKET
