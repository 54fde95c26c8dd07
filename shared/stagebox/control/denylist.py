"""The deny list: who is banned, signed by the cluster authority, with an epoch that only grows.

The mixer owns it; every rack keeps the newest it has seen and gives it back to a mixer whose own is older (one
restored from a backup). Reasons are not in it: racks need not know why another was banned.

Revoked Wasm modules and vendors are bans too, but travel in a field of their own, ``Modules``: a release that knows no
modules keeps it unread, where an unknown kind in ``Denied`` would make it refuse the whole list.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from stagebox import cbor, envelope
from stagebox.control.fields import close_payload, open_payload
from stagebox.errors import DecodeError, InputError
from stagebox.identity import check_name
from stagebox.limits import LIMITS

_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}\Z")
_MACHINE = re.compile(r"[0-9a-f]{16}\Z")
_VENDOR = re.compile(r"[0-9a-f]{32}\Z")


class DenyKind(enum.StrEnum):
    """What is banned."""

    RACK = "rack"
    MACHINE = "machine"
    CERTIFICATE = "certificate"
    MODULE = "module"
    """A Wasm file by its digest, as the vendor signed it or as this cluster countersigned it."""
    VENDOR = "vendor"
    """Every Wasm file that a vendor's key signed."""


REVOCATIONS = frozenset({DenyKind.MODULE, DenyKind.VENDOR})
"""The kinds that are about modules and hit no rack."""


@dataclass(frozen=True, order=True)
class Denied:
    """One ban. ``value`` is a rack's name, a machine id (16 hex digits), a digest (``sha256:<hex>``, of a certificate
    or a module) or a vendor's key id (32 hex digits), as ``kind`` says. ``since`` in ns.
    """

    kind: DenyKind
    value: str
    since: int = field(default=0, compare=False)


def denied(kind: str, value: str, *, since: int = 0) -> Denied:
    """Return a checked ban.

    Raises:
        InputError: an unknown kind, or not a value of that kind.
    """
    match kind:
        case DenyKind.RACK:
            check_name("rack", value)
        case DenyKind.MACHINE if not _MACHINE.match(value):
            raise InputError(
                f"{value!r} is not a machine id",
                remedy="write its 16 hexadecimal digits, see `admin racks show`",
            )
        case DenyKind.CERTIFICATE if not _FINGERPRINT.match(value):
            raise InputError(
                f"{value!r} is not a certificate fingerprint", remedy="write sha256:<64 hexadecimal digits>"
            )
        case DenyKind.MODULE if not _FINGERPRINT.match(value):
            raise InputError(
                f"{value!r} is not the digest of a module", remedy="write sha256:<64 hexadecimal digits>"
            )
        case DenyKind.VENDOR if not _VENDOR.match(value):
            raise InputError(f"{value!r} is not a vendor's key id", remedy="write its 32 hexadecimal digits")
        case DenyKind.MACHINE | DenyKind.CERTIFICATE | DenyKind.MODULE | DenyKind.VENDOR:
            pass
        case _:
            raise InputError(f"{kind!r} cannot be denied", remedy="deny a rack, a machine or a certificate")
    return Denied(DenyKind(kind), value, since)


