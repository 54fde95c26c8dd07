"""The witness: a copy of the signed deny list on disk, outside what a backup of the mixer's data holds."""

from __future__ import annotations

from pathlib import Path

from stagebox.control.denylist import DenyList, open_deny_list
from stagebox.errors import StageboxError, StorageError, VerificationError
from stagebox.files import make_private_dir, write_atomic
from stagebox.limits import LIMITS

FILE = "denied.flux"


class Witness:
    """One file. What it holds is verified each time it is read."""

    def __init__(self, directory: Path, cluster_public: bytes) -> None:
        self._path = directory / FILE
        self._cluster_public = cluster_public

    def load(self) -> tuple[DenyList, bytes] | None:
        """Return the list with its signed form, or None if there is no file yet.

        Raises:
            StorageError: it cannot be read. VerificationError: it is not a deny list of this cluster.
        """
        try:
            with self._path.open("rb") as file:
                data = file.read(LIMITS.max_envelope_bytes + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror}") from error
        try:
            return open_deny_list(data, self._cluster_public), data
        except StageboxError as error:
            raise VerificationError(
                f"{self._path}: {error.message}",
                remedy="restore the file; only if it cannot be restored delete it, then bans that the registry's "
                "own copy lacks come back from the racks",
            ) from error

    def save(self, signed: bytes) -> None:
        """Replace the file durably.

        Raises:
            StorageError: the disk refused it.
        """
        make_private_dir(self._path.parent)
        write_atomic(self._path, signed)
