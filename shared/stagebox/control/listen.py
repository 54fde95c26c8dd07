"""The arguments of the commands about audio: ``listen`` and ``reset-meters``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stagebox import cbor

LEASE_BYTES = 16


@dataclass(frozen=True)
class Listen:
    """Take or renew ``lease`` on ``bus`` for ``ttl_s`` seconds; 0 releases it."""

    bus: str
    lease: bytes
    ttl_s: int

    def args(self) -> dict[str, Any]:
        """Return the command's ``Args``."""
        return {"Bus": self.bus, "Lease": self.lease, "Ttl": self.ttl_s}

    @classmethod
    def of(cls, args: dict[str, Any]) -> Listen:
        """Parse a command's ``Args``; unknown ones are ignored.

        Raises:
            DecodeError: malformed.
        """
        what, fields = "listen command", dict(args)
        return cls(
            bus=cbor.take(fields, "Bus", str, what),
            lease=cbor.take_bytes(fields, "Lease", what, length=LEASE_BYTES),
            ttl_s=cbor.take_uint(fields, "Ttl", what, bits=32),
        )


@dataclass(frozen=True)
class ResetMeters:
    """``source`` and ``programme`` name one; empty is all."""

    source: str = ""
    programme: str = ""

    def args(self) -> dict[str, Any]:
        """Return the command's ``Args``."""
        return {"Source": self.source, "Programme": self.programme}

    @classmethod
    def of(cls, args: dict[str, Any]) -> ResetMeters:
        """Parse a command's ``Args``; unknown ones are ignored.

        Raises:
            DecodeError: malformed.
        """
        what, fields = "reset-meters command", dict(args)
        return cls(cbor.take(fields, "Source", str, what), cbor.take(fields, "Programme", str, what))
