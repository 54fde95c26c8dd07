"""Enrollment from the rack's side: pin first, then trust, then the token.

The token goes only to a server that proved to hold a certificate of the CA whose pin the operator typed. The root
itself is fetched before that over a connection that proves nothing, and believed only if its hash is the pin.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hmac
import http.client
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stagebox import passport as passports
from stagebox.certificates import build_csr, parse_pem, public_ed25519, root_pin, to_pem, verify_chain
from stagebox.errors import (
    ConfigError,
    DecodeError,
    EnrollmentError,
    PassportError,
    StageboxError,
    VerificationError,
)
from stagebox.loopback import is_loopback
from stagebox.passport import Passport
from stagebox.tls import client_context
from stagebox_rack import state
from stagebox_rack.limits import LIMITS
from stagebox_rack.state import Enrolled, StatePaths

_AUTHORITY = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?\Z")  # no user, space or zone
_PIN = re.compile(r"sha256:[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class MixerAddress:
    """A checked ``--mixer`` URL."""

    url: str
    host: str
    port: int
    secure: bool


def parse_mixer_url(url: str) -> MixerAddress:
    """Check the mixer's URL. Plaintext is for loopback only.

    Raises:
        ConfigError: not https (or loopback http), or malformed.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or parts.scheme not in ("https", "http") or not _AUTHORITY.match(parts.netloc):
        # The value is not repeated: it may be a mistyped token, or carry a password.
        raise ConfigError("--mixer is not a mixer URL", remedy="use --mixer https://<host>:8443")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(
            f"the mixer URL has more than host and port {parts.netloc!r}",
            remedy=f"use --mixer {parts.scheme}://{parts.netloc}",
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigError(
            f"{url!r} would send the enrollment token in plaintext to {host}",
            remedy=f"use --mixer https://{parts.netloc}",
        )
    secure = parts.scheme == "https"
    return MixerAddress(
        f"{parts.scheme}://{parts.netloc}",
        host,
        port if port is not None else (443 if secure else 80),
        secure,
    )


def check_pin(pin: str) -> str:
    """Return the pin in its canonical form.

    Raises:
        ConfigError: not ``sha256:`` and 64 hex digits.
    """
    canonical = pin.strip().lower()
    if not _PIN.match(canonical):
        # Not repeated either: the token stands beside it on the command line.
        raise ConfigError(
            "--ca-pin is not a CA pin",
            remedy="use the value that `stagebox admin token create` printed: sha256:<64 hex digits>",
        )
    return canonical


def enroll(
    paths: StatePaths, *, mixer: MixerAddress, token: str, pin: str, machine_id: int, rack: str | None
) -> Passport:
    """Enroll this machine and store its identity; returns the new passport.

    Raises:
        StageboxError: whatever went wrong; the state directory still holds what it held.
    """
    state.prepare(paths)
    previous = _previous(paths)
    key = state.own_key(paths)
    roots = _fetch_roots(mixer, pin)
    reply = _post(mixer, roots, {
        "token": token,
        "csr": build_csr(key, "stagebox-rack").decode("ascii"),
        "machine_id": machine_id,
        "rack": rack if rack is not None else (previous.name if previous is not None else None),
    })  # fmt: skip
    enrolled = verify_reply(reply, roots=roots, key=key, host=mixer.host)
    passport = passports.verify(enrolled.passport, enrolled.cluster_public)
    passports.check_binding(passport, machine_id=machine_id, rack_public=key.public_key().public_bytes_raw())
    _check_succession(previous, passport)
    state.store(paths, enrolled)
    return passport


def verify_reply(
    reply: Mapping[str, Any], *, roots: list[x509.Certificate], key: Ed25519PrivateKey, host: str
) -> Enrolled:
    """Check that a reply gives this key an identity of the pinned cluster.

    Raises:
        EnrollmentError: malformed. VerificationError: it does not verify; nothing was stored.
    """
    try:
        leaf = parse_pem(str(reply["certificate"]).encode(), "the new certificate")[0]
        chain = parse_pem(str(reply["chain"]).encode(), "the issuing chain")
        passport = base64.b64decode(reply["passport"], validate=True)
        cluster_public = bytes.fromhex(reply["cluster_public"])
        port = _port(reply["snake_port"])
    except (KeyError, TypeError, ValueError, binascii.Error, DecodeError):
        raise EnrollmentError("the mixer's answer is malformed", remedy="upgrade mixer or rack") from None
    identity = verify_chain(leaf, chain, roots, datetime.datetime.now(datetime.UTC))
    issued = passports.verify(passport, cluster_public)
    if identity != issued.rack_id:
        raise VerificationError(f"the certificate is for {identity.uri}, the passport for {issued.name!r}")
    if public_ed25519(leaf) != key.public_key().public_bytes_raw():
        raise VerificationError("the certificate is for another key than ours")
    bracketed = f"[{host}]" if ":" in host else host
    return Enrolled(
        passport=passport,
        certificate_pem=to_pem([leaf, *chain]),
        roots_pem=to_pem(roots),
        cluster_public=cluster_public,
        servers=(f"wss://{bracketed}:{port}",),
    )


def _port(value: object) -> int:
    if type(value) is not int or not 1 <= value <= 65_535:
        raise ValueError(value)
    return value


def _previous(paths: StatePaths) -> Passport | None:
    """Return who this state directory belongs to; a damaged passport is not silently replaced."""
    if not state.has_passport(paths):
        return None
    return passports.read(paths.passport, state.pinned_cluster(paths))


def _check_succession(previous: Passport | None, fresh: Passport) -> None:
    if previous is None:
        return
    if (previous.cluster_public, previous.name) != (fresh.cluster_public, fresh.name):
        raise EnrollmentError(
            f"this state directory belongs to rack {previous.name!r} of cluster {previous.cluster_id!r}",
            remedy="give another --state-dir, or move the old one away yourself",
        )
    if fresh.serial <= previous.serial:
        raise PassportError(
            f"the new passport has serial {fresh.serial}, ours has {previous.serial}: it is older",
            remedy="the mixer's registry was restored from an old backup: remove the rack there first",
        )


def _fetch_roots(mixer: MixerAddress, pin: str) -> list[x509.Certificate]:
    """Fetch the root CA from a server we do not trust yet and believe it only if it matches the pin."""
    unproved = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unproved.minimum_version = ssl.TLSVersion.TLSv1_3
    unproved.check_hostname = False
    unproved.verify_mode = ssl.CERT_NONE
    reply = _call(mixer, "GET", "/api/v1/trust", unproved, None)
    try:
        roots = parse_pem(str(reply["ca"]).encode("ascii", "replace"), "the mixer's CA")
    except (KeyError, TypeError, StageboxError):
        raise EnrollmentError(f"{mixer.url} does not answer like a mixer") from None
    if len(roots) != 1 or not hmac.compare_digest(root_pin(roots[0]), pin):
        raise VerificationError(
            f"the CA of {mixer.url} is {root_pin(roots[0])}, not the pinned {pin}; the token was not sent",
            remedy="compare the pin with `stagebox admin token create`; if it is right, somebody is in between",
        )
    return roots


def _post(mixer: MixerAddress, roots: list[x509.Certificate], body: dict[str, Any]) -> Mapping[str, Any]:
    return _call(mixer, "POST", "/api/v1/racks/enroll", client_context(to_pem(roots)), body)


def _call(
    mixer: MixerAddress, method: str, path: str, context: ssl.SSLContext, body: dict[str, Any] | None
) -> Mapping[str, Any]:
    # The standard library's client: two requests do not earn a third of a second of imports.
    connection = _connection(mixer, context)
    headers = {"Content-Type": "application/json", "Connection": "close"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
        reply = connection.getresponse()
        return _parse_reply(mixer, reply.status, reply.read(LIMITS.enroll_reply_bytes + 1))
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # a host name no resolver takes
        raise EnrollmentError(
            f"cannot reach the mixer {mixer.url}: {_reason(error)}",
            remedy="check --mixer, the network and that the mixer runs"
            if mixer.secure
            else "a mixer speaks https:// unless something in front of it speaks http://",
        ) from None
    finally:
        connection.close()


def _connection(mixer: MixerAddress, context: ssl.SSLContext) -> http.client.HTTPConnection:
    if mixer.secure:
        return http.client.HTTPSConnection(
            mixer.host, mixer.port, timeout=LIMITS.enroll_timeout, context=context
        )
    return http.client.HTTPConnection(mixer.host, mixer.port, timeout=LIMITS.enroll_timeout)


def _parse_reply(mixer: MixerAddress, status: int, content: bytes) -> Mapping[str, Any]:
    try:
        data = json.loads(content) if len(content) <= LIMITS.enroll_reply_bytes else None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise EnrollmentError(
            f"{mixer.url} does not answer like a mixer", remedy="check the port in --mixer (8443 by default)"
        )
    if status != 200:
        remedy = data.get("remedy")
        raise EnrollmentError(
            f"the mixer refused: {data.get('message', status)}",
            remedy=remedy if isinstance(remedy, str) else None,
        )
    return data


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(cause) or type(cause).__name__
