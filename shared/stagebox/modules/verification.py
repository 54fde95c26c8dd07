"""Whether a module may be believed: by the mixer on its import, by a rack before every compilation.

What comes back holds the bytes that were verified, and only they may be compiled. Nothing here returns False. Each
refusal has a code that alerts, audits and answers repeat; docs/reference/module-signature.md lists them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from blake3 import blake3

from stagebox import envelope
from stagebox.errors import ModuleError, VerificationError
from stagebox.modules.agreement import check_agreement
from stagebox.modules.limits import LIMITS
from stagebox.modules.params import Param, read_params
from stagebox.modules.signature_section import place, split_section, vendor_section
from stagebox.modules.statement import ClusterStatement, Statement, key_id
from stagebox.modules.vendor_root import VendorRoot
from stagebox.modules.walker import Section, walk


class VendorTrust(Protocol):
    """The vendors somebody trusts, also the revoked ones: they are to be refused by name."""

    def find(self, key_id: bytes, /) -> VendorRoot | None:
        """Return the root of that key id, or None."""


@dataclass(frozen=True)
class Signed:
    """A verified vendor-signed module. ``public`` is the vendor's key, ``digest`` SHA-256 of the whole file."""

    data: bytes = field(repr=False)
    statement: Statement
    public: bytes
    sections: tuple[Section, ...] = field(repr=False)
    params: tuple[Param, ...]
    root: VendorRoot

    @property
    def digest(self) -> bytes:
        """SHA-256 of the whole file."""
        return sha256(self.data).digest()


@dataclass(frozen=True)
class Countersigned:
    """A verified countersigned module; ``digest`` is SHA-256 of the whole file, by which it is asked for."""

    data: bytes = field(repr=False)
    vendor: Statement
    cluster: ClusterStatement
    params: tuple[Param, ...]
    sections: tuple[Section, ...] = field(repr=False)
    digest: bytes


def verify_vendor(
    data: bytes,
    vendors: VendorTrust,
    *,
    now_ns: int,
    cluster_public: bytes | None = None,
    skew_ns: int = LIMITS.clock_skew_ns,
) -> Signed:
    """Verify a vendor-signed module that no cluster has countersigned.

    ``cluster_public`` is the cluster authority's key, which no vendor may use. ``skew_ns`` is how far the vendor's
    clock may have been ahead of ``now_ns``.

    Raises:
        ModuleError: anything else than a module that a trusted vendor signed, may sign and still stands for.
    """
    data = bytes(data)
    sections = walk(data)
    placed = place(sections)
    section = vendor_section(placed)
    if placed.cluster is not None:
        raise ModuleError(
            "already_countersigned",
            "the module is countersigned already",
            remedy="import the file the vendor gave out",
        )
    body, signature = split_section(data, section)
    statement = Statement.decode(body)
    root = _trusted(statement, vendors, cluster_public)
    wrong = [(root.public, envelope.DOMAIN_MODULE_CLUSTER)]
    if cluster_public is not None:
        wrong += [
            (cluster_public, envelope.DOMAIN_MODULE_VENDOR),
            (cluster_public, envelope.DOMAIN_MODULE_CLUSTER),
        ]
    _check_signature(body, signature, (root.public, envelope.DOMAIN_MODULE_VENDOR), wrong)
    _check_coverage(statement, section, _digests(data, section.start), "vendor")
    _check_root(statement, root, now_ns)
    _check_validity(statement, now_ns, skew_ns, "the vendor's signature")
    return Signed(data, statement, root.public, sections, read_params(data, sections), root)


def verify_countersigned(
    data: bytes,
    *,
    cluster: str,
    cluster_public: bytes,
    now_ns: int,
    skew_ns: int = LIMITS.clock_skew_ns,
) -> Countersigned:
    """Verify a module that the pinned cluster has countersigned.

    The vendor's key is not known here. Its statement must be whole and agree; that the vendor made it is vouched for by
    the countersignature, which covers it.

    Raises:
        ModuleError: anything else than a module that this cluster countersigned and still stands for.
    """
    data = bytes(data)
    sections = walk(data)
    placed = place(sections)
    section = vendor_section(placed)
    if placed.cluster is None:
        raise ModuleError(
            "missing_countersignature",
            "the module is not countersigned by a cluster",
            remedy="a mixer countersigns what it imports: stagebox wasm import",
        )
    body, signature = split_section(data, placed.cluster)
    vendor_body, _ = split_section(data, section)
    statement = ClusterStatement.decode(body)
    vendor = Statement.decode(vendor_body)
    _check_cluster_key(statement.statement, vendor, cluster_public)
    wrong = [(cluster_public, envelope.DOMAIN_MODULE_VENDOR)]
    _check_signature(body, signature, (cluster_public, envelope.DOMAIN_MODULE_CLUSTER), wrong)
    if statement.cluster != cluster:
        raise ModuleError(
            "wrong_cluster", f"the module is countersigned for cluster {statement.cluster!r}, not {cluster!r}"
        )
    prefix = _Digests(data)
    vendor_digests, own_digests = prefix.upto(section.start), prefix.upto(placed.cluster.start)
    _check_coverage(statement.statement, placed.cluster, own_digests, "cluster")
    _check_coverage(vendor, section, vendor_digests, "vendor")
    check_agreement(vendor, statement)
    _check_validity(statement.statement, now_ns, skew_ns, "the countersignature")
    _check_validity(vendor, now_ns, skew_ns, "the vendor's signature")
    digest, _ = prefix.upto(len(data))
    return Countersigned(data, vendor, statement, read_params(data, sections), sections, digest)


