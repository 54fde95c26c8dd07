"""The bodies of ``sync``: on every connect a rack tells where it stands, and hears what it missed.

It is also how a mixer put back from an older backup learns that it is behind: the command sequence and the
deny list's epoch that a rack has seen are the witnesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stagebox import cbor
from stagebox.control.fields import take_chain


@dataclass(frozen=True)
class SyncReport:
    """Where a rack stands.

    ``serial`` and ``status`` are its passport's; ``command`` is the highest command sequence it accepted;
    ``deny_epoch`` that of the deny list it holds (0: none); ``chain`` its certificate (DER, leaf first);
    ``renewal`` is ``mixer`` or ``operator``: who renews it; ``problem`` says why renewal fails, empty if it does not.
    """

    serial: int
    status: str
    command: int
    deny_epoch: int
    chain: tuple[bytes, ...]
    renewal: str = "mixer"
    problem: str = ""

    def body(self) -> dict[str, Any]:
        """Return the request's body."""
        return {
            "Serial": self.serial,
            "Status": self.status,
            "Command": self.command,
            "DenyEpoch": self.deny_epoch,
            "Chain": list(self.chain),
            "Renewal": self.renewal,
            "Problem": self.problem,
        }

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> SyncReport:
        """Parse a request's body.

        Raises:
            DecodeError: malformed.
        """
        what, fields = "sync report", dict(body)
        return cls(
            serial=cbor.take_uint(fields, "Serial", what),
            status=cbor.take(fields, "Status", str, what),
            command=cbor.take_uint(fields, "Command", what),
            deny_epoch=cbor.take_uint(fields, "DenyEpoch", what),
            chain=take_chain(fields, "Chain", what),
            renewal=cbor.take(fields, "Renewal", str, what),
            problem=cbor.take(fields, "Problem", str, what),
        )


@dataclass(frozen=True)
class SyncAnswer:
    """``deny_list`` is the mixer's signed list if the rack's is older, else empty. ``want_deny_list`` asks for
    the rack's, because it is newer than the mixer's. ``command`` is the highest command sequence the mixer has given
    this rack: where a rack starts from whose own mark was damaged.
    """

    deny_list: bytes = b""
    want_deny_list: bool = False
    command: int = 0

    def body(self) -> dict[str, Any]:
        """Return the answer's body."""
        return {
            "DenyList": self.deny_list,
            "WantDenyList": self.want_deny_list,
            "Command": self.command,
        }

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> SyncAnswer:
        """Parse an answer's body.

        Raises:
            DecodeError: malformed.
        """
        what, fields = "sync answer", dict(body)
        return cls(
            deny_list=cbor.take_bytes(fields, "DenyList", what),
            want_deny_list=cbor.take(fields, "WantDenyList", bool, what),
            command=cbor.take_uint(fields, "Command", what),
        )
