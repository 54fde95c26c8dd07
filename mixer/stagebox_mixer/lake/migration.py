"""The first release kept batches in one SQLite file, ``ledger.sqlite``: this brings them into the lake, once.

What that file did not keep, the batches' signatures, is missing in the lake too, and ``lake verify`` says so. The file
stays, under another name; a crash in the middle is continued, because the lake knows which batches it has.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stagebox.errors import StorageError
from stagebox.files import fsync_dir
from stagebox.records.walbatch import WalBatch, payload_digest
from stagebox_mixer.lake.lake import Commit, Lake
from stagebox_mixer.lake.state import ChainHead, Position

_NONCE_BYTES = 12
_BATCHES = 512


async def import_ledger(path: Path, key: bytes, lake: Lake) -> int:
    """Bring the ledger at ``path`` into ``lake`` and rename it; return how many batches came. 0 if there is none.

    Raises:
        StorageError: the ledger is damaged, of another version or of another storage key; nothing is renamed.
    """
    if not path.exists():
        return 0
    try:
        count = await _import(path, key, lake)
    except sqlite3.Error as error:
        raise StorageError(
            f"the ledger {path} of the earlier release cannot be read: {error}",
            remedy="put it back from its backup, or move it away to begin with an empty lake",
        ) from error
    path.rename(path.with_name(path.name + ".imported"))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    fsync_dir(path.parent)
    return count


async def _import(path: Path, key: bytes, lake: Lake) -> int:
    count = 0
    with sqlite3.connect(f"file:{path}?mode=rw", uri=True) as db:
        meta = dict(db.execute("SELECT key, value FROM meta"))
        expected = int.from_bytes(blake3(b"stagebox.ledger.key_check.v1", key=key).digest(7), "big")
        if meta.get("version") != 1 or meta.get("key_check") != expected:
            raise StorageError(
                f"the ledger {path} was written with another storage key, or by another release",
                remedy="restore storage.key of this cluster, or name this cluster's own --data-dir",
            )
        position = Position(int(meta.get("stream_id", 0)), int(meta.get("stream_seq", 0)))
        waiting: list[Commit] = []
        for commit in _commits(db, AESGCM(key), path):
            if commit.head.last <= lake.head(commit.rack, commit.journal).last:
                continue
            waiting.append(commit)
            count += 1
            if len(waiting) >= _BATCHES:
                await lake.commit(waiting, position=Position())
                waiting = []
        await lake.commit(waiting, position=position)
    db.close()
    return count


def _commits(db: sqlite3.Connection, cipher: AESGCM, path: Path) -> Iterator[Commit]:
    last: dict[tuple[str, bytes], int] = {}
    rows = db.execute(
        "SELECT rack, journal, first, stream_seq, sealed FROM batches ORDER BY rack, journal, first"
    )
    for rack, journal, first, stream_seq, sealed in rows:
        associated = b"stagebox.ledger.v1\0" + rack.encode() + b"\0" + journal + first.to_bytes(8, "big")
        try:
            payload = cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated)
        except InvalidTag:
            raise StorageError(
                f"the row of rack {rack!r} from record {first} in the ledger {path} does not open",
                remedy="it was altered: put the ledger back from its backup",
            ) from None
        batch = WalBatch.decode(payload)
        missing = batch.first - last.get((rack, journal), 0) - 1
        last[rack, journal] = batch.last
        yield Commit(
            rack=rack,
            journal=journal,
            first=batch.first,
            head=ChainHead(batch.last, payload_digest(payload)),
            payload=payload,
            signature=b"",
            key=b"",
            stream_seq=stream_seq,
            checkpoints=0,
            proved=0,
            missing=missing,
        )
