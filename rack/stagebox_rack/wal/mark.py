"""The high-water mark: the last committed sequence and chain digest, kept beside the journal.

It tells a journal that lost its tail from one that never had it. Two slots are written in turn, each with its
own keyed checksum, so a torn write leaves the other. Rules: a mark is written only after the batch it names
is durable, so it is never ahead of the journal; it is itself made durable at least once a second and at close
(a power cut may take back up to that much of the mark, never of the journal).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from stagebox.errors import StorageError
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.keyring import Keyring

SLOT_BYTES = 4096
TAG_BYTES = 32
MAGIC = b"SBXMARK1"
_BODY = struct.Struct(">8sIQQ32s32s16s")  # magic, KEK version, counter, sequence, digest, chain, file id


@dataclass(frozen=True)
class Mark:
    """The newest committed batch: its last sequence and digest, and the frame chain of the file it is in."""

    sequence: int
    digest: bytes
    chain: bytes
    file_id: bytes


def encode_slot(mark: Mark, counter: int, keyring: Keyring) -> bytes:
    """Return one slot: body, keyed BLAKE3, zeros; 4096 bytes."""
    body = _BODY.pack(MAGIC, keyring.version, counter, mark.sequence, mark.digest, mark.chain, mark.file_id)
    tag = keyring.mark_tag(body, keyring.version) or b""
    return (body + tag).ljust(SLOT_BYTES, b"\0")


def decode_slot(slot: bytes, keyring: Keyring) -> tuple[int, Mark] | None:
    """Return (counter, mark), or None for a slot that is empty, torn or under no KEK held."""
    body, tag = slot[: _BODY.size], slot[_BODY.size : _BODY.size + TAG_BYTES]
    if len(body) < _BODY.size:
        return None
    magic, version, counter, sequence, digest, chain, file_id = _BODY.unpack(body)
    if magic != MAGIC or tag != keyring.mark_tag(body, version):
        return None
    return counter, Mark(sequence, digest, chain, file_id)


def decode_marks(data: bytes, keyring: Keyring) -> tuple[int, Mark] | None:
    """Return the newer of the two slots that is whole, or None."""
    found = (decode_slot(data[i * SLOT_BYTES : (i + 1) * SLOT_BYTES], keyring) for i in range(2))
    return max((slot for slot in found if slot is not None), key=lambda slot: slot[0], default=None)


def key_versions(data: bytes) -> set[int]:
    """Return the KEK versions that the slots name, whether they verify or not."""
    slots = (data[at : at + _BODY.size] for at in (0, SLOT_BYTES))
    named = (_BODY.unpack(slot)[:2] for slot in slots if len(slot) == _BODY.size)
    return {version for magic, version in named if magic == MAGIC}


class MarkFile:
    """The mark on disk. Used by one thread at a time."""

    def __init__(self, path: Path, keyring: Keyring, disk: Disk) -> None:
        self._path = path
        self._keyring = keyring
        self._disk = disk
        self._descriptor = -1
        self._dirty = False
        self._counter = 0

    def load(self) -> Mark | None:
        """Return the mark, or None when there is none that verifies.

        Raises:
            StorageError: the file exists and cannot be read.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror}") from error
        newest = decode_marks(data, self._keyring)
        if newest is None:
            return None
        self._counter = newest[0]
        return newest[1]

    def write(self, mark: Mark) -> None:
        """Write the next slot; durable after :meth:`sync`.

        Raises:
            OSError: the disk refused; the other slot still holds the mark before.
        """
        if self._descriptor < 0:
            self._open()
        self._counter += 1
        slot = encode_slot(mark, self._counter, self._keyring)
        self._disk.write_all(self._descriptor, slot, (self._counter % 2) * SLOT_BYTES)
        self._dirty = True

    def sync(self) -> None:
        """Make the last written mark durable.

        Raises:
            OSError: the disk refused; the descriptor is given up and the next write opens a new one.
        """
        if not self._dirty:
            return
        self._dirty = False
        try:
            self._disk.datasync(self._descriptor)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Release the descriptor."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            self._disk.close(descriptor)

    def _open(self) -> None:
        if self._path.exists():
            self._descriptor = self._disk.open(self._path)
            return
        self._descriptor = self._disk.create(self._path)
        self._disk.zero_fill(self._descriptor, 2 * SLOT_BYTES)
        self._disk.sync_dir(self._path.parent)
