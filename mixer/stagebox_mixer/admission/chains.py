"""Certificate chains, each verified once: what does not change about one is remembered. No I/O.

A signature that verified stays verified; what a later time can change is the validity, and that is compared at
every use. A chain whose time is not covered is verified again in full, which then says what is wrong with it.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from stagebox.certificates import fingerprint, parse_pem, public_ed25519, verify_chain
from stagebox.errors import VerificationError
from stagebox.identity import SpiffeId
from stagebox_mixer.limits import LIMITS


@dataclass(frozen=True)
class ProvedChain:
    """A verified chain: whose it is, the leaf's fingerprint and end, and its Ed25519 key if it carries one."""

    identity: SpiffeId
    fingerprint: str
    expires: datetime.datetime
    ed25519: bytes | None
    not_before: datetime.datetime
    not_after: datetime.datetime


class Chains:
    """Verifies chains down from ``roots``."""

    def __init__(
        self, roots: Sequence[x509.Certificate], *, remembered: int = LIMITS.admission_chains
    ) -> None:
        self._roots = tuple(roots)
        self._remembered = remembered
        self._proved: OrderedDict[bytes, ProvedChain] = OrderedDict()

    def prove(self, pem: Sequence[str], now: datetime.datetime) -> ProvedChain:
        """Return what the chain ``pem`` (leaf first) proves at the time ``now``.

        Raises:
            DecodeError: not certificates. VerificationError: it does not verify at this time.
        """
        key = hashlib.sha256("\0".join(pem).encode("utf-8", "replace")).digest()
        known = self._proved.get(key)
        if known is not None and known.not_before <= now <= known.not_after:
            self._proved.move_to_end(key)
            return known
        proved = self._verify(pem, now)
        self._proved[key] = proved
        if len(self._proved) > self._remembered:
            self._proved.popitem(last=False)
        return proved

    def _verify(self, pem: Sequence[str], now: datetime.datetime) -> ProvedChain:
        chain = parse_pem("\n".join(pem).encode("ascii", "replace"), "the client's chain")
        identity = verify_chain(chain[0], chain[1:], self._roots, now)
        # Which of them were needed is not known here; the narrowest time of all is safe.
        everyone = (*chain, *self._roots)
        return ProvedChain(
            identity=identity,
            fingerprint=fingerprint(chain[0]),
            expires=chain[0].not_valid_after_utc,
            ed25519=_key(chain[0]),
            not_before=max(certificate.not_valid_before_utc for certificate in everyone),
            not_after=min(certificate.not_valid_after_utc for certificate in everyone),
        )


def _key(leaf: x509.Certificate) -> bytes | None:
    try:
        return public_ed25519(leaf)
    except VerificationError:
        return None
