"""The rack's decision whether a module may run: pure, from bytes, signed statements and times. It never compiles.

A module is admitted iff every check here holds: SHA-256 of exactly these bytes is the digest the insert names, and they
are as many as it says; the pinned cluster countersigned them for this cluster, and vendor and cluster agree about
everything; name and version are the insert's; no signature has ended by trusted time; the serial is no lower than that
of any file of this module that was let run here before; neither the file, nor the file as the vendor signed it, nor the
vendor's key is on the deny list; what it is granted fits its point; it imports nothing but what it is granted, and its
memory has a bound; the insert's parameters are its own and within range.

The bytes of :class:`Admitted` are the bytes that were verified, one immutable object: nothing is read again between
the verdict and the compiler. Everything else raises :class:`~stagebox.errors.ModuleError` with its code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stagebox.control.denylist import DenyList
from stagebox.errors import InputError, ModuleError
from stagebox.modules.capabilities import Capability
from stagebox.modules.interface import check_interface, read_interface, tightened
from stagebox.modules.params import resolve
from stagebox.modules.patch import Insert, Point
from stagebox.modules.statement import ModuleLimits
from stagebox.modules.verification import Countersigned, verify_countersigned
from stagebox_rack.modules.hosting.hosted import HostedModule

_NEEDED: Mapping[Point, Capability] = {
    Point.METERS: Capability.AUDIO,
    Point.MONITOR: Capability.AUDIO,
    Point.TAP: Capability.AUDIO,
    Point.TELEMETRY: Capability.TELEMETRY,
}


@dataclass(frozen=True)
class Admitted:
    """A module that may run as one insert of the sheet.

    ``data`` is the countersigned file, ``digest`` its SHA-256, ``vendor_digest`` that of the file as the vendor signed
    it, ``vendor`` the vendor's key id. ``params`` are values by parameter id, defaults included. ``expires`` in ns.
    """

    name: str
    version: str
    digest: bytes
    data: bytes = field(repr=False)
    granted: frozenset[Capability]
    limits: ModuleLimits
    params: Mapping[int, float]
    serial: int
    vendor: bytes
    vendor_digest: bytes
    expires: int

    @property
    def hosted(self) -> HostedModule:
        """What the hosts are given."""
        return HostedModule(
            name=self.name,
            version=self.version,
            data=self.data,
            granted=self.granted,
            limits=self.limits,
            params=self.params,
        )


class Guard:
    """The guard of one rack; ``cluster_public`` is the key pinned at enrollment."""

    def __init__(self, cluster: str, cluster_public: bytes) -> None:
        self._cluster = cluster
        self._cluster_public = cluster_public

    def admit(self, data: bytes, insert: Insert, *, denied: DenyList, floor: int, now_ns: int) -> Admitted:
        """Verify a file for an insert of a verified sheet.

        ``floor`` is the module's serial floor, ``now_ns`` trusted time. Takes some milliseconds a megabyte: not for the
        event loop.

        Raises:
            ModuleError: it may not run; ``code`` says why.
        """
        data = bytes(data)  # the same object if it is immutable already
        _check_asked(data, insert)
        file = verify_countersigned(
            data, cluster=self._cluster, cluster_public=self._cluster_public, now_ns=now_ns
        )
        cluster = file.cluster
        _check_named(file, insert)
        admitted = Admitted(
            name=file.vendor.name,
            version=file.vendor.version,
            digest=insert.digest,
            data=data,
            granted=frozenset(cluster.granted),
            limits=cluster.limits,
            params=_params(file, insert),
            serial=cluster.serial,
            vendor=file.vendor.key_id,
            vendor_digest=cluster.statement.sha256,
            expires=min(file.vendor.expires, cluster.statement.expires),
        )
        recheck(admitted, denied=denied, floor=floor, now_ns=now_ns)
        _check_point(admitted.granted, insert)
        interface = read_interface(data, file.sections)
        check_interface(interface, admitted.granted, admitted.limits, file.params)
        return replace(admitted, limits=tightened(admitted.limits, interface))


def recheck(admitted: Admitted, *, denied: DenyList, floor: int, now_ns: int) -> None:
    """Judge anew what may change while a module runs: time, serial floor and deny list. Quick.

    Raises:
        ModuleError: ``expired``, ``downgrade`` or ``denied``.
    """
    if now_ns >= admitted.expires:
        raise ModuleError(
            "expired",
            f"the signatures of {admitted.name!r} {admitted.version} have ended",
            remedy="countersign it again on the mixer, then assign it",
        )
    if admitted.serial < floor:
        raise ModuleError(
            "downgrade",
            f"{admitted.name!r} {admitted.version} has serial {admitted.serial}; {floor} was let run here before",
            remedy="to go back to an older version, have the mixer countersign it again",
        )
    digests = (admitted.digest, admitted.vendor_digest)
    found = denied.matches_module(digests, (admitted.vendor,))
    if found is not None:
        raise ModuleError(
            "denied", f"{admitted.name!r} {admitted.version} is denied: {found.kind} {found.value}"
        )


def _check_asked(data: bytes, insert: Insert) -> None:
    if hashlib.sha256(data).digest() != insert.digest:
        raise ModuleError(
            "wrong_digest", f"the file of {insert.module!r} is not the one the sheet names: it was altered"
        )
    if len(data) != insert.size:
        raise ModuleError(
            "wrong_size", f"the file of {insert.module!r} has {len(data)} bytes, the sheet says {insert.size}"
        )


def _check_named(file: Countersigned, insert: Insert) -> None:
    if file.vendor.name != insert.module:
        raise ModuleError("wrong_name", f"the file is of module {file.vendor.name!r}, not {insert.module!r}")
    if file.vendor.version != insert.version:
        raise ModuleError(
            "wrong_module_version",
            f"the file is version {file.vendor.version} of {insert.module!r}, not {insert.version}",
        )


def _check_point(granted: frozenset[Capability], insert: Insert) -> None:
    needed = _NEEDED[insert.point]
    if needed not in granted:
        raise ModuleError(
            "capability_not_granted",
            f"{insert.module!r} is not granted {needed.value!r}, as {insert.point} asks",
        )


def _params(file: Countersigned, insert: Insert) -> Mapping[int, float]:
    try:
        return resolve(file.params, insert.params)
    except InputError as error:
        raise ModuleError("bad_params", f"{insert.module!r}: {error.message}") from None
