"""What may be imported or countersigned again: a vendor's file held against vendors, deny list and registry.

Nothing is changed here. Size, vendor's signature and everything it says, deny list, what it imports against what it is
granted; then name and version against what is there. What is refused is a ``ModuleError`` with its code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from stagebox.control.denylist import DenyList
from stagebox.errors import ModuleError
from stagebox.modules.capabilities import Capability
from stagebox.modules.interface import check_interface, read_interface
from stagebox.modules.limits import LIMITS as FORMAT
from stagebox.modules.statement import ClusterStatement, ModuleLimits, in_order
from stagebox.modules.verification import Signed, VendorTrust, verify_countersigned, verify_vendor
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.model import ModuleEntry
from stagebox_mixer.modules.store import Catalogue
from stagebox_mixer.modules.vendors import Vendors
from stagebox_mixer.modules.versions import Precedence

_EVER_NS = 1 << 64


@dataclass(frozen=True)
class ImportOptions:
    """What an admin says on importing: fewer capabilities than asked for, other limits, an older version."""

    granted: tuple[Capability, ...] | None = None
    limits: ModuleLimits | None = None
    allow_older: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Accepted:
    """A verified file with what it is granted."""

    signed: Signed = field(repr=False)
    digest: bytes
    granted: tuple[Capability, ...]
    limits: ModuleLimits

    @property
    def title(self) -> str:
        """How audits and people name it."""
        return f"{self.signed.statement.name}@{self.signed.statement.version}"

    @property
    def expires(self) -> int:
        """The end of the countersignature: no vendor signs for longer than it is trusted."""
        return min(self.signed.statement.expires, self.signed.root.not_after)


class Judge:
    """Judges files for one cluster, each by what is trusted and denied at that moment."""

    def __init__(
        self, *, cluster: str, cluster_public: bytes, vendors: Vendors, clock: Callable[[], int]
    ) -> None:
        self._cluster = cluster
        self._public = cluster_public
        self._vendors = vendors
        self._clock = clock

    async def file(self, data: bytes, options: ImportOptions, catalogue: Catalogue) -> Accepted:
        """Return a vendor's file as accepted, by everything that needs no registry.

        Raises:
            ModuleError: it is refused.
        """
        if len(data) > FORMAT.max_module_bytes:
            raise ModuleError(
                "too_large", f"the file has {len(data)} bytes, at most {FORMAT.max_module_bytes} are allowed"
            )
        trust = self._vendors.under(catalogue.denied)
        return await asyncio.to_thread(self._file, data, options, trust, catalogue.denied)

    async def again(self, entry: ModuleEntry, stored: bytes, catalogue: Catalogue) -> Accepted:
        """Return what our own ``stored`` file of ``entry`` holds, with what the file says it was granted.

        Raises:
            ModuleError: it is not that file, or its vendor no longer stands for it.
        """
        trust = self._vendors.under(catalogue.denied)
        return await asyncio.to_thread(self._again, entry, stored, trust, catalogue.denied)

    def _file(self, data: bytes, options: ImportOptions, trust: VendorTrust, denied: DenyList) -> Accepted:
        """Takes some milliseconds a megabyte."""
        signed = self._verify(data, trust, denied)
        asked = signed.statement.capabilities
        granted = asked if options.granted is None else in_order(options.granted)
        beyond = sorted(set(granted) - set(asked))
        if beyond:
            raise ModuleError("capability_not_allowed", f"the module does not ask for {beyond[0].value!r}")
        limits = (options.limits if options.limits is not None else LIMITS.module_limits).check()
        check_interface(read_interface(signed.data, signed.sections), granted, limits, signed.params)
        return Accepted(signed, signed.digest, granted, limits)

    def _again(self, entry: ModuleEntry, stored: bytes, trust: VendorTrust, denied: DenyList) -> Accepted:
        file, own = self._own_file(entry, stored)
        return Accepted(self._verify(file, trust, denied), entry.vendor_digest, own.granted, own.limits)

    def _own_file(self, entry: ModuleEntry, stored: bytes) -> tuple[bytes, ClusterStatement]:
        """Return the vendor's file and what we said of it: the registry is not signed, what it grants is a hint."""
        # That it is ours is enough: our clock may have been ahead then, and the vendor's part is judged anew.
        found = verify_countersigned(
            stored,
            cluster=self._cluster,
            cluster_public=self._public,
            now_ns=self._clock(),
            skew_ns=_EVER_NS,
        )
        own = found.cluster.statement
        if (own.name, own.version) != (entry.name, entry.version):
            raise ModuleError("wrong_module_version", f"the stored file of {entry.title} is another module's")
        if own.sha256 != entry.vendor_digest:
            raise ModuleError("wrong_digest", f"the stored file of {entry.title} is not of the vendor's file")
        return found.data[: own.covered], found.cluster

    def _verify(self, data: bytes, trust: VendorTrust, denied: DenyList) -> Signed:
        signed = verify_vendor(data, trust, now_ns=self._clock(), cluster_public=self._public)
        if denied.matches_module((signed.digest,), (signed.statement.key_id,)) is not None:
            raise ModuleError(
                "denied", f"{signed.statement.name!r} {signed.statement.version} is revoked here"
            )
        return signed


