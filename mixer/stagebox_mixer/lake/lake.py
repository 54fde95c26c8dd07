"""The lake's one face for the mixer: commits, heads, and the work in the background.

Rules: a commit is durable, all or nothing, when it returns; it holds the batches, the journals' new heads and the
position in the stream, so a crash at any point repeats nothing and skips nothing. One thread owns the state and writes
manifests; sorting, merging and removing prepare their files on another, and their one manifest goes through the same
thread, so a commit never waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import pyarrow as pa
import structlog

from stagebox.errors import StageboxError, StorageError
from stagebox_mixer.lake.digests import Digests
from stagebox_mixer.lake.keeping import Keeping
from stagebox_mixer.lake.manifest import Manifests, OvertakenError
from stagebox_mixer.lake.reading import LakeReader
from stagebox_mixer.lake.state import (
    ChainHead,
    Change,
    Hold,
    JournalState,
    LakeFile,
    Missing,
    Position,
    State,
    explained,
    with_gap,
)
from stagebox_mixer.lake.storage import LocalStorage, Storage
from stagebox_mixer.lake.tables import ARRIVAL_SCHEMA, Tables
from stagebox_mixer.limits import LIMITS

log = structlog.get_logger()
_NICENESS: Final = 10
_T = TypeVar("_T")


@dataclass(frozen=True)
class Commit:
    """One verified batch to commit; the counters are this batch's own, ``missing`` the records lost before it.

    ``graves`` are (first, last) of the tombstones in it, ``seal`` the hash of its newest seal, empty if it has none.
    """

    rack: str
    journal: bytes
    first: int
    head: ChainHead
    payload: bytes
    signature: bytes
    key: bytes
    stream_seq: int
    checkpoints: int
    proved: int
    missing: int = 0
    graves: Sequence[tuple[int, int]] = ()
    seal: bytes = b""


class Lake:
    """One lake, open for writing. Every blocking call runs on its own threads, never on the event loop."""

    def __init__(self, storage: Storage, key: bytes, *, cluster: str, keep_days: int = 0) -> None:
        """``keep_days`` 0 keeps everything."""
        self.storage = storage
        self._cluster = cluster
        self.tables = Tables(storage, key)
        self._manifests = Manifests(storage, key)
        self._keeping = Keeping(self.tables, cluster=cluster, keep_days=keep_days)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lake")
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="lake-work", initializer=_give_way)
        self._exit = contextlib.ExitStack()
        self._state: State | None = None
        self._in_doubt = False
        self._digests = Digests(self.tables)
        self._reported: dict[tuple[str, bytes], int] = {}

    async def open(self) -> None:
        """Open or create the lake; files that no manifest names are removed.

        Raises:
            StorageError: unreadable, or another mixer writes to it.
            VerificationError: damaged, or written with another storage key.
        """
        await self._run(self._open)

    async def close(self) -> None:
        """Let go of it; a merge under way is finished."""
        self._worker.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._worker.shutdown, wait=True)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._exit.close)
        self._state = None
        self._thread.shutdown()

    def state(self) -> State:
        """Return the state after the newest commit.

        Raises:
            StorageError: the lake is closed.
        """
        if self._state is None:
            raise StorageError("the lake is closed")
        return self._state

    def reader(self) -> LakeReader:
        """Return the lake as it is now, for reading on another thread."""
        return LakeReader(self.tables, self.state(), cluster=self._cluster)

    def head(self, rack: str, journal: bytes) -> ChainHead:
        """Return where the committed chain of one journal ends (an empty one if it is new)."""
        held = self.state().journals.get((rack, journal))
        return ChainHead(held.last, held.head) if held is not None else ChainHead()

    def digest_of(self, rack: str, journal: bytes, first: int) -> bytes | None:
        """Return the digest of the committed batch that starts at record ``first``, None if none does. Slow; blocking.

        Raises:
            StorageError, VerificationError: a file of the lake cannot be read.
        """
        return self._digests.of(self.state(), rack, journal, first)

    def of_rack(self, rack: str) -> list[JournalState]:
        """Return what is committed of every journal of one rack."""
        return [journal for journal in self.all() if journal.rack == rack]

    def all(self) -> list[JournalState]:
        """Return what is committed of every journal."""
        return [journal for _, journal in sorted(self.state().journals.items())]

    async def position(self, stream_id: int, last_seq: int) -> int:
        """Return the sequence up to which the stream ``stream_id`` is dealt with.

        0 if it is a new stream, or an older copy put back: ``last_seq``, where it ends, is before our position.
        """
        held = self.state().position
        if held.stream_id == stream_id and held.stream_seq <= last_seq:
            return held.stream_seq
        # Another stream counts anew; the chain heads recognise whatever of it is committed already.
        journals = [replace(journal, stream_seq=0) for journal in self.all()]
        await self.change(lambda _: Change(journals=journals, position=Position(stream_id, 0)))
        return 0

    async def commit(
        self, commits: Sequence[Commit], *, position: Position, rejected: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """Commit batches in order, count the rejected (rack, journal) ones and move to ``position``.

        Raises:
            StorageError: the storage refused; what :meth:`state` says now is committed, all of it or nothing.
        """
        await self._run(lambda: self._commit(commits, position, rejected))

    async def change(self, make: Callable[[State], Change | None]) -> None:
        """Commit what ``make`` returns for the newest state; it runs on the lake's thread.

        Raises:
            StorageError: the storage refused; nothing is committed.
        """
        await self._run(lambda: self._change(make))

    def report(self, rack: str, journal: bytes, committed: int) -> tuple[int, int] | None:
        """A rack says it has committed up to ``committed``; return (first, last) of what it said to have and has not.

        Kept durably with the next commit.
        """
        key = (rack, journal)
        held = self.state().journals.get(key)
        known = max(held.reported if held else 0, held.last if held else 0, self._reported.get(key, 0))
        if committed > known:
            self._reported[key] = committed
        return (committed + 1, known) if committed < known else None

    def unshipped(self, rack: str, journal: bytes) -> tuple[int, int] | None:
        """Return (first, last) of what a rack said to have committed in a journal and what never came."""
        key = (rack, journal)
        held = self.state().journals.get(key)
        last = held.last if held else 0
        reported = max(held.reported if held else 0, self._reported.get(key, 0))
        return (last + 1, reported) if reported > last else None

    async def hold(self, name: str, hold: Hold | None) -> None:
        """Put a legal hold in place under ``name``, or lift it.

        Raises:
            StorageError: the storage refused.
        """

        def holds(state: State) -> Change:
            others = [held for held in state.holds if held.name != name]
            return Change(holds=[*others, hold] if hold is not None else others)

        await self.change(holds)

    async def tidy(self) -> None:
        """Sort what has arrived, merge small files, remove what is too old. A failure is reported and tried again."""
        try:
            for work in (self._keeping.sort, self._keeping.merge, self._keeping.retire, self._keeping.sweep):
                while await self._tidied(work):
                    pass
        except StageboxError as error:
            log.warning("lake_not_tidied", error=error.message)

    async def _tidied(self, work: Callable[[State], Change | None]) -> bool:
        change = await asyncio.get_running_loop().run_in_executor(self._worker, work, self.state())
        if change is None:
            return False
        await self.change(lambda _: change)
        return True

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> None:
        if isinstance(self.storage, LocalStorage):
            self._exit.enter_context(self.storage.locked())
        state = self._load()
        self._state = state
        known = state.files.keys() | state.dropped.keys()
        for directory in ("arrivals", "data"):
            for path in self.storage.names(directory):
                if path not in known:
                    self.storage.delete(path)

    def _change(self, make: Callable[[State], Change | None]) -> None:
        change = make(self.state())
        if change is not None:
            self._write(change)

    def _write(self, change: Change) -> None:
        if self._in_doubt:
            self._look_again()
            raise StorageError("the lake's last commit is in doubt; what was to follow it must be made anew")
        try:
            self._state = self._manifests.commit(self.state(), change)
        except OvertakenError:
            raise
        except StorageError:
            # A write that failed may still have taken place: only the storage knows.
            self._in_doubt = True
            with contextlib.suppress(StageboxError):
                self._look_again()
            raise

    def _look_again(self) -> None:
        self._state = self._load()
        self._in_doubt = False

    def _load(self) -> State:
        """Return the newest state, which a power cut cannot take back: the stream is trimmed behind it."""
        try:
            self.storage.settle()
        except OSError as error:
            raise StorageError(
                f"cannot make sure of the lake in {self.storage}: {error.strerror or error}",
                remedy="check the storage's space and health; what is not committed stays in the stream WAL",
            ) from error
        return self._manifests.load()

    def _commit(
        self, commits: Sequence[Commit], position: Position, rejected: Sequence[tuple[str, bytes]]
    ) -> None:
        journals = self._journals(commits, rejected)
        keys: dict[str, list[bytes]] = {}
        for commit in commits:
            if commit.key and commit.key not in keys.setdefault(commit.rack, []):
                keys[commit.rack].append(commit.key)
        add = [self._arrivals(commits)] if commits else []
        self._write(Change(add=add, journals=list(journals.values()), position=position, keys=keys))

    def _arrivals(self, commits: Sequence[Commit]) -> LakeFile:
        now = time.time_ns()
        columns: Mapping[str, list[Any]] = {
            "rack": [commit.rack for commit in commits],
            "journal": [commit.journal for commit in commits],
            "first": [commit.first for commit in commits],
            "last": [commit.head.last for commit in commits],
            "payload": [commit.payload for commit in commits],
            "signature": [commit.signature for commit in commits],
            "key": [commit.key for commit in commits],
            "stream_seq": [commit.stream_seq for commit in commits],
            "received_ns": [now] * len(commits),
        }
        return self.tables.write_arrivals(pa.Table.from_pydict(columns, schema=ARRIVAL_SCHEMA), (now, now))

    def _journals(
        self, commits: Sequence[Commit], rejected: Sequence[tuple[str, bytes]]
    ) -> dict[tuple[str, bytes], JournalState]:
        held = self.state().journals
        changed: dict[tuple[str, bytes], JournalState] = {}
        for commit in commits:
            key = (commit.rack, commit.journal)
            changed[key] = _advanced(changed.get(key) or held.get(key) or JournalState(*key), commit)
        for key in rejected:
            before = changed.get(key) or held.get(key) or JournalState(*key)
            changed[key] = replace(before, rejected=before.rejected + 1)
        for key, reported in list(self._reported.items()):
            before = changed.get(key) or held.get(key) or JournalState(*key)
            if reported > before.reported:
                changed[key] = replace(before, reported=reported)
            del self._reported[key]
        return changed


def _give_way() -> None:
    """Let everything else on this machine go first; on Linux this is for the calling thread alone."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _advanced(journal: JournalState, commit: Commit) -> JournalState:
    if commit.missing:
        gap = Missing(commit.first - commit.missing, commit.first - 1)
        journal = with_gap(journal, gap, LIMITS.lake_gaps)
    for first, last in commit.graves:
        journal = explained(journal, first, last, LIMITS.lake_gaps)
    return replace(
        journal,
        last=commit.head.last,
        head=commit.head.digest,
        records=journal.records + commit.head.last - commit.first + 1,
        batches=journal.batches + 1,
        checkpoints=journal.checkpoints + commit.checkpoints,
        proved=journal.proved + commit.proved,
        stream_seq=commit.stream_seq,
        seal=commit.seal or journal.seal,
    )
