"""The deny list: who is banned, signed by the cluster authority, with an epoch that only grows.

The mixer owns it; every rack keeps the newest it has seen and gives it back to a mixer whose own is older (one
restored from a backup). Reasons are not in it: racks need not know why another was banned.
"""

from __future__ import annotations

import enum
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


class DenyKind(enum.StrEnum):
    """What is banned."""

    RACK = "rack"
    MACHINE = "machine"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, order=True)
class Denied:
    """One ban: a rack's name, a machine id (16 hex digits) or a fingerprint (``sha256:<hex>``). ``since`` in ns."""

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
        case DenyKind.MACHINE | DenyKind.CERTIFICATE:
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
        return next((entry for entry in self.entries if (entry.kind, entry.value) in wanted), None)

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
        return close_payload(
            self.extra,
            {
                "Cluster": self.cluster,
                "Epoch": self.epoch,
                "Time": self.time_ns,
                "Denied": [[entry.kind.value, entry.value, entry.since] for entry in sorted(self.entries)],
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
        if len(raw) > LIMITS.max_denied:
            raise DecodeError(f"{what} holds {len(raw)} entries")
        return cls(
            cluster=cbor.take(fields, "Cluster", str, what),
            epoch=cbor.take_uint(fields, "Epoch", what),
            time_ns=cbor.take_uint(fields, "Time", what),
            entries=tuple(_entry(item, what) for item in raw),
            extra=fields,
        )


def open_deny_list(data: bytes, cluster_public: bytes) -> DenyList:
    """Verify a deny list against the pinned cluster key.

    Raises:
        DecodeError: malformed. VerificationError: not signed by the pinned cluster.
    """
    return DenyList.decode(envelope.open_envelope(envelope.DOMAIN_DENY_LIST, data, cluster_public))


def _entry(item: object, what: str) -> Denied:
    match item:
        case [str(kind), str(value), int(since)] if since >= 0:
            try:
                return denied(kind, value, since=since)
            except InputError as error:
                raise DecodeError(f"{what}: {error.message}") from None
    raise DecodeError(f"{what} holds something that is not a ban")