def held_already(accepted: Accepted, options: ImportOptions, catalogue: Catalogue) -> ModuleEntry | None:
    """Return the entry if the same file is there already, None if it may be entered.

    Raises:
        ModuleError: the name is another vendor's, the version is taken or too old, or there are too many.
    """
    statement = accepted.signed.statement
    versions = catalogue.versions(statement.name)
    foreign = next((entry for entry in versions if entry.vendor != accepted.signed.root.owner), None)
    if foreign is not None:
        raise ModuleError(
            "name_taken",
            f"{statement.name!r} is a module of vendor {foreign.vendor!r}, not of {accepted.signed.root.owner!r}",
            remedy="have it named otherwise; narrow the names of each vendor in its root file",
        )
    same = catalogue.module(statement.name, statement.version)
    if same is not None:
        return _same(same, accepted, options, catalogue)
    odd = [version for version, _ in catalogue.unreadable_of(statement.name)]
    # Whose a name is only its entries say; and what cannot be read is not written over.
    for version in odd if not versions else [statement.version]:
        catalogue.check_readable(statement.name, version)
    newest = max((*(entry.version for entry in versions), *odd), key=Precedence, default=None)
    if newest is not None and Precedence(statement.version) < Precedence(newest) and not options.allow_older:
        raise ModuleError(
            "older_version",
            f"{accepted.title} is older than {statement.name}@{newest}, which is here already",
            remedy="say --allow-older if that is meant",
        )
    held = len(catalogue.modules) + len(catalogue.unreadable)
    if held >= LIMITS.modules:
        raise ModuleError("too_many_modules", f"the registry holds {held} modules and is full")
    return None


def _same(held: ModuleEntry, accepted: Accepted, options: ImportOptions, catalogue: Catalogue) -> ModuleEntry:
    if held.vendor_digest != accepted.digest:
        raise ModuleError(
            "version_exists",
            f"another file was imported as {held.title}",
            remedy="give the new one a version of its own",
        )
    if catalogue.revoked(held):
        raise ModuleError("revoked", f"{held.title} is revoked: {held.revoked_reason or 'see the deny list'}")
    granted = options.granted is not None and accepted.granted != held.granted
    limits = options.limits is not None and accepted.limits != held.limits
    if granted or limits:
        raise ModuleError(
            "already_imported",
            f"{held.title} was imported with other {'capabilities' if granted else 'limits'}",
            remedy="import a new version with them",
        )
    return held


def usable(catalogue: Catalogue, name: str, version: str) -> ModuleEntry:
    """Return an imported version that is not revoked.

    Raises:
        ModuleError: there is none, or it is revoked.
    """
    entry = catalogue.imported(name, version)
    if catalogue.revoked(entry):
        raise ModuleError(
            "revoked", f"{entry.title} is revoked", remedy="revocations are final: import a fixed version"
        )
    return entry
