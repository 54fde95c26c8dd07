"""Group commit: many appends, one sync, on one thread of its own.

Rules: an append is answered only after its group is durable, or with the error that kept it from being so.
The queue is bounded; what it has no room for is refused at once and counted, the least important first, and never
blocks the caller. The window opens
with the first record of a group; a full batch or an urgent record closes it early.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from stagebox.errors import StageboxError, StorageError
from stagebox.records.walbatch import WalRecord
from stagebox_rack.limits import LIMITS, RackLimits
from stagebox_rack.wal.importance import Importance, admitted
from stagebox_rack.wal.journal import Journal
from stagebox_rack.wal.journal_format import CommittedBatch

OnCommitted = Callable[[CommittedBatch], None]


class _Pending(NamedTuple):
    record: WalRecord
    size: int
    done: asyncio.Future[int]


class GroupCommit:
    """The queue in front of a :class:`Journal`, and the thread that empties it.

    ``submit`` and the callbacks belong to the event loop's thread; ``journal`` to the writer thread.
    """

    def __init__(
        self,
        journal: Journal,
        loop: asyncio.AbstractEventLoop,
        on_committed: OnCommitted,
        limits: RackLimits = LIMITS,
    ) -> None:
        self._journal = journal
        self._loop = loop
        self._on_committed = on_committed
        self._limits = limits
        self._wake = threading.Condition()
        self._queue: deque[_Pending] = deque()
        self._bytes = 0
        self._opened = 0.0
        self._urgent = False
        self._rotate: list[asyncio.Future[None]] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="wal-writer", daemon=True)
        self.refused: Counter[Importance] = Counter()
        self.failed = 0
        self.tight = False

    def start(self) -> None:
        """Start the writer thread."""
        self._thread.start()

    def submit(self, record: WalRecord, what: Importance, *, urgent: bool) -> asyncio.Future[int]:
        """Queue one record; the future gives its sequence once it is durable.

        While ``tight`` is set the disk has no room for another hot file.

        Raises:
            StorageError: the queue is full or the journal is closed; the record is not taken.
        """
        limits = self._limits
        size = len(record.data) + len(record.subject) + len(record.kind) + limits.wal_record_overhead_bytes
        with self._wake:
            if self._stopping:
                raise StorageError("the journal is closed")
            filled = max(
                (len(self._queue) + 1) / limits.wal_queue_records,
                (self._bytes + size) / limits.wal_queue_bytes,
            )
            room = self._journal.room_share if self.tight else None
            if not admitted(what, queue_filled=filled, room_left=room):
                self.refused[what] += 1
                raise self._refusal(what, filled, room)
            future: asyncio.Future[int] = self._loop.create_future()
            first = not self._queue
            self._queue.append(_Pending(record, size, future))
            self._bytes += size
            if first:
                self._opened = time.monotonic()
            if urgent:
                self._urgent = True
            if first or urgent or self._group_full():
                self._wake.notify()
            return future

    @staticmethod
    def _refusal(what: Importance, filled: float, room: float | None) -> StorageError:
        name = what.name.lower()
        if room is None:
            return StorageError(
                f"the journal's queue is {min(filled, 1.0):.0%} full and takes no {name}s now",
                remedy="the disk is slower than the sources: use a faster one or fewer sources",
            )
        return StorageError(
            f"the disk is full and the journal keeps its last {room:.0%} of a file for what matters more than {name}s",
            remedy="free space on its disk; the rack goes on by itself when it can write",
        )

    @property
    def queued(self) -> int:
        """Records not yet committed."""
        return len(self._queue)

    async def rotate(self) -> None:
        """Commit what is queued and close the active hot file."""
        future: asyncio.Future[None] = self._loop.create_future()
        with self._wake:
            if self._stopping:
                return
            self._rotate.append(future)
            self._wake.notify()
        await future

    async def stop(self) -> None:
        """Commit what is queued, close the journal and end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)
        # The thread posted its last results before it ended; let them run.
        await asyncio.sleep(0)

    def _group_full(self) -> bool:
        limits = self._limits
        return len(self._queue) >= limits.wal_batch_records or self._bytes >= limits.wal_batch_bytes

    def _run(self) -> None:
        while True:
            with self._wake:
                self._await_group()
                group = self._take()
                rotations, self._rotate = (self._rotate, []) if not self._queue else ([], self._rotate)
                stopping = self._stopping and not self._queue
            if group:
                self._commit(group)
            self._guarded(self._journal.tick)
            if rotations:
                self._guarded(self._journal.rotate)
                self._post(_resolve_all, rotations)
            if stopping:
                self._guarded(self._journal.close)
                return

    def _await_group(self) -> None:
        while not self._stopping and not self._rotate:
            if not self._queue:
                if not self._wake.wait(self._limits.wal_mark_sync):
                    return
                continue
            left = self._opened + self._limits.wal_commit_window - time.monotonic()
            if left <= 0 or self._urgent or self._group_full():
                return
            self._wake.wait(left)

    def _take(self) -> list[_Pending]:
        limits = self._limits
        group: list[_Pending] = []
        size = 0
        while self._queue and len(group) < limits.wal_batch_records:
            size += self._queue[0].size
            if group and size > limits.wal_batch_bytes:
                break
            item = self._queue.popleft()
            self._bytes -= item.size
            group.append(item)
        if not self._queue:
            self._urgent = False
        return group

    def _commit(self, group: list[_Pending]) -> None:
        try:
            batch = self._journal.commit([item.record for item in group])
        except StageboxError as error:
            self._post(self._refuse, group, error)
        except Exception as error:  # the thread must outlive any defect, and the callers must hear of it
            self._post(
                self._refuse, group, StorageError(f"the journal failed: {type(error).__name__}: {error}")
            )
        else:
            self._post(self._resolve, group, batch)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # as for a commit: the thread outlives any defect, and it is reported
            self._post(self._loop.call_exception_handler, {"message": "journal writer", "exception": error})

    def _post(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            return  # the loop is gone, and with it everyone who waited

    def _resolve(self, group: list[_Pending], batch: CommittedBatch) -> None:
        for sequence, item in enumerate(group, batch.first):
            if not item.done.done():
                item.done.set_result(sequence)
        self._on_committed(batch)

    def _refuse(self, group: list[_Pending], error: StageboxError) -> None:
        self.failed += len(group)
        for item in group:
            if not item.done.done():
                item.done.set_exception(error)
                # Who appends without waiting learns of the failure from the journal's event, not from a
                # warning a record.
                item.done.exception()


def _resolve_all(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
