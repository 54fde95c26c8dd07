"""The rack's copies of module files: ``<sha256>.wasm``, so that it runs without a mixer.

The library promises nothing: a name is only what the file should be. Whoever reads one has the guard verify the bytes
at every start. Only admitted files are written. Blocks on the disk.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import structlog

from stagebox.files import write_atomic
from stagebox.modules.limits import LIMITS
from stagebox_rack.modules.reading import read_plain

log = structlog.get_logger()

_FILE = re.compile(r"([0-9a-f]{64})\.wasm\Z")
_LEFT_OVER = re.compile(r"\.[0-9a-f]{64}\.wasm\.[0-9a-f]{8}\.tmp\Z")


class ModuleLibrary:
    """The files in ``directory``, which exists."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, digest: bytes) -> bytes | None:
        """Return the whole file that should have this SHA-256, unverified; None if there is none.

        Of a file larger than a module may be, one byte more than that is returned.

        Raises:
            StorageError: it is not a plain file, or cannot be read.
        """
        return read_plain(self.path(digest), max_bytes=LIMITS.max_module_bytes)

    def write(self, digest: bytes, data: bytes) -> None:
        """Keep a file, durably, for its owner only.

        Raises:
            StorageError: the disk refused.
        """
        write_atomic(self.path(digest), data, mode=0o600)

    def discard(self, digest: bytes) -> None:
        """Remove a file that is not what its name says; what cannot be removed stays and is refused again."""
        self._remove(self.path(digest))

    def prune(self, keep: Collection[bytes]) -> None:
        """Remove every module file but those of ``keep``, and what a power cut left half written."""
        kept = {digest.hex() for digest in keep}
        try:
            paths = list(self.directory.iterdir())
        except OSError as error:
            log.warning("module_library_unreadable", reason=error.strerror)
            return
        for path in paths:
            found = _FILE.match(path.name)
            if (found is not None and found[1] not in kept) or _LEFT_OVER.match(path.name):
                self._remove(path)

    def path(self, digest: bytes) -> Path:
        """Return where the file of this SHA-256 stands."""
        return self.directory / f"{digest.hex()}.wasm"

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("module_file_not_removed", file=path.name, reason=error.strerror)
