"""The auth callout request of nats-server, parsed. Pure.

Source: the ``authorization_request`` claim of the NATS JWT library v2; the fields used here were observed with
nats-server 2.15.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stagebox.errors import DecodeError, VerificationError
from stagebox_keys import nats_jwt


@dataclass(frozen=True)
class Session:
    """One connection on one server: what a live connection is known by."""

    server_id: str
    client_id: int


@dataclass(frozen=True)
class AdmissionRequest:
    """What the server says about a connection. ``chain`` is PEM, leaf first, already verified by the server."""

    session: Session
    user_nkey: str
    host: str
    kind: str
    current_user: str
    nonce: str
    nkey: str
    signature: str
    token: str = field(repr=False)
    tls_version: str
    cipher: str
    chain: tuple[str, ...]


def parse(token: str, *, now_s: int) -> AdmissionRequest:
    """Verify and parse a request.

    Raises:
        VerificationError, InputError: not signed by a server, expired, or malformed.
    """
    claims = nats_jwt.verify(token, now_s=now_s, kind="authorization_request")
    if claims.get("aud") != "nats-authorization-request":
        raise VerificationError("the admission request is meant for another audience")
    nats = _map(claims, "nats")
    server, client = _map(nats, "server_id"), _map(nats, "client_info")
    options, tls = _map(nats, "connect_opts"), _map(nats, "client_tls")
    if claims.get("iss") != server.get("id"):
        raise VerificationError("the admission request is not signed by the server it names")
    client_id = client.get("id")
    if not isinstance(client_id, int):
        raise DecodeError("the admission request names no client")
    return AdmissionRequest(
        session=Session(_text(server, "id"), client_id),
        user_nkey=_text(nats, "user_nkey"),
        host=_text(client, "host"),
        kind=_text(client, "type"),
        current_user=_text(client, "user"),
        nonce=_text(client, "nonce"),
        nkey=_text(options, "nkey"),
        signature=_text(options, "sig"),
        token=_text(options, "auth_token"),
        tls_version=_text(tls, "version"),
        cipher=_text(tls, "cipher"),
        chain=_chain(tls),
    )


def _chain(tls: dict[str, Any]) -> tuple[str, ...]:
    chains = tls.get("verified_chains")
    if not isinstance(chains, list) or not chains or not isinstance(chains[0], list):
        return ()
    return tuple(item for item in chains[0] if isinstance(item, str))


def _map(parent: dict[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _text(parent: dict[str, Any], name: str) -> str:
    value = parent.get(name)
    return value if isinstance(value, str) else ""
