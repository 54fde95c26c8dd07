"""Trusted time: the wall clock, but never behind what the cluster has signed.

A rack without a battery-backed clock, or with one that was set back, must not run a module that has ended. So the
newest time under a verified signature of the cluster (a patch sheet, an answer, a passport, a deny list) is a floor;
from when it was heard it advances with the monotonic clock. The floor never goes back. It is made durable now and
then: the held sheet and passport carry times of their own. Only signed times raise it, so a wall clock that was wrong
once does not end every module for good. Fields of a later release are kept. Format of ``modules/time.cbor``:
docs/reference/module-state.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from stagebox import cbor
from stagebox.errors import DecodeError, StorageError
from stagebox.files import write_atomic
from stagebox_rack import summed
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.reading import read_plain

log = structlog.get_logger()

FILE_NAME = "time.cbor"
_WHAT = "time floor"
_NS = 1_000_000_000


class TrustedTime:
    """The time of one rack, with its floor in ``path``. All times are ns since the Unix epoch."""

    def __init__(
        self,
        path: Path,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._path = path
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._heard = 0
        self._heard_at = monotonic_ns()
        self._saved = 0
        self._extra: dict[str, Any] = {}
        self._looked: tuple[int, int] | None = None
        self._lock = threading.Lock()

    @property
    def floor(self) -> int:
        """What it is at least now, whatever the wall clock says; 0 if no signed time was ever heard."""
        with self._lock:
            return self._floor()

    def now_ns(self) -> int:
        """Return the time that decides."""
        return max(self._wall_ns(), self.floor)

    def stepped(self) -> bool:
        """Whether it was set, forward or back, since this was asked before. For one who asks."""
        now, monotonic = self.now_ns(), self._monotonic_ns()
        before, self._looked = self._looked, (now, monotonic)
        if before is None:
            return False
        return abs(now - before[0] - (monotonic - before[1])) > LIMITS.module_time_step * _NS

    def heard(self, signed_ns: int) -> None:
        """Take a time under a verified signature of the cluster; an older one changes nothing."""
        with self._lock:
            if signed_ns > self._floor():
                self._heard, self._heard_at = signed_ns, self._monotonic_ns()

    def load(self) -> None:
        """Read the stored floor; one that cannot be read counts as none, and is written anew."""
        try:
            data = read_plain(self._path, max_bytes=LIMITS.module_time_bytes)
            if data is None:
                return
            fields = summed.decode(data, _WHAT, max_bytes=LIMITS.module_time_bytes)
            stored = cbor.take_uint(fields, "Floor", _WHAT)
        except (DecodeError, StorageError) as error:
            log.warning("time_floor_unreadable", file=str(self._path), reason=error.message)
            return
        self._saved, self._extra = stored, fields
        self.heard(stored)

    def save_if_due(self) -> None:
        """Make the floor durable if the stored one is old. Blocks on the disk; a full one is tried again later."""
        if self.floor - self._saved >= LIMITS.module_time_save * _NS:
            try:
                self.save()
            except StorageError as error:
                log.warning("time_floor_not_kept", reason=error.message)

    def save(self) -> None:
        """Make the floor durable. Blocks on the disk.

        Raises:
            StorageError: not written; the one before stays.
        """
        floor = self.floor
        if floor > self._saved:
            write_atomic(self._path, summed.encode({**self._extra, "Floor": floor}))
            self._saved = floor

    def _floor(self) -> int:
        if not self._heard:
            return 0
        return self._heard + max(0, self._monotonic_ns() - self._heard_at)
