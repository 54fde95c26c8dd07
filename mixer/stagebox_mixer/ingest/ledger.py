"""The ledger: where verified batches are committed, exactly once.

One SQLite database with synchronous=FULL. Batches, the new chain heads and the position in the stream are written
in one transaction, so after any crash the position says exactly what is there. Payloads are sealed with AES-256-GCM
under a key derived from the cluster's storage key. docs/reference/ledger.md gives the layout.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stagebox.errors import StorageError
from stagebox_mixer.ingest.verification import ChainHead

VERSION = 1
_NONCE_BYTES = 12
_T = TypeVar("_T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS journals (
  rack TEXT NOT NULL, journal BLOB NOT NULL, last INTEGER NOT NULL, head BLOB NOT NULL,
  records INTEGER NOT NULL, batches INTEGER NOT NULL, checkpoints INTEGER NOT NULL, proved INTEGER NOT NULL,
  rejected INTEGER NOT NULL, missing INTEGER NOT NULL, stream_seq INTEGER NOT NULL, PRIMARY KEY (rack, journal)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
  rack TEXT NOT NULL, journal BLOB NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
  stream_seq INTEGER NOT NULL, committed_ns INTEGER NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (rack, journal, first)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Commit:
    """One verified batch to commit; the counters are this batch's own, ``missing`` the records lost before it."""

    rack: str
    journal: bytes
    first: int
    head: ChainHead
    payload: bytes
    stream_seq: int
    checkpoints: int
    proved: int
    missing: int = 0


@dataclass(frozen=True)
class Position:
    """How far a stream is dealt with: every message up to ``stream_seq`` is committed or rejected.

    ``stream_id`` tells one stream from another of the same name (its creation, ns since the Unix epoch).
    """

    stream_id: int
    stream_seq: int


@dataclass(frozen=True)
class RackLedger:
    """What is committed of one journal of one rack."""

    rack: str
    journal: bytes
    last: int
    head: bytes
    records: int
    batches: int
    checkpoints: int
    proved: int
    rejected: int
    missing: int
    stream_seq: int


