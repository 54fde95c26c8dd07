"""The newest deny list this rack has seen: a witness for a mixer that was put back from an older backup.

Only a list that the pinned cluster signed, of this cluster and with a higher epoch, ever replaces the one held.
The rack does nothing else with it: who is denied is refused by the mixer.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from stagebox.control.denylist import DenyList, open_deny_list
from stagebox.errors import StageboxError, VerificationError
from stagebox.files import write_atomic
from stagebox.limits import LIMITS

log = structlog.get_logger()


class DenyListWitness:
    """Keeps one signed deny list in ``path``."""

    def __init__(self, path: Path, *, cluster: str, cluster_public: bytes) -> None:
        self._path = path
        self._cluster = cluster
        self._cluster_public = cluster_public
        self._data = b""
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """The epoch of the list held; 0 when there is none."""
        return self._epoch

    @property
    def data(self) -> bytes:
        """The signed list; empty when there is none."""
        return self._data

    def load(self) -> None:
        """Read what is stored; a file that cannot be read or does not verify counts as none, and is left there."""
        try:
            with self._path.open("rb") as stream:
                data = stream.read(LIMITS.max_envelope_bytes + 1)
            self._hold(data, self._open(data))
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("deny_list_unreadable", file=str(self._path), reason=error.strerror)
        except StageboxError as error:
            log.warning("deny_list_unreadable", file=str(self._path), reason=error.message)

    def offer(self, data: bytes) -> bool:
        """Take a list if it is newer than the one held; return whether it was. Blocks on the disk then.

        Raises:
            DecodeError: malformed. VerificationError: not the pinned cluster's. StorageError: not written, not taken.
        """
        found = self._open(data)
        if found.epoch <= self._epoch:
            return False
        write_atomic(self._path, data, mode=0o600)
        self._hold(data, found)
        return True

    def _open(self, data: bytes) -> DenyList:
        found = open_deny_list(data, self._cluster_public)
        if found.cluster != self._cluster:
            raise VerificationError(f"the deny list is of cluster {found.cluster!r}")
        return found

    def _hold(self, data: bytes, found: DenyList) -> None:
        self._data, self._epoch = data, found.epoch
