"""NATS JWT version 2: the tokens by which nats-server knows operator, accounts and users.

A token is ``base64url(header) . base64url(claims) . base64url(signature)``, header
``{"typ":"JWT","alg":"ed25519-nkey"}``, signed over the first two parts with an nkey. Source: version 2 of
the ``nats-io/jwt`` library.

Rules:
- Every function that returns claims out of a token either verified it or says ``unverified`` in its name.
- Times are whole seconds since the Unix epoch and come in as arguments.
- An account signs users and answers with a *signing key*; ``issuer_account`` says for which account.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stagebox.errors import InputError, VerificationError
from stagebox_keys.limits import LIMITS
from stagebox_keys.nkey import Nkey, NkeyKind, decode_public, verify_signature

_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
_ENCODER = json.JSONEncoder(separators=(",", ":"), sort_keys=True)
_VERSION = 2
_NO_LIMIT = -1

_ISSUER_KINDS: dict[str, tuple[NkeyKind, ...]] = {
    "operator": (NkeyKind.OPERATOR,),
    "account": (NkeyKind.OPERATOR, NkeyKind.ACCOUNT),
    "user": (NkeyKind.ACCOUNT,),
    "authorization_request": (NkeyKind.SERVER,),
    "authorization_response": (NkeyKind.ACCOUNT,),
}

Claims = dict[str, object]


@dataclass(frozen=True)
class Permissions:
    """Subjects a user may publish to and subscribe to.

    No subject at all means *everything* to nats-server; use ``NOTHING`` to forbid.
    ``responses`` > 0 lets a replier publish that many answers to each request, within ``responses_s``.
    """

    publish: Sequence[str] = ()
    subscribe: Sequence[str] = ()
    publish_deny: Sequence[str] = ()
    subscribe_deny: Sequence[str] = ()
    responses: int = 0
    responses_s: int = 0

    def claims(self) -> Claims:
        """Return the ``pub``, ``sub`` and ``resp`` members of a user claim."""
        out: Claims = {
            "pub": _permission(self.publish, self.publish_deny),
            "sub": _permission(self.subscribe, self.subscribe_deny),
        }
        if self.responses:
            out["resp"] = {"max": self.responses, "ttl": self.responses_s * 1_000_000_000}
        return out


EVERYTHING = Permissions(publish=(">",), subscribe=(">",))
NOTHING = Permissions(publish_deny=(">",), subscribe_deny=(">",))


@dataclass(frozen=True)
class Account:
    """What an account JWT says. ``signing_keys`` and ``auth_users`` are public key texts.

    ``service_exports`` are subjects that other accounts may send requests to; ``service_imports`` are pairs of
    such a subject and the account that answers there.
    """

    name: str
    public: str
    signing_keys: Sequence[str]
    jetstream: bool = False
    auth_users: Sequence[str] = ()
    allowed_accounts: Sequence[str] = ()
    service_exports: Sequence[str] = ()
    service_imports: Sequence[tuple[str, str]] = ()
    extra_limits: Mapping[str, object] = field(default_factory=dict)


def encode(claims: Claims, signer: Nkey) -> str:
    """Return the signed token for ``claims``; ``iss`` and ``jti`` are filled in here."""
    kind = _claim_type(claims)
    if signer.kind not in _ISSUER_KINDS[kind]:
        raise InputError(f"a NATS {signer.kind.name.lower()} key may not sign a {kind} token")
    body = {key: value for key, value in claims.items() if key != "jti"}
    body["iss"] = signer.public
    body["jti"] = _token_id(body)
    signed = f"{_b64(_json(_HEADER))}.{_b64(_json(body))}"
    return f"{signed}.{_b64(signer.sign(signed.encode('ascii')))}"


def decode_unverified(token: str) -> Claims:
    """Return the claims of a token without checking who signed it: for showing only.

    Raises:
        InputError: it is not a NATS JWT version 2.
    """
    return _parse(token)[0]


def verify(token: str, *, now_s: int | None, kind: str, issuer: str | None = None) -> Claims:
    """Return the claims of a token whose signature, type and times hold.

    ``issuer`` is the public key that must have signed it; leave it out only to check ``iss`` afterwards.
    ``now_s`` is None only to look into a token whose times do not matter.

    Raises:
        InputError: not a NATS JWT version 2.
        VerificationError: another type or issuer, a bad signature, expired or not yet valid.
    """
    claims, signed, signature = _parse(token)
    if _claim_type(claims) != kind:
        raise VerificationError(f"the NATS token is of type {_claim_type(claims)!r}, not {kind!r}")
    signer = claims.get("iss")
    if not isinstance(signer, str):
        raise VerificationError("the NATS token names no issuer")
    if issuer is not None and signer != issuer:
        raise VerificationError(f"the NATS token was issued by {signer}, not by {issuer}")
    verify_signature(signer, _issuer_kind(signer, kind), signed, signature)
    if now_s is not None:
        _check_times(claims, now_s)
    return claims


def operator_jwt(operator: Nkey, *, name: str, system_account: str, issued_s: int) -> str:
    """Return the self-signed operator token that ``nats-server`` is configured with."""
    decode_public(system_account, NkeyKind.ACCOUNT)
    nats: Claims = {"type": "operator", "version": _VERSION, "system_account": system_account}
    return encode({"sub": operator.public, "name": name, "iat": issued_s, "nats": nats}, operator)


def account_jwt(operator: Nkey, account: Account, *, issued_s: int) -> str:
    """Return an account token signed by the operator.

    Limits must be written out: nats-server reads a missing limit as zero, not as none.
    """
    for key in (account.public, *account.signing_keys, *account.allowed_accounts):
        decode_public(key, NkeyKind.ACCOUNT)
    for user in account.auth_users:
        decode_public(user, NkeyKind.USER)
    limits: Claims = dict.fromkeys(
        ("subs", "data", "payload", "imports", "exports", "conn", "leaf"), _NO_LIMIT
    )
    limits["wildcards"] = True
    if account.jetstream:
        limits |= dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), _NO_LIMIT)
    limits |= account.extra_limits
    nats: Claims = {
        "type": "account",
        "version": _VERSION,
        "limits": limits,
        "signing_keys": sorted(account.signing_keys),
        "default_permissions": {"pub": {}, "sub": {}},
    }
    if account.service_exports:
        nats["exports"] = [{"name": s, "subject": s, "type": "service"} for s in account.service_exports]
    if account.service_imports:
        nats["imports"] = [
            {"name": subject, "subject": subject, "account": exporter, "type": "service"}
            for subject, exporter in account.service_imports
        ]
    if account.auth_users:
        nats["authorization"] = {
            "auth_users": list(account.auth_users),
            "allowed_accounts": list(account.allowed_accounts),
        }
    return encode({"sub": account.public, "name": account.name, "iat": issued_s, "nats": nats}, operator)


def user_jwt(
    signing_key: Nkey,
    account_id: str,
    user_public: str,
    name: str,
    permissions: Permissions,
    *,
    issued_s: int,
    expires_s: int | None = None,
    bearer: bool = False,
    connection_types: Sequence[str] = (),
    audience: str | None = None,
    tags: Sequence[str] = (),
) -> str:
    """Return a user token of account ``account_id``, signed by that account's signing key.

    ``expires_s``: nats-server disconnects the user at that second. ``bearer``: no nonce is to be signed.
    ``connection_types``: some of ``STANDARD``, ``WEBSOCKET``, …; empty allows all.
    """
    decode_public(account_id, NkeyKind.ACCOUNT)
    decode_public(user_public, NkeyKind.USER)
    nats: Claims = {
        "type": "user",
        "version": _VERSION,
        **permissions.claims(),
        "subs": _NO_LIMIT,
        "data": _NO_LIMIT,
        "payload": _NO_LIMIT,
        "issuer_account": account_id,
    }
    if bearer:
        nats["bearer_token"] = True
    if connection_types:
        nats["allowed_connection_types"] = list(connection_types)
    if tags:
        nats["tags"] = list(tags)
    claims: Claims = {"sub": user_public, "name": name, "iat": issued_s, "nats": nats}
    if expires_s is not None:
        claims["exp"] = expires_s
    if audience is not None:
        claims["aud"] = audience
    return encode(claims, signing_key)


def authorization_response_jwt(
    signing_key: Nkey,
    account_id: str,
    *,
    user_nkey: str,
    server_id: str,
    issued_s: int,
    jwt: str | None = None,
    error: str | None = None,
) -> str:
    """Return the answer to one auth callout request, signed by the AUTH account's signing key.

    ``user_nkey`` and ``server_id`` come from the request. Exactly one of ``jwt`` (admit) and ``error``
    (refuse) is given; nats-server logs ``error`` and tells the client only that authorization failed.
    """
    if (jwt is None) == (error is None):
        raise InputError("an authorization response carries either a user token or an error")
    decode_public(account_id, NkeyKind.ACCOUNT)
    decode_public(user_nkey, NkeyKind.USER)
    decode_public(server_id, NkeyKind.SERVER)
    nats: Claims = {"type": "authorization_response", "version": _VERSION, "issuer_account": account_id}
    if jwt is not None:
        nats["jwt"] = jwt
    else:
        nats["error"] = error
    return encode({"sub": user_nkey, "aud": server_id, "iat": issued_s, "nats": nats}, signing_key)


def sentinel_jwt(signing_key: Nkey, account_id: str, *, issued_s: int) -> str:
    """Return the bearer token of AUTH that may do nothing: ``default_sentinel`` of the server.

    It lets a client that brings no credentials file reach the auth callout.
    """
    user = Nkey.generate(NkeyKind.USER)
    return user_jwt(signing_key, account_id, user.public, "sentinel", NOTHING, issued_s=issued_s, bearer=True)


def _check_times(claims: Claims, now_s: int) -> None:
    expires, not_before = claims.get("exp", 0), claims.get("nbf", 0)
    if not isinstance(expires, int) or not isinstance(not_before, int):
        raise VerificationError("the NATS token's exp and nbf must be whole seconds")
    if expires and now_s >= expires:
        raise VerificationError(f"the NATS token expired {now_s - expires} s ago")
    if not_before and now_s < not_before:
        raise VerificationError(f"the NATS token is not valid for another {not_before - now_s} s")


def _permission(allow: Sequence[str], deny: Sequence[str]) -> Claims:
    out: Claims = {}
    if allow:
        out["allow"] = list(allow)
    if deny:
        out["deny"] = list(deny)
    return out


def _issuer_kind(signer: str, claim_type: str) -> NkeyKind:
    for kind in _ISSUER_KINDS[claim_type]:
        if signer.startswith(kind.letter):
            return kind
    raise VerificationError(f"{signer} may not issue a NATS {claim_type} token")


def _claim_type(claims: Claims) -> str:
    nats = claims.get("nats")
    kind = nats.get("type") if isinstance(nats, dict) else None
    if not isinstance(kind, str) or kind not in _ISSUER_KINDS:
        raise InputError(f"not a NATS token this version knows: type {kind!r}")
    return kind


def _parse(token: str) -> tuple[Claims, bytes, bytes]:
    if len(token) > LIMITS.nats_jwt_bytes:
        raise InputError(f"a NATS token of {len(token)} bytes is over the limit of {LIMITS.nats_jwt_bytes}")
    parts = token.strip().split(".")
    if len(parts) != 3 or not token.isascii():
        raise InputError("not a NATS token: it must have three parts separated by dots")
    header, claims = _json_object(parts[0]), _json_object(parts[1])
    if header.get("alg") != _HEADER["alg"] or str(header.get("typ")).upper() != _HEADER["typ"]:
        raise InputError(f"not a NATS token version 2: header {header!r}")
    _claim_type(claims)
    return claims, f"{parts[0]}.{parts[1]}".encode("ascii"), _unb64(parts[2])


def _json_object(text: str) -> Claims:
    try:
        value = json.loads(_unb64(text))
    except (ValueError, RecursionError) as error:
        raise InputError("not a NATS token: a part is not JSON") from error
    if not isinstance(value, dict):
        raise InputError("not a NATS token: a part is not a JSON object")
    return value


def _token_id(claims: Claims) -> str:
    # Any unique string serves; the reference library uses this hash, so tools that compare them agree.
    digest = hashlib.new("sha512_256", _json(claims)).digest()
    return base64.b32encode(digest).decode("ascii").rstrip("=")


def _json(value: object) -> bytes:
    return _ENCODER.encode(value).encode("utf-8")


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _unb64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("not a NATS token: a part is not base64url") from error
