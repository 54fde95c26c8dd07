"""What every handler of the lifecycle works with."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stagebox.control.denylist import DenyList
from stagebox.control.fields import DIGEST_BYTES
from stagebox.identity import RackId
from stagebox_mixer.lifecycle import machine
from stagebox_mixer.lifecycle.audited import AuditedRacks
from stagebox_mixer.lifecycle.issuing import Issuer
from stagebox_mixer.lifecycle.machine import Terms
from stagebox_mixer.registry.model import RackEntry

_NS = 1_000_000_000


class Denials(Protocol):
    """The deny list, read from where it is kept at every question."""

    async def read(self) -> DenyList:
        """Return the list in force."""

    async def signed(self) -> bytes:
        """Return it as the cluster authority signed it."""

    def wants(self, epoch: int, *, source: str) -> bool:
        """Tell whether ``source``, which holds a list of ``epoch``, must be asked for it."""

    async def adopt(self, data: bytes, *, source: str) -> bool:
        """Take a newer list that the authority signed; raises if it did not."""


@dataclass(frozen=True)
class Desk:
    """The parts a handler needs. ``clock`` gives ns since the Unix epoch, ``entropy`` random bytes."""

    cluster: str
    racks: AuditedRacks
    denials: Denials
    issuer: Issuer
    terms: Terms
    clock: Callable[[], int]
    entropy: Callable[[int], bytes]

    def uri(self, entry: RackEntry) -> str:
        """Return the SPIFFE URI of a rack."""
        return RackId(self.cluster, entry.tenant, entry.name).uri

    def reissue(self, entry: RackEntry, action: str) -> RackEntry:
        """Return the entry with the passport waiting that an operator's ``action`` asks for."""
        return machine.reissue(
            entry,
            machine.next_status(entry, action),
            request=self.entropy(DIGEST_BYTES),
            secret_of=self.issuer.secret_of,
            terms=self.terms,
            now_ns=self.clock(),
        )


def moment(now_ns: int) -> datetime.datetime:
    """Return a time in ns since the Unix epoch as an aware UTC datetime."""
    return datetime.datetime.fromtimestamp(now_ns / _NS, datetime.UTC)
