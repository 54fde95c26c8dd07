"""Enrollment from the rack's side: pin first, then trust, then the token.

The token goes only to a server that proved to hold a certificate of the CA whose pin the operator typed. The root
itself is fetched before that over a connection that proves nothing, and believed only if its hash is the pin.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hmac
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

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
from stagebox.passport import Passport
from stagebox.tls import client_context
from stagebox_rack import mixer_http, state
from stagebox_rack.identity import staging
from stagebox_rack.identity.lock import locked
from stagebox_rack.limits import LIMITS
from stagebox_rack.mixer_http import MixerAddress, UnreachableError, parse_mixer_url
from stagebox_rack.state import Enrolled, StatePaths

__all__ = ["MixerAddress", "check_pin", "enroll", "parse_mixer_url", "verify_reply"]

_PIN = re.compile(r"sha256:[0-9a-f]{64}\Z")


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
    with locked(paths.identity_lock, wait=LIMITS.identity_lock_wait):
        previous = _previous(paths)
    key = state.own_key(paths)
    roots = _fetch_roots(mixer, pin)
    name = previous.passport.name if previous is not None else None
    reply = _post(mixer, roots, {
        "token": token,
        "csr": build_csr(key, "stagebox-rack").decode("ascii"),
        "machine_id": machine_id,
        "rack": rack if rack is not None else name,
        # A mixer put back from an older backup learns from it which serials were given out.
        "passport": base64.b64encode(previous.flux).decode("ascii") if previous is not None else "",
    })  # fmt: skip
    enrolled = replace(
        verify_reply(reply, roots=roots, key=key, host=mixer.host), api=(mixer.url,) if mixer.secure else ()
    )
    passport = passports.verify(enrolled.passport, enrolled.cluster_public)
    passports.check_binding(passport, machine_id=machine_id, rack_public=key.public_key().public_bytes_raw())
    with locked(paths.identity_lock, wait=LIMITS.identity_lock_wait):
        # A running rack may have renewed while we asked.
        now_held = _previous(paths)
        _check_succession(now_held.passport if now_held is not None else None, passport)
        if state.own_key(paths).public_key() != key.public_key():
            raise EnrollmentError(
                "the rack has renewed its identity key meanwhile: the new identity is for the one before",
                remedy="enroll again with a new token",
            )
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


@dataclass(frozen=True)
class _Held:
    """A passport this rack holds, and its bytes."""

    passport: Passport
    flux: bytes = field(repr=False)


def _previous(paths: StatePaths) -> _Held | None:
    """Return the newest passport held; a damaged one is not silently replaced."""
    if not state.has_passport(paths):
        return None
    staging.recover(paths)
    held = [paths, *staging.waiting(paths)]
    # A staged passport is one this rack was given: an enrollment must not go behind it either.
    found = [(passports.read(files.passport, state.pinned_cluster(paths)), files.passport) for files in held]
    passport, path = max(found, key=lambda item: item[0].serial)
    return _Held(passport, path.read_bytes())


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
            remedy="the mixer's registry is an older copy: upgrade the mixer, then enroll again with a new token",
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
    content = None if body is None else json.dumps(body).encode()
    try:
        status, answer = mixer_http.call(
            mixer, method, path, context, body=content,
            headers={"Content-Type": "application/json"}, max_bytes=LIMITS.enroll_reply_bytes,
        )  # fmt: skip
    except UnreachableError as error:
        raise EnrollmentError(
            error.message,
            remedy="check --mixer, the network and that the mixer runs"
            if mixer.secure
            else "a mixer speaks https:// unless something in front of it speaks http://",
        ) from None
    return _parse_reply(mixer, status, answer)


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
