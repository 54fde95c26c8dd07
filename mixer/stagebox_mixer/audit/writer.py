"""Chains rows and appends them, so that every row holds the hash of the one before it whoever writes.

Rules:
- A row is published with the number of the row it follows. If another mixer was faster, the new end is read and the
  row chained again: the chain never forks.
- Rows that wait together go together. One attempt is under way at a time, so rows keep their order.
- ``write`` returns when the row is durable. Where the answer got lost, the stream itself is asked; a row of which
  that cannot be told fails, although it may be there.
- Whenever the end of the stream is read, the newest row we know must be in the stream. If it is not, a row
  ``audit_rewound`` with both heads is written first.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
from nats.js import JetStreamContext
from uuid6 import uuid7

from stagebox.audit_chain import EMPTY, NO_HASH, REWOUND, Head, row_hash
from stagebox.errors import BusError, StageboxError
from stagebox_mixer.audit.row import Row, check
from stagebox_mixer.audit.stream import AuditStream, End, Message, Overtaken
from stagebox_mixer.limits import LIMITS

log = structlog.get_logger()
_random = random.SystemRandom()


@dataclass
class _Waiting:
    """A row that is not durable yet, and who waits for its number."""

    row: Row
    size: int
    done: asyncio.Future[int]
    id: str = field(default_factory=lambda: str(uuid7()))
    time_ns: int = field(default_factory=time.time_ns)
    since: float = field(default_factory=lambda: _now())


class _Pace:
    """How a writer goes because others may write too: pauses in which they can get in, and smaller batches.

    Whoever wrote last knows the head already and would win every time against those who must read it first.
    """

    def __init__(self) -> None:
        self._most = LIMITS.audit_batch_rows - 2  # two of our own may go first
        self._crowded_until = 0.0
        self._busy_since = self._wrote = self._took = 0.0
        self.rows = self._most

    def overtaken(self, took: float) -> None:
        """Another writer was faster, after an attempt of ``took`` seconds."""
        self.rows = max(1, self.rows // 2)
        self._crowded_until = _now() + LIMITS.audit_yield_s
        self._took = took

    def succeeded(self, took: float) -> None:
        """An attempt of ``took`` seconds was ours."""
        self.rows = min(self._most, self.rows * 2)
        self._wrote = _now()
        self._took = took

    async def pause(self) -> None:
        """Leave others room, if there are others or may be."""
        now = _now()
        if now < self._crowded_until:
            await asyncio.sleep(_random.uniform(0, min(4 * self._took, LIMITS.audit_pause_cap_s)))
        elif now - self._wrote > LIMITS.audit_pause_s:
            self._busy_since = now
        elif now - self._busy_since > LIMITS.audit_busy_s:
            await asyncio.sleep(LIMITS.audit_pause_s)
            self._busy_since = _now()


class ChainWriter:
    """The one way of this mixer's rows into the stream. ``advanced`` is called with every new head."""

    def __init__(self, stream: AuditStream, advanced: Callable[[Head], None]) -> None:
        self._stream = stream
        self._advanced = advanced
        self._waiting: deque[_Waiting] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._known: Head | None = None
        self._doubt: str | None = None
        self._pace = _Pace()
        # Where the next row goes, and the connection that said so: behind another one may be another stream.
        self._end: tuple[JetStreamContext, Head] | None = None
        self._checked: JetStreamContext | None = None

    @property
    def head(self) -> Head:
        """The newest row this mixer knows."""
        return self._known if self._known is not None else EMPTY

    async def open(self, witness: Head | None, doubt: str | None = None) -> None:
        """Learn where the stream ends and hold it to the ``witness`` of an earlier run.

        ``doubt`` is why there is no witness although there should be.

        Raises:
            BusError: the stream cannot be reached.
        """
        self._known, self._doubt = witness, doubt
        while True:
            try:
                self._known = await self._append([])
                break
            except Overtaken:
                await self._pace.pause()
        self._advanced(self._known)

    async def write(self, row: Row) -> int:
        """Store a row and return its number; on return it is durable.

        Raises:
            BusError: it is not durable, or that cannot be told. InputError: it cannot be a row.
        """
        size = len(row.encode("0" * 36, time.time_ns(), NO_HASH))
        check(row, size)
        if len(self._waiting) >= LIMITS.audit_waiting_rows:
            raise BusError(
                f"the audit is behind: {len(self._waiting)} rows wait to be written",
                remedy="check the disk of the audit stream; try again in a moment",
            )
        waiting = _Waiting(row, size, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run(), name="audit-writer")
        return await waiting.done

    async def drained(self) -> None:
        """Wait until nothing is waiting."""
        if self._pump is not None:
            await asyncio.gather(self._pump, return_exceptions=True)

    async def _run(self) -> None:
        rows: list[_Waiting] = []
        try:
            while self._waiting:
                await self._pace.pause()
                rows = self._take()
                try:
                    if rows:
                        _settle(rows, (await self._append(rows)).seq)
                except Overtaken as error:
                    self._put_back(rows, error)
                except (StageboxError, OSError) as error:
                    _fail(rows, error)
        except BaseException as error:
            # Whatever ends the writer, everybody who waits for a row must hear that it is not written.
            rows += self._waiting
            self._waiting.clear()
            _fail(rows, error)
            raise

    def _take(self) -> list[_Waiting]:
        """Take the rows of one attempt: many at once, or one if there are few."""
        limit = self._pace.rows if len(self._waiting) >= LIMITS.audit_batch_from_rows else 1
        rows: list[_Waiting] = []
        size = 0
        while self._waiting and len(rows) < limit:
            size += self._waiting[0].size
            if rows and size > LIMITS.audit_batch_bytes:
                break
            waiting = self._waiting.popleft()
            if not waiting.done.done():  # else whoever asked has gone
                rows.append(waiting)
        return rows

    def _put_back(self, rows: Sequence[_Waiting], error: Overtaken) -> None:
        """Let rows that another mixer overtook wait again, in their order, unless they have tried too long."""
        oldest = _now() - LIMITS.audit_retry_s
        late = [waiting for waiting in rows if waiting.since < oldest]
        _fail(late, error)
        self._waiting.extendleft(waiting for waiting in reversed(rows) if waiting not in late)

    async def _append(self, rows: Sequence[_Waiting]) -> Head:
        """Chain and store ``rows``, and what has to be said before them; return the new head.

        Raises:
            Overtaken: another mixer was faster; they are not stored.
            BusError: they are not durable, or that cannot be told.
        """
        connection = self._stream.connection()
        head, notices = await self._where(connection)
        batch = [*(_prepared(notice) for notice in notices), *rows]
        if not batch:
            return head
        messages, new = _chained(batch, head)
        checked, self._end, self._checked = self._checked, None, None
        begun = _now()
        try:
            await self._stream.append(connection, messages, head.seq)
        except Overtaken:
            self._checked = checked
            self._pace.overtaken(_now() - begun)
            raise
        except BusError:
            if not await self._stored(new):
                raise
        self._end, self._checked = (connection, new), connection
        self._known, self._doubt = new, None
        self._pace.succeeded(_now() - begun)
        self._advanced(new)
        return new

    async def _where(self, connection: JetStreamContext) -> tuple[Head, list[Row]]:
        """Return the head to go on from, and what has to be said first."""
        if self._end is not None and self._end[0] is connection:
            return self._end[1], []
        if self._checked is connection:
            # Another mixer writes on the same stream: the shorter we look, the likelier we are behind it in time.
            newest = await self._stream.newest()
            if newest.seq > self.head.seq:
                return newest, []
        end = await self._stream.end()
        reason = await self._contradiction(end)
        if reason is None:
            return end.head, []
        log.error(
            REWOUND, reason=reason, known=str(self.head), found=str(end.head),
            remedy="an older copy of the audit was put back, or rows were removed; compare with your backups",
        )  # fmt: skip
        return end.head, [_rewound(reason, self.head, end.head)]

    async def _contradiction(self, end: End) -> str | None:
        """Return how the stream contradicts the newest row we know, if it does."""
        if end.lost:
            return "head_lost"
        if self._doubt is not None:
            return self._doubt
        if self._known is None or self._known in (EMPTY, end.head):
            return None
        if end.head.seq < self._known.seq:
            return "shortened"
        data = await self._stream.row(self._known.seq)
        return None if data is not None and row_hash(data) == self._known.hash else "replaced"

    async def _stored(self, head: Head) -> bool:
        """Say whether a batch of which we got no answer is in the stream: its last row proves those before."""
        try:
            data = await self._stream.row(head.seq)
        except BusError:
            return False
        return data is not None and row_hash(data) == head.hash


