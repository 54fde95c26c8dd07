"""What a guest may ask of its host: ``log``, ``emit`` and ``now``, within rates and sizes. Pure but for the clock.

What it says is bounded and checked here, and again by the rack, which believes no host.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stagebox import cbor
from stagebox.errors import DecodeError, InputError
from stagebox.identity import check_name
from stagebox.modules.statement import ModuleLimits
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.rates import Rate

TAKEN, OVER_RATE, MALFORMED = 0, 1, 2
"""What ``emit`` returns."""

_LEVELS = 4
_INTEGERS = range(-(1 << 63), 1 << 64)

Say = Callable[[dict[str, Any]], bool]
"""Sends an event to the rack; False if it could not be."""


@dataclass
class Moment:
    """The block that a guest is given: the sample index of its first frame, and when that was captured."""

    start: int = 0
    time_ns: int = 0


class GuestCalls:
    """The calls of one instance."""

    def __init__(self, instance: int, limits: ModuleLimits, moment: Moment, say: Say) -> None:
        self._instance = instance
        self._limits = limits
        self._moment = moment
        self._say = say
        self._records = Rate(limits.records_per_s)
        self._lines = Rate(LIMITS.module_logs_per_s)

    def log(self, level: int, text: bytes) -> None:
        """Pass a line on; what is over the rate is dropped."""
        if self._lines.allow(time.monotonic_ns()):
            shown = text[: LIMITS.module_log_bytes].decode("utf-8", "replace")
            self._say(
                {
                    "Event": "log",
                    "Instance": self._instance,
                    "Level": max(0, min(level, _LEVELS - 1)),
                    "Text": shown,
                }
            )

    def emit(self, out: bytes, data: bytes) -> int:
        """Pass a record on; return ``TAKEN``, ``OVER_RATE`` or ``MALFORMED``."""
        if len(data) > self._limits.record_bytes or len(out) > LIMITS.module_out_chars:
            return MALFORMED
        if not self._records.allow(time.monotonic_ns()):
            return OVER_RATE
        try:
            name = check_name("output", out.decode("ascii"))
            read_data(data, self._limits.record_bytes)
        except (DecodeError, InputError, UnicodeDecodeError):
            return MALFORMED
        said = self._say(
            {
                "Event": "record",
                "Instance": self._instance,
                "Out": name,
                "Data": data,
                "Start": self._moment.start,
                "Time": self._moment.time_ns,
            }
        )
        return TAKEN if said else OVER_RATE

    def now(self) -> int:
        """Return ns since the Unix epoch."""
        return time.time_ns()


def read_data(data: bytes, max_bytes: int) -> dict[str, Any]:
    """Return the map that a guest handed out: text keys, and values that every reader of records understands.

    Raises:
        DecodeError: it is none.
    """
    value = cbor.decode(data, max_bytes=max_bytes, max_items=LIMITS.module_data_items)
    fields = cbor.expect_map(value, "a module's data")
    _check(fields)
    return fields


def _check(value: object) -> None:
    """Raise ``DecodeError`` unless ``value`` is plain: its depth and items are bounded by who decoded it."""
    if isinstance(value, dict):
        for item in value.values():
            _check(item)
    elif isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise DecodeError("a module's data holds a number that is not finite")
    elif isinstance(value, int):
        if value not in _INTEGERS:
            raise DecodeError("a module's data holds a number that is too large")
    elif value is not None and not isinstance(value, str | bytes):
        raise DecodeError("a module's data holds what is no plain value")