class _Digests:
    """SHA-256 and BLAKE3 of growing prefixes of one file, each byte hashed once."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._sha256, self._blake3 = sha256(), blake3()
        self._done = 0

    def upto(self, end: int) -> tuple[bytes, bytes]:
        """Return both digests of the first ``end`` bytes; ``end`` only rises."""
        part = self._data[self._done : end]
        self._sha256.update(part)
        self._blake3.update(part)
        self._done = end
        return self._sha256.digest(), self._blake3.digest()


def _digests(data: bytes, end: int) -> tuple[bytes, bytes]:
    return _Digests(data).upto(end)


def _trusted(statement: Statement, vendors: VendorTrust, cluster_public: bytes | None) -> VendorRoot:
    if cluster_public is not None and statement.key_id == key_id(cluster_public):
        raise ModuleError("wrong_purpose_key", "the vendor's signature is by the cluster authority's key")
    root = vendors.find(statement.key_id)
    if root is None or key_id(root.public) != statement.key_id:
        raise ModuleError(
            "unknown_key",
            f"no trusted vendor has the key {statement.key_id.hex()} that {statement.signer!r} signed with",
            remedy="put the vendor's root into the directory of trusted vendors, if you trust it",
        )
    if root.revoked:
        raise ModuleError(
            "revoked_key", f"the key of vendor {root.owner!r} is revoked: {root.reason or 'no reason'}"
        )
    return root


def _check_cluster_key(own: Statement, vendor: Statement, cluster_public: bytes) -> None:
    pinned = key_id(cluster_public)
    if own.key_id == vendor.key_id or vendor.key_id == pinned:
        raise ModuleError("wrong_purpose_key", "vendor and cluster have signed with the same key")
    if own.key_id != pinned:
        raise ModuleError(
            "unknown_key", f"the countersignature is by the key {own.key_id.hex()}, not the pinned cluster's"
        )


def _check_signature(
    body: bytes, signature: bytes, right: tuple[bytes, bytes], wrong: Iterable[tuple[bytes, bytes]]
) -> None:
    """Demand the signature of the ``right`` (key, domain); that of a ``wrong`` pair only gives another reason."""
    public, domain = right
    try:
        envelope.verify(domain, body, signature, public)
    except VerificationError as error:
        raise _refusal(body, signature, wrong, error.message) from None


def _refusal(
    body: bytes, signature: bytes, wrong: Iterable[tuple[bytes, bytes]], message: str
) -> ModuleError:
    for public, domain in wrong:
        try:
            envelope.verify(domain, body, signature, public)
        except VerificationError:
            continue
        return ModuleError(
            "wrong_purpose_key", f"{message}: it was made by another key or for another purpose"
        )
    return ModuleError("bad_signature", message)


def _check_coverage(statement: Statement, section: Section, digests: tuple[bytes, bytes], who: str) -> None:
    if statement.covered != section.start:
        raise ModuleError(
            "wrong_offset",
            f"the {who}'s signature covers {statement.covered} bytes and stands at {section.start}",
        )
    if (statement.sha256, statement.blake3) != digests:
        raise ModuleError("wrong_digest", f"what the {who} signed is not what stands before the signature")


def _check_root(statement: Statement, root: VendorRoot, now_ns: int) -> None:
    if now_ns < root.not_before:
        raise ModuleError("key_not_yet_valid", f"the key of vendor {root.owner!r} is not valid yet")
    if now_ns >= root.not_after:
        raise ModuleError("key_expired", f"the key of vendor {root.owner!r} has expired")
    if not root.allows_name(statement.name):
        raise ModuleError(
            "name_not_allowed", f"vendor {root.owner!r} may not sign a module {statement.name!r}"
        )
    beyond = sorted(set(statement.capabilities) - set(root.capabilities))
    if beyond:
        raise ModuleError(
            "capability_not_allowed", f"vendor {root.owner!r} may not ask for {beyond[0].value!r}"
        )


def _check_validity(statement: Statement, now_ns: int, skew_ns: int, what: str) -> None:
    if statement.issued > now_ns + skew_ns:
        raise ModuleError("not_yet_valid", f"{what} is of the future")
    if now_ns >= statement.expires:
        raise ModuleError("expired", f"{what} has expired")