def _now() -> float:
    return asyncio.get_running_loop().time()


def _prepared(row: Row) -> _Waiting:
    return _Waiting(row, 0, asyncio.get_running_loop().create_future())


def _chained(rows: Sequence[_Waiting], head: Head) -> tuple[list[Message], Head]:
    messages, prev = [], head.hash
    for waiting in rows:
        data = waiting.row.encode(waiting.id, waiting.time_ns, prev)
        messages.append(Message(waiting.row.action, data))
        prev = row_hash(data)
    return messages, Head(head.seq + len(rows), prev)


def _rewound(reason: str, known: Head, found: Head) -> Row:
    detail: dict[str, str | int] = {
        "witness_seq": known.seq,
        "witness_head": known.hash,
        "stream_seq": found.seq,
        "stream_head": found.hash,
    }
    return Row("mixer", REWOUND, "audit", "failed", reason, detail)


def _settle(rows: Sequence[_Waiting], last: int) -> None:
    for seq, waiting in enumerate(rows, last - len(rows) + 1):
        if not waiting.done.done():
            waiting.done.set_result(seq)


def _fail(rows: Sequence[_Waiting], error: BaseException) -> None:
    for waiting in rows:
        if not waiting.done.done():
            # Each gets an error of its own: raised in several tasks, one would gather all their tracebacks.
            waiting.done.set_exception(_unwritten(error))


def _unwritten(error: BaseException) -> BusError:
    if isinstance(error, StageboxError):
        return BusError(error.message, remedy=error.remedy)
    return BusError(
        f"the audit could not be written: {error or type(error).__name__}", remedy="see the mixer's log"
    )