@dataclass(frozen=True)
class DenyList:
    """All bans of a cluster. ``epoch`` grows with every change, also when a ban is lifted."""

    cluster: str
    epoch: int = 0
    time_ns: int = 0
    entries: tuple[Denied, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def matches(
        self, *, rack: str | None = None, machine_id: int | None = None, certificates: Iterable[str] = ()
    ) -> Denied | None:
        """Return the ban that hits any of these, or None."""
        wanted = {(DenyKind.CERTIFICATE, fingerprint) for fingerprint in certificates}
        if rack is not None:
            wanted.add((DenyKind.RACK, rack))
        if machine_id is not None:
            wanted.add((DenyKind.MACHINE, f"{machine_id:016x}"))
        return self._first(wanted)

    def matches_module(self, digests: Iterable[bytes], key_ids: Iterable[bytes]) -> Denied | None:
        """Return the revocation that hits a module by any of its digests (SHA-256), or its vendor by key id."""
        wanted = {(DenyKind.MODULE, module_value(digest)) for digest in digests}
        wanted |= {(DenyKind.VENDOR, key_id.hex()) for key_id in key_ids}
        return self._first(wanted)

    def _first(self, wanted: set[tuple[DenyKind, str]]) -> Denied | None:
        return min((self._bans[key] for key in wanted if key in self._bans), default=None)

    @functools.cached_property
    def _bans(self) -> dict[tuple[DenyKind, str], Denied]:
        """The bans by what they hit: a rack asks for each of its modules at every look, of up to thousands of bans."""
        return {(entry.kind, entry.value): entry for entry in self.entries}

    def with_denied(self, entry: Denied, *, now_ns: int) -> DenyList:
        """Return the list with ``entry``; the same list if it is there already since then or later.

        A ban said again later is a change: this list may be an older copy, and the ban lifted in a newer one.

        Raises:
            InputError: the list is full.
        """
        held = next((kept for kept in self.entries if kept == entry), None)
        if held is not None:
            if held.since >= entry.since:
                return self
            return self._next((*(kept for kept in self.entries if kept != entry), entry), now_ns)
        if len(self.entries) >= LIMITS.max_denied:
            raise InputError(
                f"the deny list holds {len(self.entries)} entries and is full",
                remedy="clear bans of racks that were removed: stagebox admin racks denied",
            )
        return self._next((*self.entries, entry), now_ns)

    def without(self, entry: Denied, *, now_ns: int) -> DenyList:
        """Return the list without ``entry``; the same list if it is not there."""
        if entry not in self.entries:
            return self
        return self._next(tuple(kept for kept in self.entries if kept != entry), now_ns)

    def _next(self, entries: tuple[Denied, ...], now_ns: int) -> DenyList:
        return replace(self, epoch=self.epoch + 1, time_ns=now_ns, entries=tuple(sorted(entries)))

    def encode(self) -> bytes:
        """Return the deterministic CBOR payload."""
        modules = [entry for entry in self.entries if entry.kind in REVOCATIONS]
        others = [entry for entry in self.entries if entry.kind not in REVOCATIONS]
        return close_payload(
            self.extra,
            {
                "Cluster": self.cluster,
                "Epoch": self.epoch,
                "Time": self.time_ns,
                "Denied": _wire(others),
                **({"Modules": _wire(modules)} if modules else {}),
            },
        )

    @classmethod
    def decode(cls, payload: bytes) -> DenyList:
        """Parse a payload; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed, or too long.
        """
        what = "deny list"
        fields = open_payload(payload, what, max_items=LIMITS.max_control_items + 4 * LIMITS.max_denied)
        raw = cbor.take(fields, "Denied", list, what)
        modules = cbor.take(fields, "Modules", list, what) if "Modules" in fields else None
        if modules == []:
            raise DecodeError(f"{what} field 'Modules' is there and empty")
        count = len(raw) + len(modules or ())
        if count > LIMITS.max_denied:
            raise DecodeError(f"{what} holds {count} entries")
        bans = [_entry(item, what, revocation=False) for item in raw]
        revoked = [_entry(item, what, revocation=True) for item in modules or ()]
        return cls(
            cluster=cbor.take(fields, "Cluster", str, what),
            epoch=cbor.take_uint(fields, "Epoch", what),
            time_ns=cbor.take_uint(fields, "Time", what),
            entries=tuple(sorted((*bans, *revoked)) if revoked else bans),
            extra=fields,
        )


def open_deny_list(data: bytes, cluster_public: bytes) -> DenyList:
    """Verify a deny list against the pinned cluster key.

    Raises:
        DecodeError: malformed. VerificationError: not signed by the pinned cluster.
    """
    return DenyList.decode(envelope.open_envelope(envelope.DOMAIN_DENY_LIST, data, cluster_public))


def module_value(digest: bytes) -> str:
    """Return the value by which a module of this digest (SHA-256, 32 bytes) is banned."""
    return f"sha256:{digest.hex()}"


def _wire(entries: Iterable[Denied]) -> list[list[str | int]]:
    return [[entry.kind.value, entry.value, entry.since] for entry in sorted(entries)]


def _entry(item: object, what: str, *, revocation: bool) -> Denied:
    match item:
        case [str(kind), str(value), int(since)] if since >= 0:
            try:
                entry = denied(kind, value, since=since)
            except InputError as error:
                raise DecodeError(f"{what}: {error.message}") from None
            if (entry.kind in REVOCATIONS) is not revocation:
                raise DecodeError(f"{what} holds a ban of kind {kind!r} in the wrong field")
            return entry
    raise DecodeError(f"{what} holds something that is not a ban")
