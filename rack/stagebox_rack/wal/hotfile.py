"""One hot file being written: preallocated, encrypted under its own key, one durable frame at a time.

Rules: a frame counts only after fdatasync. A file whose write or sync failed once is never written again:
the caller freezes it at its last good frame and writes the batch to another file (a sync that failed may
report success when asked again, although the data is gone). A recovered file is never appended to.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from stagebox.records.seal import FILE_ID_BYTES
from stagebox_rack.wal import journal_format as fmt
from stagebox_rack.wal.disk import TEMPORARY_SUFFIX, Disk
from stagebox_rack.wal.keyring import KEY_BYTES, NONCE_BYTES, Keyring, Random
from stagebox_rack.wal.layout import Layout

NEW_SUFFIX = ".new"


@dataclass(frozen=True)
class HotSpan:
    """A committed part of a hot file: sequences ``first`` … ``last`` in its first ``end`` bytes."""

    path: Path
    first: int
    last: int
    previous: bytes
    head: bytes
    end: int


class HotFile:
    """The file the journal writes to now. Used by the writer thread only."""

    def __init__(
        self, path: Path, descriptor: int, header: fmt.HotHeader, dek: bytes, disk: Disk, *, created: float
    ) -> None:
        self.path = path
        self.header = header
        self.created = created
        self.chain = header.chain_start()
        self._descriptor = descriptor
        self._dek = dek
        self._disk = disk
        self._end = fmt.HEADER_BYTES
        self._capacity = disk.size(descriptor)
        self._last = header.first - 1
        self._head = header.previous

    @property
    def room(self) -> int:
        """Bytes left for frames."""
        return self._capacity - self._end

    @property
    def room_share(self) -> float:
        """The part of the file that is still free."""
        return self.room / self._capacity

    @property
    def empty(self) -> bool:
        """Whether no frame was committed."""
        return self._last < self.header.first

    def span(self) -> HotSpan:
        """Return what is committed."""
        header = self.header
        return HotSpan(self.path, header.first, self._last, header.previous, self._head, self._end)

    def append(self, batch: fmt.CommittedBatch, nonce: bytes) -> None:
        """Write one batch and make it durable.

        Raises:
            OSError: the disk refused; give this file up.
        """
        count = batch.last - batch.first + 1
        frame = fmt.encode_frame(batch.payload, batch.first, count, self.chain, self._dek, nonce)
        self._disk.write_all(self._descriptor, frame, self._end)
        self._disk.datasync(self._descriptor)
        self.chain = fmt.advance(self.chain, frame)
        self._end += len(frame)
        self._last, self._head = batch.last, batch.digest

    def give_up(self) -> None:
        """Cut what the failed write left behind, as far as the disk lets us, and close."""
        with contextlib.suppress(OSError):
            self._disk.truncate(self._descriptor, self._end)
        self.close()

    def close(self) -> None:
        """Release the descriptor; the file stays as it is."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with contextlib.suppress(OSError):
                self._disk.close(descriptor)


def make_spare(layout: Layout, size: int, disk: Disk) -> bool:
    """Make the zero-filled spare if there is none; return whether one was made.

    Raises:
        OSError: no space; nothing is left behind.
    """
    if layout.spare.exists():
        return False
    _make_zeroed(layout.spare, size, disk)
    return True


def recycle(layout: Layout, path: Path, size: int, disk: Disk) -> None:
    """Take a hot file whose records are in segments away; it becomes the spare if there is none and it has the size.

    It loses its name first, so what a crash leaves of it is either this file as it was or none.

    Raises:
        OSError: the disk refused.
    """
    if layout.spare.exists() or path.stat().st_size != size:
        disk.remove(path)
        return
    temporary = _zeroing(layout.spare)
    disk.rename(path, temporary)
    disk.sync_dir(layout.hot)
    descriptor = disk.open(temporary)
    try:
        disk.zero_fill(descriptor, size)
    finally:
        disk.close(descriptor)
    disk.rename(temporary, layout.spare)
    disk.sync_dir(layout.hot)


def activate(
    layout: Layout,
    keyring: Keyring,
    *,
    rack: str,
    boot: bytes,
    first: int,
    previous: bytes,
    previous_seal: bytes,
    size: int,
    disk: Disk,
    random: Random,
    now: float,
) -> HotFile:
    """Turn the spare (or a new file) into the hot file that starts at ``first``.

    The header is durable before the file gets its name, so a named hot file always has a whole header.

    Raises:
        OSError: no space or a failing disk; no hot file is left under the new name.
    """
    source = layout.spare
    if not source.exists():
        source = layout.hot / f".{first:020d}{NEW_SUFFIX}"
        disk.unlink(source)
        _make_zeroed(source, size, disk)
    dek, file_id = random(KEY_BYTES), random(FILE_ID_BYTES)
    journal = keyring.journal
    core = fmt.header_core(rack, journal, first, previous, boot, file_id, previous_seal=previous_seal)
    wrapped = keyring.wrap(dek, core, random(NONCE_BYTES))
    header = fmt.HotHeader(
        rack, journal, first, previous, boot, file_id, keyring.version, wrapped, previous_seal
    )
    path = layout.hot_file(first)
    descriptor = disk.open(source)
    try:
        disk.write_all(descriptor, header.encode(), 0)
        disk.datasync(descriptor)
        disk.rename(source, path)
        disk.sync_dir(layout.hot)
        return HotFile(path, descriptor, header, dek, disk, created=now)
    except OSError:
        disk.close(descriptor)
        for leftover in (source, path):
            with contextlib.suppress(OSError):
                disk.unlink(leftover)
        raise


def _make_zeroed(path: Path, size: int, disk: Disk) -> None:
    temporary = _zeroing(path)
    disk.unlink(temporary)
    descriptor = disk.create(temporary)
    try:
        try:
            disk.zero_fill(descriptor, size)
        finally:
            disk.close(descriptor)
        disk.rename(temporary, path)
        disk.sync_dir(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            disk.unlink(temporary)
        raise


def _zeroing(path: Path) -> Path:
    return path.with_name(f".{path.name}.zero{TEMPORARY_SUFFIX}")
