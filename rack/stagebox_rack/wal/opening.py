"""Taking possession of a journal's directory: lock, key, mark, recovery, cursor, in that order. Blocking."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import uuid6

from stagebox.errors import DecodeError, KeyFileError, VerificationError
from stagebox_rack.wal.acknowledged import load_cursor
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.events import JournalEvent
from stagebox_rack.wal.kek_protection import Protection
from stagebox_rack.wal.keyring import Keyring, create_keyring, load_keyring
from stagebox_rack.wal.layout import Layout, Lock
from stagebox_rack.wal.mark import MarkFile
from stagebox_rack.wal.recovery import Recovered, recover


@dataclass(frozen=True)
class Opened:
    """A journal's directory, locked and recovered."""

    layout: Layout
    lock: Lock
    keyring: Keyring
    mark: MarkFile
    recovered: Recovered
    acknowledged: int
    events: tuple[JournalEvent, ...]


def open_directory(
    directory: Path,
    rack: str,
    public: bytes,
    disk: Disk,
    earlier: Collection[bytes] = (),
    *,
    protection: Protection = Protection.AUTO,
) -> Opened:
    """Lock and recover the journal in ``directory``, which is made if missing.

    ``earlier`` are the keys this rack proved to have had before ``public``; ``protection`` is for the key file of a
    new journal.

    Raises:
        StorageError: another process has it, or the disk refuses.
        KeyFileError: its key file is missing, unsafe or damaged.
        VerificationError: the key is not the one it was written with, or it is another rack's.
    """
    layout = Layout(directory)
    layout.make(disk)
    lock = Lock(directory / "lock")
    lock.acquire()
    try:
        keyring = _keyring(layout, public, earlier, protection)
        mark_file = MarkFile(layout.mark, keyring, disk)
        recovered = recover(
            layout, keyring, mark_file.load(), disk, rack=rack, public=public, earlier=earlier
        )
        events = list(recovered.events)
        try:
            acknowledged = load_cursor(layout.cursor, rack, keyring.journal)
        except DecodeError as error:
            acknowledged = 0
            events.append(JournalEvent("wal_cursor_unreadable", "warning", {"reason": error.message}))
    except BaseException:
        lock.release()
        raise
    return Opened(layout, lock, keyring, mark_file, recovered, acknowledged, tuple(events))


def own_keyring(layout: Layout, public: bytes, earlier: Collection[bytes]) -> Keyring:
    """Read the key file of this rack's journal.

    Raises:
        KeyFileError: it is missing, unsafe or damaged.
        VerificationError: it is of another identity.
    """
    keyring = load_keyring(layout.kek)
    if keyring.rack_public != public and keyring.rack_public not in earlier:
        raise VerificationError(
            f"the journal in {layout.root} belongs to another identity key than this rack's",
            remedy=f"was the rack enrolled anew? move {layout.root} away (it stays readable with "
            "'wal export') and a new journal begins; else put its identity key back",
        )
    return keyring


def _keyring(layout: Layout, public: bytes, earlier: Collection[bytes], protection: Protection) -> Keyring:
    if layout.kek.exists():
        return own_keyring(layout, public, earlier)
    if layout.has_data():
        raise KeyFileError(
            f"the journal key {layout.kek} is missing but its journal is there",
            remedy=f"put the key back from its backup, or move {layout.root} away to start a new journal",
        )
    return create_keyring(layout.kek, uuid6.uuid7().bytes, public, protection=protection)
