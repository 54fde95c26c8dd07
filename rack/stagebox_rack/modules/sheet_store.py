"""The patch sheet this rack goes by: the newest that the pinned cluster signed for it, as it was signed.

``modules/patch.cbor`` holds the envelope and is verified again whenever it is read; one that does not verify counts as
none, so nothing runs. Only a sheet with a higher serial takes its place. The same sheet again changes nothing.
"""

from __future__ import annotations

import threading
from pathlib import Path

import structlog

from stagebox.errors import InputError, StageboxError, VerificationError
from stagebox.files import write_atomic
from stagebox.limits import LIMITS
from stagebox.modules.patch import PatchSheet, open_sheet
from stagebox_rack.modules.reading import read_plain

log = structlog.get_logger()

FILE_NAME = "patch.cbor"


class SheetRefused(VerificationError):
    """A sheet that is not taken; ``code`` is ``malformed``, ``signature``, ``other_cluster``, ``other_rack`` or
    ``old_serial``. The one held stays."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"the patch sheet is refused: {message}")
        self.code = code


class SheetStore:
    """Keeps one signed sheet in ``path``."""

    def __init__(self, path: Path, *, cluster: str, cluster_public: bytes, rack: str) -> None:
        self._path = path
        self._cluster = cluster
        self._cluster_public = cluster_public
        self._rack = rack
        self._data = b""
        self._writing = threading.Lock()
        self.sheet: PatchSheet | None = None
        """The sheet held; the same object until another is taken."""

    @property
    def serial(self) -> int:
        """The serial of the sheet held; 0 when there is none."""
        return self.sheet.serial if self.sheet is not None else 0

    def load(self) -> None:
        """Read what is stored; what cannot be read or does not verify counts as none, and is left there."""
        try:
            data = read_plain(self._path, max_bytes=LIMITS.max_envelope_bytes)
            if data is not None:
                self._hold(data, self._open(data))
        except StageboxError as error:
            log.warning("patch_sheet_unreadable", file=str(self._path), reason=error.message)

    def offer(self, data: bytes) -> bool:
        """Take a sheet if it is newer than the one held; return whether it was. Blocks on the disk then.

        Raises:
            SheetRefused: not the pinned cluster's for this rack, or older. StorageError: not written, not taken.
        """
        with self._writing:
            if data == self._data:
                return False
            found = self._open(data)
            if found.serial <= self.serial:
                raise SheetRefused(
                    "old_serial", f"its serial {found.serial} is not above {self.serial}, held here"
                )
            write_atomic(self._path, data)
            self._hold(data, found)
            return True

    def _open(self, data: bytes) -> PatchSheet:
        try:
            found = open_sheet(data, self._cluster_public)
        except InputError as error:
            raise SheetRefused("malformed", error.message) from None
        except VerificationError as error:
            raise SheetRefused("signature", error.message) from None
        if found.cluster != self._cluster:
            raise SheetRefused("other_cluster", f"it is of cluster {found.cluster!r}")
        if found.rack != self._rack:
            raise SheetRefused("other_rack", f"it is for rack {found.rack!r}")
        return found

    def _hold(self, data: bytes, found: PatchSheet) -> None:
        self._data, self.sheet = data, found
