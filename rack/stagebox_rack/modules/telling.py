"""What the hosts tell, as events, alerts, log lines and records of the rack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import structlog

from stagebox.errors import InputError
from stagebox.logs import printable
from stagebox_rack.modules.arranging import Placed
from stagebox_rack.modules.hosting.hosted import (
    Emitted,
    Faulted,
    HostDied,
    HostEvent,
    InsertEvent,
    Logged,
    OverBudget,
    Started,
    Stopped,
)

log = structlog.get_logger()

_LEVELS = ("debug", "info", "warning", "error")


class Telling(Protocol):
    """What is needed of the publisher."""

    def event(self, name: str, detail: dict[str, Any]) -> None:
        """Publish something that happened."""

    def alert(self, name: str, detail: dict[str, Any]) -> None:
        """Publish something that needs attention."""

    def module_record(
        self,
        *,
        module: str,
        version: str,
        out: str,
        insert: str,
        data: Mapping[str, Any],
        source: str,
        start: int,
        time_ns: int | None,
    ) -> None:
        """Publish what a module said; raises InputError for what no record can hold."""


class HostReports:
    """Takes the events of the hosts; ``placed`` gives what sits at an insert, by its id."""

    def __init__(self, publisher: Telling, placed: Callable[[str], Placed | None]) -> None:
        self._publisher = publisher
        self._placed = placed
        self.refused_records = 0

    def take(self, event: HostEvent) -> None:
        """Publish one event of the hosts."""
        match event:
            case Emitted():
                self._record(event)
            case Logged():
                level = _LEVELS[min(max(event.level, 0), len(_LEVELS) - 1)]
                getattr(log, level)("module_log", module=event.module, insert=event.insert, text=event.text)
            case HostDied():
                self._publisher.alert(
                    "module.host_died",
                    {"host": event.host, "reason": printable(event.reason), "insert": event.insert},
                )
            case Started():
                self._publisher.event("module.started", _about(event))
            case Faulted():
                self._publisher.alert("module.fault", {**_why(event), "strikes": event.strikes})
            case OverBudget():
                self._publisher.event("module.over_budget", {**_why(event), "strikes": event.strikes})
            case Stopped():
                self._publisher.alert("module.stopped", _why(event))

    def _record(self, event: Emitted) -> None:
        placed = self._placed(event.insert)
        try:
            self._publisher.module_record(
                module=event.module,
                version=event.version,
                out=event.out,
                insert=event.insert,
                data=event.data,
                source=placed.insert.source if placed is not None else "",
                start=event.start,
                time_ns=event.time_ns,
            )
        except InputError as error:
            self.refused_records += 1
            if (
                self.refused_records.bit_count() == 1
            ):  # the 1st, 2nd, 4th, …: a module may do it a thousand times a second
                log.warning(
                    "module_record_refused",
                    insert=event.insert,
                    reason=printable(error.message),
                    refused=self.refused_records,
                )


def _about(event: InsertEvent) -> dict[str, Any]:
    return {
        "module": event.module,
        "version": event.version,
        "insert": event.insert,
        "place": event.place,
    }


def _why(event: Faulted | OverBudget | Stopped) -> dict[str, Any]:
    return {**_about(event), "code": printable(event.code), "reason": printable(event.reason)}
