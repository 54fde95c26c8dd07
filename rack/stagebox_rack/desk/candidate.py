"""The module that is tried: what its file says of it, or else its manifest, or else what it imports and exports.

On a desk nobody has to have signed it. What a signature says is taken as it stands and called unverified; the bytes run
in the rack's sandbox either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from stagebox.cli.wasm.reading import coded, manifest_of, read_module
from stagebox.modules.capabilities import IMPORTS, Capability
from stagebox.modules.interface import Interface, check_interface, read_interface
from stagebox.modules.params import Param, read_params, resolve
from stagebox.modules.signature_section import place, split_section
from stagebox.modules.statement import ClusterStatement, ModuleLimits, Statement
from stagebox.modules.walker import Section, walk
from stagebox_rack.modules.hosting.hosted import HostedModule

_PURPOSES = {"process": Capability.AUDIO, "record": Capability.TELEMETRY}


@dataclass(frozen=True)
class Candidate:
    """A module on the desk; ``origin`` says where what is known of it is from."""

    file: Path
    origin: str
    name: str
    version: str
    granted: frozenset[Capability]
    limits: ModuleLimits
    params: tuple[Param, ...]
    values: Mapping[int, float]
    data: bytes = field(repr=False)

    def hosted(self, limits: ModuleLimits | None = None) -> HostedModule:
        """Return it as a host takes it, within ``limits`` if they are given."""
        return HostedModule(
            self.name, self.version, self.data, self.granted, limits or self.limits, self.values
        )


def open_candidate(file: Path, values: Mapping[str, float], *, fuel: int | None = None) -> Candidate:
    """Read a module, and check it as a rack does before it compiles one, but for the signatures.

    Raises:
        InputError: it cannot be read, its manifest is wrong, or a value is none of its parameters'.
        ModuleError: no module, or not one for this ABI.
    """
    data = read_module(file)
    with coded(str(file)):
        sections = walk(data)
        interface = read_interface(data, sections)
        found = _described(file, data, sections, interface)
        if fuel is not None:
            found = replace(found, limits=replace(found.limits, fuel_per_block=fuel))
        found.limits.check()
        check_interface(interface, found.granted, found.limits, found.params)
    return replace(found, values=resolve(found.params, values))


def _described(file: Path, data: bytes, sections: tuple[Section, ...], interface: Interface) -> Candidate:
    placed = place(sections)
    origin, limits = "unsigned", ModuleLimits()
    if placed.cluster is not None:
        cluster = ClusterStatement.decode(split_section(data, placed.cluster)[0])
        origin, limits = f"countersigned by {cluster.cluster}, unverified", cluster.limits
        name, version, granted = cluster.statement.name, cluster.statement.version, cluster.granted
    elif placed.vendor is not None:
        vendor = Statement.decode(split_section(data, placed.vendor)[0])
        origin = f"signed by {vendor.signer}, unverified"
        name, version, granted = vendor.name, vendor.version, vendor.capabilities
    elif (manifest := manifest_of(file)) is not None:
        name, version, granted = manifest.name, manifest.version, manifest.capabilities
    else:
        origin = "unsigned, without module.toml"
        name, version, granted = "module", "0.0.0", _needed(interface)
    return Candidate(
        file, origin, name, version, frozenset(granted), limits, read_params(data, sections), {}, data
    )


def _needed(interface: Interface) -> tuple[Capability, ...]:
    purposes = [purpose for name, purpose in _PURPOSES.items() if name in interface.exports]
    return tuple(purposes + [IMPORTS[item.name] for item in interface.imports if item.name in IMPORTS])
