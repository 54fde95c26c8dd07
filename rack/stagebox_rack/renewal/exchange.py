"""One renewal as bytes: the request a rack signs, and what of the answer it believes. No I/O.

The same request is repeated until it is answered, so a lost answer costs nothing. An answer counts only if the pinned
cluster signed it as the answer to this request, and everything in it fits: chain to a trusted root, our name, the key
we asked for, a passport of this machine that is newer than any held, a trust bundle that goes on from what is trusted.
An answer that refuses changes nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from nacl.signing import SigningKey

from stagebox import passport as passports
from stagebox.certificates import build_csr, parse_der_chain, parse_pem, public_ed25519, to_der, verify_chain
from stagebox.control.fields import NONCE_BYTES
from stagebox.control.renewal import Renewal, RenewalRequest
from stagebox.control.request import Request, Verb, open_answer
from stagebox.errors import DecodeError, PassportError, StageboxError, VerificationError
from stagebox_rack.identity import trust
from stagebox_rack.identity.store import Held, Issued, check_succession
from stagebox_rack.state import RackIdentity


class RenewalRefused(VerificationError):
    """The mixer refuses, under its signature; ``code`` says why. Nothing here is changed by it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"the mixer refuses to renew: {message or code} ({code})")
        self.code = code


@dataclass(frozen=True)
class Exchange:
    """A request made, and the key a certificate was asked for."""

    presented: RackIdentity
    key: SigningKey = field(repr=False)
    request: Request
    data: bytes = field(repr=False)

    def fits(self, presented: RackIdentity, *, rekey: bool) -> bool:
        """Whether repeating this request is what is wanted now."""
        return self.presented is presented and (self.key is not presented.key) is rekey


def begin(presented: RackIdentity, *, new_key: SigningKey | None, nonce: bytes, now_ns: int) -> Exchange:
    """Make the request to renew ``presented``; with ``new_key`` the certificate is asked for that one."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    key = new_key if new_key is not None else presented.key
    private = Ed25519PrivateKey.from_private_bytes(bytes(key))
    csr = x509.load_pem_x509_csr(build_csr(private, "stagebox-rack")).public_bytes(Encoding.DER)
    body = RenewalRequest(csr, presented.flux, tuple(to_der(presented.chain))).body()
    passport = presented.passport
    request = Request(passport.cluster_id, passport.name, Verb.RENEW.value, nonce, now_ns, body)
    return Exchange(presented, key, request, request.seal(presented.key))


def accept(
    exchange: Exchange,
    data: bytes,
    *,
    held: Held,
    machine_id: int,
    trust_serial: int,
    now: datetime.datetime,
) -> Issued:
    """Verify the answer to ``exchange`` in full.

    Raises:
        RenewalRefused: the mixer refuses. DecodeError, VerificationError: it does not prove what it claims.
    """
    pinned = exchange.presented.passport.cluster_public
    answer = open_answer(data, pinned, exchange.request)
    if answer.error:
        raise RenewalRefused(answer.error, answer.message)
    renewal = Renewal.from_body(answer.body)
    bundle = trust.check_bundle(
        renewal.trust,
        cluster=exchange.request.cluster,
        cluster_public=pinned,
        roots_pem=held.main.roots_pem,
        held_serial=trust_serial,
    )
    chain = parse_der_chain(renewal.chain, "the renewed chain")
    fresh = passports.verify(renewal.passport, pinned)
    public = bytes(exchange.key.verify_key)
    passports.check_binding(fresh, machine_id=machine_id, rack_public=public)
    check_newer(held, fresh)
    check_certificate(chain, roots=bundle[1], passport=fresh, now=now)
    return Issued(fresh, renewal.passport, exchange.key, tuple(chain), (renewal.trust, tuple(bundle[1])))


def accept_passport(data: bytes, *, held: Held, machine_id: int) -> Issued:
    """Verify a passport that the mixer reissued by command, for a key and certificate held already.

    Raises:
        PassportError: not the pinned cluster's, another machine's or rack's, not newer, or for a key not held.
    """
    fresh = passports.verify(data, held.main.passport.cluster_public)
    base = next((identity for identity in held.all if identity.public == fresh.rack_public), None)
    if base is None:
        raise PassportError("the reissued passport is for a key that this rack does not hold")
    passports.check_binding(fresh, machine_id=machine_id, rack_public=base.public)
    check_newer(held, fresh)
    return Issued(fresh, data, base.key, base.chain)


def accept_operator_chain(pem: bytes, *, held: RackIdentity, now: datetime.datetime) -> Issued:
    """Verify a chain that the operator's own command brought, for the identity key and passport held.

    Raises:
        DecodeError, VerificationError: not PEM, another key or name, no way to our roots, or it ends no later.
    """
    chain = parse_pem(pem, "what the renew command wrote")
    roots = parse_pem(held.roots_pem, "ca.pem")
    check_certificate(chain, roots=roots, passport=held.passport, now=now)
    ends, ended = chain[0].not_valid_after_utc, held.chain[0].not_valid_after_utc
    if ends <= ended:
        raise VerificationError(f"the new certificate ends {ends:%Y-%m-%d %H:%M}, no later than ours")
    return Issued(held.passport, held.flux, held.key, tuple(chain))


def check_newer(held: Held, fresh: passports.Passport) -> None:
    """Demand that ``fresh`` is of the same rack and newer than every passport held.

    Raises:
        PassportError: it is not.
    """
    for identity in held.all:
        check_succession(identity.passport, fresh)
        if fresh.serial == identity.passport.serial:
            raise PassportError(f"the new passport has serial {fresh.serial}, which this rack holds already")


def check_certificate(
    chain: Sequence[x509.Certificate],
    *,
    roots: Sequence[x509.Certificate],
    passport: passports.Passport,
    now: datetime.datetime,
) -> None:
    """Demand that ``chain`` proves the passport's rack and key to ``roots`` at ``now``.

    Raises:
        VerificationError: it does not.
    """
    if not chain:
        raise DecodeError("the chain is empty")
    try:
        identity = verify_chain(chain[0], list(chain[1:]), list(roots), now)
    except StageboxError as error:
        raise VerificationError(
            error.message, remedy="check this machine's clock and the mixer's CA"
        ) from None
    if identity != passport.rack_id:
        raise VerificationError(f"the new certificate is for {identity.uri}, not for rack {passport.name!r}")
    if public_ed25519(chain[0]) != passport.rack_public:
        raise VerificationError("the new certificate is for another key than its passport")
