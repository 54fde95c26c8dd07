"""The newest deny list this rack has seen: a witness for a mixer that was put back from an older backup.

Only a list that the pinned cluster signed, of this cluster and with a higher epoch, ever replaces the one held.
Racks, machines and certificates that are denied are refused by the mixer; revoked modules and vendors are not run
here. For that a list counts as soon as it has verified, also when the disk does not take it; and a stored one that is
damaged means that nobody knows what is denied, until the mixer has said.
"""

from __future__ import annotations

from collections.abc import Callable
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
        self._list: DenyList | None = DenyList(cluster)
        self._on_newer: list[Callable[[], None]] = []

    @property
    def epoch(self) -> int:
        """The epoch of the list held; 0 when there is none."""
        return self._epoch

    @property
    def data(self) -> bytes:
        """The signed list; empty when there is none."""
        return self._data

    @property
    def list(self) -> DenyList | None:
        """The newest list that verified, an empty one if there never was any; None if the stored one is damaged."""
        return self._list

    def on_newer(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` whenever :attr:`list` is another, from the thread that brought it."""
        self._on_newer.append(hook)

    def load(self) -> None:
        """Read what is stored; a file that cannot be read or does not verify counts as none, and is left there."""
        try:
            with self._path.open("rb") as stream:
                data = stream.read(LIMITS.max_envelope_bytes + 1)
            found = self._open(data)
            self._use(found)
            self._hold(data, found)
        except FileNotFoundError:
            return
        except OSError as error:
            self._lose(str(error.strerror))
        except StageboxError as error:
            self._lose(error.message)

    def offer(self, data: bytes) -> bool:
        """Take a list if it is newer than the one held; return whether it was. Blocks on the disk then.

        Raises:
            DecodeError: malformed. VerificationError: not the pinned cluster's. StorageError: not written, not taken.
        """
        found = self._open(data)
        if found.epoch <= self._epoch:
            return False
        if self._list is None or found.epoch > self._list.epoch:
            self._use(found)  # first: a full disk keeps no revoked module running
        write_atomic(self._path, data, mode=0o600)
        self._hold(data, found)
        return True

    def settle(self) -> None:
        """The mixer, told that we hold no list, has answered afresh that there is none: nothing is denied."""
        if self._list is None:
            self._use(DenyList(self._cluster))

    def _open(self, data: bytes) -> DenyList:
        found = open_deny_list(data, self._cluster_public)
        if found.cluster != self._cluster:
            raise VerificationError(f"the deny list is of cluster {found.cluster!r}")
        return found

    def _hold(self, data: bytes, found: DenyList) -> None:
        self._data, self._epoch = data, found.epoch

    def _use(self, found: DenyList) -> None:
        self._list = found
        for hook in self._on_newer:
            hook()

    def _lose(self, reason: str) -> None:
        self._list = None
        log.warning("deny_list_unreadable", file=str(self._path), reason=reason)
