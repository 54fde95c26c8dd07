"""Whose key is this: from the certificate chain in a checkpoint to a rack's verified public key.

Pure: time is an argument. A chain is verified against the cluster's roots and must name exactly the rack it
is used for. Results are cached by the leaf's fingerprint, never past the leaf's end, and checked anew after
a while so that an intermediate that expired is noticed.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509

from stagebox import certificates
from stagebox.errors import VerificationError
from stagebox.identity import RackId
from stagebox.subscriber.limits import SubscriberLimits

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class _Verified:
    rack: str
    public: bytes
    good_from: datetime.datetime
    good_until: datetime.datetime


class RackTrust:
    """Verifies rack certificates against ``roots``."""

    def __init__(self, roots: Sequence[x509.Certificate], limits: SubscriberLimits) -> None:
        if not roots:
            raise VerificationError(
                "no root certificate to verify racks against", remedy="give the cluster's ca.pem"
            )
        self._roots = tuple(roots)
        self._recheck = datetime.timedelta(seconds=limits.trust_recheck)
        self._max_racks = limits.max_racks
        self._cache: OrderedDict[bytes, _Verified] = OrderedDict()
        self._current: OrderedDict[str, bytes] = OrderedDict()

    def public_key(self, rack: str, chain: Sequence[bytes], now: datetime.datetime) -> bytes:
        """Return the raw Ed25519 key of ``rack`` after verifying its chain (DER, leaf first) at ``now``.

        Raises:
            DecodeError: the chain is not certificates.
            VerificationError: it does not lead to a root, is not valid now, or is another identity's.
        """
        fingerprint = hashlib.sha256(chain[0]).digest() if chain else b""
        known = self._cache.get(fingerprint)
        if known is None or not known.good_from <= now < known.good_until:
            known = self._verify(chain, now)
            self._remember(self._cache, fingerprint, known)
        if known.rack != rack:
            raise VerificationError(f"the certificate of rack {known.rack!r} was used for rack {rack!r}")
        return known.public

    def remember(self, rack: str, public: bytes) -> None:
        """Note the key that just signed a verified checkpoint of ``rack``."""
        self._remember(self._current, rack, public)

    def current_key(self, rack: str) -> bytes | None:
        """Return the key of the rack's last verified checkpoint, if there was one."""
        return self._current.get(rack)

    def _verify(self, chain: Sequence[bytes], now: datetime.datetime) -> _Verified:
        parsed = certificates.parse_der_chain(chain, "the checkpoint's certificate chain")
        identity = certificates.verify_chain(parsed[0], parsed[1:], self._roots, now)
        if not isinstance(identity, RackId):
            raise VerificationError(f"{identity.uri} is not a rack")
        leaf = parsed[0]
        return _Verified(
            identity.name,
            certificates.public_ed25519(leaf),
            leaf.not_valid_before_utc,
            min(leaf.not_valid_after_utc, now + self._recheck),
        )

    def _remember(self, table: OrderedDict[K, V], key: K, value: V) -> None:
        table[key] = value
        table.move_to_end(key)
        while len(table) > self._max_racks:
            table.popitem(last=False)
