"""The cursor file: the last sequence the server is known to hold.

The server is the truth; this file only spares evicted segments a question. It is written now and then, and
one that is missing or damaged counts as zero, which only keeps data longer.
"""

from __future__ import annotations

from pathlib import Path

from stagebox import cbor
from stagebox.errors import DecodeError, StorageError
from stagebox_rack.wal.disk import Disk

VERSION = 1
_MAX_BYTES = 256


def encode_cursor(rack: str, journal: bytes, acknowledged: int) -> bytes:
    """Return the file's bytes: CBOR {Version, Rack, Journal, Acknowledged}."""
    return cbor.encode({"Version": VERSION, "Rack": rack, "Journal": journal, "Acknowledged": acknowledged})


def decode_cursor(data: bytes, rack: str, journal: bytes) -> int:
    """Return the acknowledged sequence.

    Raises:
        DecodeError: malformed, of an unknown version, or another journal's.
    """
    what = "journal cursor"
    fields = cbor.expect_map(cbor.decode_canonical(data, max_bytes=_MAX_BYTES), what)
    if cbor.take_uint(fields, "Version", what) != VERSION:
        raise DecodeError(f"{what} has an unknown version")
    owner = (cbor.take(fields, "Rack", str, what), cbor.take(fields, "Journal", bytes, what))
    if owner != (rack, journal):
        raise DecodeError(f"{what} is another journal's")
    return cbor.take_uint(fields, "Acknowledged", what)


def load_cursor(path: Path, rack: str, journal: bytes) -> int:
    """Return the acknowledged sequence, 0 when there is no file.

    Raises:
        DecodeError: the file is damaged; treat it as 0 and say so.
    """
    try:
        return decode_cursor(path.read_bytes(), rack, journal)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise DecodeError(f"journal cursor cannot be read: {error.strerror}") from None


def save_cursor(disk: Disk, path: Path, rack: str, journal: bytes, acknowledged: int) -> None:
    """Replace the file.

    Raises:
        StorageError: the disk refused; the old file stays.
    """
    try:
        disk.put(path, encode_cursor(rack, journal, acknowledged))
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}",
            remedy=f"check that {path.parent} is writable by this user and has free space",
        ) from error
