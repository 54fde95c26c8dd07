"""The baseline: the same records in a plain SQLite table, WAL mode, synchronous=FULL, one transaction a group."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from stagebox.records.walbatch import WalRecord
from stagebox_rack.wal.journal_format import CommittedBatch

_TABLE = "CREATE TABLE record (seq INTEGER PRIMARY KEY, kind TEXT, time INTEGER, subject TEXT, data BLOB)"


class SqliteJournal:
    """A journal without signature, chain, encryption or columns."""

    def __init__(self, path: Path, *, synchronous: str = "FULL") -> None:
        new = not path.exists()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(f"PRAGMA synchronous={synchronous}")
        if new:
            self._connection.execute(_TABLE)

    def commit(self, group: Sequence[WalRecord]) -> None:
        """Make a group durable."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(
            "INSERT INTO record (kind, time, subject, data) VALUES (?, ?, ?, ?)",
            [(record.kind, record.time_ns, record.subject, record.data) for record in group],
        )
        self._connection.execute("COMMIT")

    def last(self) -> int:
        """Return the last sequence; on a database that was not closed this recovers its write-ahead log."""
        (last,) = self._connection.execute("SELECT max(seq) FROM record").fetchone()
        return int(last or 0)

    def check(self) -> None:
        """Look at every page, as far as SQLite can tell without checksums.

        Raises:
            RuntimeError: it found something.
        """
        (answer,) = self._connection.execute("PRAGMA quick_check").fetchone()
        if answer != "ok":
            raise RuntimeError(answer)

    def close(self) -> None:
        """Write the log back into the database."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()


class Queued:
    """SQLite in the place of our files, behind our queue: an append a record, each answered once it is durable."""

    room_share = 1.0

    def __init__(self, journal: SqliteJournal) -> None:
        self._journal = journal
        self._last = 0

    def commit(self, records: Sequence[WalRecord]) -> CommittedBatch:
        """Make a group durable."""
        self._journal.commit(records)
        first, self._last = self._last + 1, self._last + len(records)
        return CommittedBatch(first, self._last, b"", b"", b"")

    def tick(self) -> None:
        """SQLite does on its own what time asks for."""

    def rotate(self) -> None:
        """There is one file."""

    def close(self) -> None:
        """Write the log back."""
        self._journal.close()
