"""Serial floors: the highest serial of each module that was let run here, kept across restarts.

``modules/serials.cbor`` is raised durably before a file is given to a compiler, so an older file of that module never
runs here again, whoever brings it. A missing file is a rack that never ran a module. A damaged one, or one of another
cluster or rack, admits nothing until the mixer, asked afresh, has said which files are wanted now. Fields of a later
release are kept. Format: docs/reference/module-state.md.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stagebox import cbor
from stagebox.errors import DecodeError, InputError, ModuleError, StorageError
from stagebox.files import write_atomic
from stagebox.identity import check_name
from stagebox_rack import summed
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.reading import read_plain

FILE_NAME = "serials.cbor"
_WHAT = "serial floors"


def encode(
    floors: Mapping[str, int], *, cluster: str, rack: str, extra: Mapping[str, Any] | None = None
) -> bytes:
    """Return the file's content; ``extra`` are fields of a later release."""
    return summed.encode({**(extra or {}), "Cluster": cluster, "Rack": rack, "Floors": dict(floors)})


def decode(data: bytes, *, cluster: str, rack: str) -> tuple[dict[str, int], dict[str, Any]]:
    """Parse a file's content; return the floors, and the fields that are not known here.

    Raises:
        DecodeError: damaged, of an unknown version, or another rack's.
    """
    fields = summed.decode(data, _WHAT, max_bytes=LIMITS.module_floors_bytes)
    whose = (cbor.take(fields, "Cluster", str, _WHAT), cbor.take(fields, "Rack", str, _WHAT))
    if whose != (cluster, rack):
        raise DecodeError(f"{_WHAT} are of rack {whose[1]!r} in cluster {whose[0]!r}")
    raw: dict[str, Any] = cbor.expect_map(cbor.take(fields, "Floors", dict, _WHAT), _WHAT)
    if len(raw) > LIMITS.module_floors:
        raise DecodeError(f"{_WHAT} are of {len(raw)} modules")
    return {_name(name): cbor.take_uint(raw, name, _WHAT) for name in list(raw)}, fields


class SerialFloors:
    """The floors of one rack, in ``path``. Blocks on the disk; may be used from one thread at a time."""

    def __init__(self, path: Path, *, cluster: str, rack: str) -> None:
        self._path = path
        self._cluster = cluster
        self._rack = rack
        self._floors: dict[str, int] = {}
        self._extra: dict[str, Any] = {}
        self._writing = threading.Lock()
        self.lost = "not read yet"
        """Why it is not known what ran here; empty if it is. While it is not, no module is admitted."""

    def load(self) -> None:
        """Read what is stored."""
        try:
            data = read_plain(self._path, max_bytes=LIMITS.module_floors_bytes)
            if data is None:
                self._floors, self._extra = {}, {}
            else:
                self._floors, self._extra = decode(data, cluster=self._cluster, rack=self._rack)
        except (DecodeError, StorageError) as error:
            self.lost = error.message
        else:
            self.lost = ""

    def of(self, module: str) -> int:
        """Return the floor of a module; 0 if it never ran here.

        Raises:
            ModuleError: ``floors_lost``.
        """
        self._require()
        return self._floors.get(module, 0)

    def raise_to(self, serials: Mapping[str, int]) -> None:
        """Make sure, durably, that no floor is below ``serials``; none is ever lowered.

        Raises:
            ModuleError: ``floors_lost``, or ``floors_full``. StorageError: the disk refused; the floors before stay.
        """
        with self._writing:
            self._require()
            raised = {name: serial for name, serial in serials.items() if serial > self._floors.get(name, -1)}
            if not raised:
                return
            floors = {**self._floors, **raised}
            data = self._encoded(floors, self._extra)
            if len(floors) > LIMITS.module_floors or len(data) > LIMITS.module_floors_bytes:
                raise ModuleError(
                    "floors_full",
                    f"this rack has run {len(self._floors)} modules and keeps no more serial floors",
                    remedy=f"with the rack stopped, remove {self._path}",
                )
            write_atomic(self._path, data)
            self._floors = floors

    def restore(self) -> None:
        """Begin anew after a loss. Only for a fresh, verified answer of the mixer as to what is to run now.

        Raises:
            StorageError: the disk refused; the floors are still lost.
        """
        with self._writing:
            if self.lost:
                write_atomic(self._path, self._encoded({}, {}))
                self._floors, self._extra, self.lost = {}, {}, ""

    def _encoded(self, floors: Mapping[str, int], extra: Mapping[str, Any]) -> bytes:
        return encode(floors, cluster=self._cluster, rack=self._rack, extra=extra)

    def _require(self) -> None:
        if self.lost:
            raise ModuleError(
                "floors_lost",
                f"it is not known which modules ran here: {self.lost}",
                remedy="modules are refused until the mixer has said what is wanted, at the next connection",
            )


def _name(value: str) -> str:
    try:
        return check_name("module", value)
    except InputError as error:
        raise DecodeError(f"{_WHAT}: {error.message}") from None
