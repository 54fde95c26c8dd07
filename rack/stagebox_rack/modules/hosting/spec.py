"""What a host is told of one instance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stagebox import cbor
from stagebox.modules.capabilities import Capability
from stagebox.modules.statement import ModuleLimits


@dataclass(frozen=True)
class InstanceSpec:
    """One instance, numbered by the rack: what it runs, within which limits, and for what.

    ``code`` is the number of its native code, which comes with it; ``strikes`` are the times of those that count
    already. ``block`` is its longest block in frames; ``rate``, ``channels`` and ``block`` are 0 for one that is given
    records.
    """

    instance: int
    insert: str
    code: int
    granted: frozenset[Capability]
    limits: ModuleLimits
    rate: int = 0
    channels: int = 0
    block: int = 0
    params: Mapping[int, float] = field(default_factory=dict)
    strikes: tuple[int, ...] = ()

    def wire(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {
            "Instance": self.instance,
            "Insert": self.insert,
            "Code": self.code,
            "Granted": sorted(self.granted),
            "Limits": self.limits.wire(),
            "Rate": self.rate,
            "Channels": self.channels,
            "Block": self.block,
            "Params": wire_params(self.params),
            "Strikes": list(self.strikes),
        }

    @classmethod
    def from_wire(cls, fields: dict[str, Any]) -> InstanceSpec:
        """Parse them; only the rack writes them.

        Raises:
            DecodeError, ModuleError, ValueError: malformed.
        """
        what = "instance"
        return cls(
            instance=cbor.take_uint(fields, "Instance", what),
            insert=cbor.take(fields, "Insert", str, what),
            code=cbor.take_uint(fields, "Code", what),
            granted=frozenset(Capability(name) for name in cbor.take(fields, "Granted", list, what)),
            limits=ModuleLimits.from_wire(cbor.take(fields, "Limits", dict, what)),
            rate=cbor.take_uint(fields, "Rate", what),
            channels=cbor.take_uint(fields, "Channels", what),
            block=cbor.take_uint(fields, "Block", what),
            params=params_from_wire(cbor.take(fields, "Params", list, what)),
            strikes=tuple(cbor.take(fields, "Strikes", list, what)),
        )


def wire_params(params: Mapping[int, float]) -> list[list[float]]:
    """Return parameters as pairs of id and value."""
    return [[number, float(value)] for number, value in sorted(params.items())]


def params_from_wire(pairs: list[Any]) -> dict[int, float]:
    """Return parameters by id."""
    return {int(number): float(value) for number, value in pairs}
