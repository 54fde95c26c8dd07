"""Certificates that end soon although their rack should have renewed them: found, logged and audited once a day.

A rack renews at two thirds of its certificate's life, so one that has less than a week, or less than a quarter of
its life left, is in trouble. It is reported until its grace ends; after that it is off, and says so at every try.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from stagebox.errors import StageboxError
from stagebox_mixer.audit import Row
from stagebox_mixer.lifecycle.audited import AuditLog
from stagebox_mixer.lifecycle.machine import Terms
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import RackEntry

log = structlog.get_logger()

_NS = 1_000_000_000
_DAY_NS = 24 * 3600 * _NS


@dataclass(frozen=True)
class Expiring:
    """A rack whose certificate ends in ``left_ns`` (negative: it has ended); ``problem`` is what the rack says."""

    rack: str
    not_after: int
    left_ns: int
    problem: str

    @property
    def ended(self) -> bool:
        """Whether the certificate has ended already."""
        return self.left_ns <= 0


class _Racks(Protocol):
    async def all_racks(self) -> list[RackEntry]:
        """Return every entry, those of removed racks too."""


def warning_ns(certificate_days: float) -> int:
    """Return how long before its end a certificate that is not renewed is worth a warning.

    7 days, or the last quarter of a shorter life: a renewal in time (two thirds of life and at most a twelfth of
    jitter) has happened by then.
    """
    return int(min(LIMITS.expiry_warning_days, certificate_days * LIMITS.expiry_warning_share) * _DAY_NS)


def due(entries: Iterable[RackEntry], terms: Terms, now_ns: int) -> tuple[Expiring, ...]:
    """Return the racks whose certificate ends soon and has not been renewed, the most urgent first.

    A renewal counts once the rack has proved it: until then the old certificate is the one it may depend on.
    """
    warn_ns = warning_ns(terms.certificate_days)
    found = [
        Expiring(entry.name, entry.certificate_not_after, entry.certificate_not_after - now_ns, entry.problem)
        for entry in entries
        if not entry.removed_at
    ]
    late = [rack for rack in found if -terms.grace_ns < rack.left_ns < warn_ns]
    return tuple(sorted(late, key=lambda rack: rack.left_ns))


class ExpirySweep:
    """Looks at all racks from time to time; ``expiring`` is what it saw last."""

    def __init__(
        self, *, registry: _Racks, audit: AuditLog, terms: Terms, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._registry = registry
        self._audit = audit
        self._terms = terms
        self._clock = clock
        self._told: dict[str, int] = {}
        self.expiring: tuple[Expiring, ...] = ()

    async def run(self) -> None:
        """Check for ever."""
        while True:
            try:
                await self.check()
            except StageboxError as error:
                log.warning("expiry_check_failed", error=error.message)
            await asyncio.sleep(LIMITS.expiry_check_s)

    async def check(self) -> tuple[Expiring, ...]:
        """Look now; each rack gets one row a day.

        Raises:
            BusError: the registry or the audit cannot be used.
        """
        now_ns = self._clock()
        self.expiring = due(await self._registry.all_racks(), self._terms, now_ns)
        day = now_ns // _DAY_NS
        self._told = {rack: told for rack, told in self._told.items() if told == day}
        for rack in self.expiring:
            if rack.rack in self._told:
                continue
            hours = rack.left_ns // (3600 * _NS)
            log.warning("certificate_expiring", rack=rack.rack, hours_left=hours, problem=rack.problem)
            detail: dict[str, str | int] = {"not_after": rack.not_after, "problem": rack.problem}
            reason = "ended" if rack.ended else "ends_soon"
            await self._audit.record(Row("mixer", "certificate_expiring", rack.rack, "ok", reason, detail))
            self._told[rack.rack] = day
        return self.expiring
