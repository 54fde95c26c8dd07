"""Obeys the commands about audio: ``listen`` (leases on monitor buses) and ``reset-meters``."""

from __future__ import annotations

from collections.abc import Mapping

from stagebox.control.command import Command, CommandVerb
from stagebox.control.listen import Listen, ResetMeters
from stagebox.errors import CaptureError, ConfigError, DecodeError
from stagebox_rack.capturing import Capturing
from stagebox_rack.commands.service import CommandRefused, Handler
from stagebox_rack.limits import LIMITS
from stagebox_rack.monitor.leases import LeaseRefused
from stagebox_rack.monitor.service import MonitorService


class AudioCommands:
    """The handlers of one rack."""

    def __init__(self, monitor: MonitorService, capturing: Capturing) -> None:
        self._monitor = monitor
        self._capturing = capturing

    def handlers(self) -> Mapping[str, Handler]:
        """Return verb → handler."""
        return {CommandVerb.LISTEN: self._listen, CommandVerb.RESET_METERS: self._reset_meters}

    async def _listen(self, command: Command) -> None:
        try:
            wanted = Listen.of(command.args)
        except DecodeError as error:
            raise CommandRefused("malformed", error.message) from error
        if not self._monitor.has(wanted.bus):
            known = ", ".join(self._monitor.names)
            raise CommandRefused("unknown_bus", f"there is no bus {wanted.bus!r}; there are: {known}")
        if wanted.ttl_s > LIMITS.lease_max:
            raise CommandRefused("lives_too_long", f"a lease lives {LIMITS.lease_max:g} s at most")
        try:
            await self._monitor.lease(wanted.bus, wanted.lease, wanted.ttl_s)
        except CaptureError as error:
            raise CommandRefused("not_capturing", error.message) from error
        except LeaseRefused:
            raise CommandRefused("too_many_listeners", f"too many listen to {wanted.bus!r}") from None

    async def _reset_meters(self, command: Command) -> None:
        try:
            wanted = ResetMeters.of(command.args)
        except DecodeError as error:
            raise CommandRefused("malformed", error.message) from error
        try:
            self._capturing.reset_loudness(wanted.source or None, wanted.programme or None)
        except CaptureError as error:
            raise CommandRefused("not_capturing", error.message) from error
        except ConfigError as error:
            raise CommandRefused("unknown_source", error.message) from error