class Ledger:
    """Commits batches; every call runs on the ledger's own thread, never on the event loop."""

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._cipher = AESGCM(key)
        self._key_check = _key_check(key)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._db: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open or create the database.

        Raises:
            StorageError: unreadable, damaged, of another version or written with another storage key.
        """
        await self._run(self._open)

    async def close(self) -> None:
        """Close the database and end the thread."""
        await self._run(self._close)
        self._thread.shutdown()

    async def head(self, rack: str, journal: bytes) -> ChainHead:
        """Return where the committed chain of one journal ends (an empty one if it is new)."""
        rows = await self._run(lambda: self._journals("WHERE rack = ? AND journal = ?", (rack, journal)))
        return ChainHead(rows[0].last, rows[0].head) if rows else ChainHead()

    async def of_rack(self, rack: str) -> list[RackLedger]:
        """Return what is committed of every journal of one rack."""
        return await self._run(lambda: self._journals("WHERE rack = ?", (rack,)))

    async def all(self) -> list[RackLedger]:
        """Return what is committed of every journal."""
        return await self._run(lambda: self._journals("", ()))

    async def position(self, stream_id: int, last_seq: int) -> int:
        """Return the sequence up to which the stream ``stream_id`` is dealt with.

        0 if it is a new stream, or an older copy put back: ``last_seq``, where it ends, is before our position.
        """
        return await self._run(lambda: self._position(stream_id, last_seq))

    async def stream_id(self) -> int:
        """Return which stream the positions in here belong to; 0 if none was read yet."""
        query = "SELECT value FROM meta WHERE key = 'stream_id'"
        rows = await self._run(lambda: self._require().execute(query).fetchall())
        return int(rows[0][0]) if rows else 0

    async def commit(
        self,
        commits: Sequence[Commit],
        *,
        position: Position,
        rejected: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Commit batches in order, count the rejected (rack, journal) ones and move to ``position``.

        All or nothing, and durable when this returns.

        Raises:
            StorageError: the disk refused; nothing of it is committed.
        """
        await self._run(lambda: self._commit(commits, position, rejected))

    async def payloads(self, rack: str, journal: bytes) -> list[bytes]:
        """Return the payloads of one journal in order, opened and authenticated.

        Raises:
            StorageError: a row was altered, or the key is not this ledger's.
        """
        return await self._run(lambda: list(self._payloads(rack, journal)))

    async def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StorageError(
                f"the ledger {self._path} failed: {error}",
                remedy="check the disk's space and health; what is not committed stays in the stream WAL",
            ) from error

    def _open(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(
                f"cannot open the ledger {self._path}: {error.strerror}",
                remedy="give this user access to it, or choose another data directory with --data-dir",
            ) from None
        os.close(descriptor)
        self._db = db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.executescript(_SCHEMA)
        version = self._meta_once("version", VERSION)
        if version != VERSION:
            raise StorageError(f"the ledger {self._path} has version {version}, this mixer needs {VERSION}")
        if self._meta_once("key_check", self._key_check) != self._key_check:
            raise StorageError(
                f"the ledger {self._path} was written with another storage key",
                remedy="restore storage.key of this cluster, or name this cluster's own --data-dir",
            )

    def _meta_once(self, key: str, value: int) -> int:
        """Store ``value`` unless there is one already; return what is stored."""
        db = self._require()
        db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
        (stored,) = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return int(stored)

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _require(self) -> sqlite3.Connection:
        if self._db is None:
            raise StorageError("the ledger is closed")
        return self._db

    def _journals(self, where: str, values: tuple[object, ...]) -> list[RackLedger]:
        query = (
            "SELECT rack, journal, last, head, records, batches, checkpoints, proved, rejected, missing, stream_seq "  # noqa: S608
            f"FROM journals {where} ORDER BY rack, journal"
        )
        return [RackLedger(*row) for row in self._require().execute(query, values)]

    def _position(self, stream_id: int, last_seq: int) -> int:
        with self._transaction() as db:
            meta = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('stream_id', 'stream_seq')"))
            if meta.get("stream_id") == stream_id and meta["stream_seq"] <= last_seq:
                return int(meta["stream_seq"])
            # Another stream counts anew; the chain heads recognise whatever of it is committed already.
            self._move(db, Position(stream_id, 0))
            db.execute("UPDATE journals SET stream_seq = 0")
            return 0

    def _commit(
        self, commits: Sequence[Commit], position: Position, rejected: Sequence[tuple[str, bytes]]
    ) -> None:
        with self._transaction() as db:
            for commit in commits:
                self._insert(db, commit)
            for rack, journal in rejected:
                self._count_rejected(db, rack, journal)
            self._move(db, position)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._require()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # a full disk may have rolled it back already
                db.execute("ROLLBACK")
            raise

    def _move(self, db: sqlite3.Connection, position: Position) -> None:
        values = (("stream_id", position.stream_id), ("stream_seq", position.stream_seq))
        db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)

    def _insert(self, db: sqlite3.Connection, commit: Commit) -> None:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(
            nonce, commit.payload, _associated(commit.rack, commit.journal, commit.first)
        )
        db.execute(
            "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)",
            (commit.rack, commit.journal, commit.first, commit.head.last, commit.stream_seq, time.time_ns(),
             sealed),
        )  # fmt: skip
        records = commit.head.last - commit.first + 1
        db.execute(
            "INSERT INTO journals VALUES (?, ?, ?, ?, ?, 1, ?, ?, 0, ?, ?) ON CONFLICT DO UPDATE SET "
            "last = excluded.last, head = excluded.head, records = records + excluded.records, "
            "batches = batches + 1, checkpoints = checkpoints + excluded.checkpoints, "
            "proved = proved + excluded.proved, missing = missing + excluded.missing, stream_seq = excluded.stream_seq",
            (commit.rack, commit.journal, commit.head.last, commit.head.digest, records, commit.checkpoints,
             commit.proved, commit.missing, commit.stream_seq),
        )  # fmt: skip

    def _count_rejected(self, db: sqlite3.Connection, rack: str, journal: bytes) -> None:
        empty = ChainHead()
        db.execute(
            "INSERT INTO journals VALUES (?, ?, ?, ?, 0, 0, 0, 0, 1, 0, 0) "
            "ON CONFLICT DO UPDATE SET rejected = rejected + 1",
            (rack, journal, empty.last, empty.digest),
        )

    def _payloads(self, rack: str, journal: bytes) -> Iterator[bytes]:
        rows = self._require().execute(
            "SELECT first, sealed FROM batches WHERE rack = ? AND journal = ? ORDER BY first", (rack, journal)
        )
        for first, sealed in rows:
            nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            try:
                yield self._cipher.decrypt(nonce, ciphertext, _associated(rack, journal, first))
            except InvalidTag:
                raise StorageError(
                    f"the ledger row of rack {rack!r} from record {first} does not open",
                    remedy="the row was altered, or the storage key is not the one it was written with",
                ) from None


def _key_check(key: bytes) -> int:
    """Return 56 bits that tell one storage key from another and say nothing else about it."""
    return int.from_bytes(blake3(b"stagebox.ledger.key_check.v1", key=key).digest(7), "big")


def _associated(rack: str, journal: bytes, first: int) -> bytes:
    return b"stagebox.ledger.v1\0" + rack.encode() + b"\0" + journal + first.to_bytes(8, "big")
