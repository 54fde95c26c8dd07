"""The journal's one face for the application.

Rules: ``append`` answers with a sequence only once the record is durable. Batches are handed out only when committed.
What the mixer does not hold goes last, and only with a tombstone. All methods belong to one event loop; blocking work
runs on the writer thread and on worker threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Collection
from pathlib import Path
from typing import Self

from nacl.signing import SigningKey

from stagebox.errors import InputError, StageboxError
from stagebox.records.walbatch import WalRecord
from stagebox_rack.limits import LIMITS, RackLimits
from stagebox_rack.wal.catalogue import Catalogue, SegmentSpan
from stagebox_rack.wal.commit import GroupCommit
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.events import JournalEvent, OnEvent
from stagebox_rack.wal.history import History
from stagebox_rack.wal.hotfile import HotSpan
from stagebox_rack.wal.importance import importance
from stagebox_rack.wal.journal import Edges, Journal
from stagebox_rack.wal.journal_format import CommittedBatch
from stagebox_rack.wal.kek_protection import Protection
from stagebox_rack.wal.notary import Notary
from stagebox_rack.wal.opening import Opened, open_directory
from stagebox_rack.wal.owner import Owner
from stagebox_rack.wal.progress import Progress
from stagebox_rack.wal.stats import WalStats
from stagebox_rack.wal.upkeep import Upkeep

__all__ = ["Wal", "WalStats"]

_LOSSES = frozenset({"wal_tail_missing", "wal_hole", "wal_evicted_unshipped"})


class Wal:
    """One rack's journal, open. Make it with :meth:`open`."""

    def __init__(
        self,
        opened: Opened,
        owner: Owner,
        *,
        limits: RackLimits,
        on_event: OnEvent,
        edges: Edges,
        journal_seals: bool,
    ) -> None:
        self._opened = opened
        self._rack = owner.rack
        self._limits = limits
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        found = opened.recovered
        self._catalogue = catalogue = Catalogue(found.segments, found.frozen)
        self._progress = progress = Progress(found.head.next - 1, opened.acknowledged)
        self._history = History(opened, owner, catalogue, progress, tail_bytes=limits.wal_tail_bytes)
        self._records = self._lost = self._activations = 0
        self._journal = Journal(
            opened.layout,
            opened.keyring,
            catalogue,
            opened.mark,
            found.head,
            rack=owner.rack,
            boot=owner.boot,
            edges=edges,
            on_event=self._post_event,
            limits=limits,
        )
        self._commit = GroupCommit(self._journal, self._loop, self._committed_batch, limits)
        self._notary = Notary(
            self.append, self._loop, rack=owner.rack, forget=self._forget, seals=journal_seals
        )
        self._upkeep = Upkeep(
            opened,
            owner,
            edges=edges,
            limits=limits,
            catalogue=catalogue,
            commit=self._commit,
            notary=self._notary,
            acknowledged=lambda: progress.acknowledged,
            report=self._post_event,
        )
        self._closing = self._closed = False

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        rack: str,
        signing_key: SigningKey,
        earlier: Collection[bytes] = (),
        boot: bytes,
        limits: RackLimits = LIMITS,
        on_event: OnEvent,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.monotonic,
        clock_quality: Callable[[], str] = lambda: "unknown",
        journal_seals: bool = True,
        key_protection: Protection = Protection.AUTO,
    ) -> Self:
        """Open the journal in ``directory`` (made if missing), recover it and start its writer.

        ``earlier``: the keys this rack had before; ``clock_quality`` says what seals say of the clock;
        ``journal_seals`` makes each seal a record too, so that the mixer gets it;
        ``key_protection`` is for the key file of a new journal.

        Raises:
            StorageError: another process has it, or the disk refuses.
            KeyFileError: its key file is missing, unsafe or damaged.
            VerificationError: the key is not the one it was written with, or it is another rack's.
        """
        disk = disk or Disk()
        owner = Owner(rack, signing_key, tuple(earlier), boot)
        opened = await asyncio.to_thread(
            open_directory, directory, rack, owner.public, disk, earlier, protection=key_protection
        )
        wal = cls(
            opened,
            owner,
            limits=limits,
            on_event=on_event,
            edges=Edges(disk, clock, clock_quality=clock_quality),
            journal_seals=journal_seals,
        )
        for event in opened.events:
            wal._deliver(event)
        wal._commit.start()
        wal._notary.take_over(opened.recovered, wal.acknowledged)
        wal._upkeep.start()
        return wal

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def rack(self) -> str:
        """The rack whose journal this is."""
        return self._rack

    @property
    def journal(self) -> bytes:
        """This journal's identity, made when it was created."""
        return self._opened.keyring.journal

    @property
    def committed(self) -> int:
        """The last durable sequence."""
        return self._progress.committed

    @property
    def acknowledged(self) -> int:
        """The last sequence the server is known to hold."""
        return self._progress.acknowledged

    def append(
        self, kind: str, time_ns: int, subject: str, data: bytes, *, urgent: bool = False
    ) -> asyncio.Future[int]:
        """Journal one record; the future gives its sequence once it is durable.

        ``urgent`` commits at once instead of waiting for the group's window. A caller that does not await the
        future learns of a failed commit from the journal's events.

        Raises:
            InputError: the record is too large or malformed; it could never be committed.
            StorageError: the queue is full (back-pressure) or the journal is closed; nothing was taken.
        """
        limits = self._limits
        if len(data) > limits.wal_record_bytes:
            raise InputError(
                f"a {kind} record of {len(data)} bytes is over the {limits.wal_record_bytes} allowed"
            )
        longest = max(len(kind.encode()), len(subject.encode()))
        if longest > limits.wal_text_bytes or not 0 <= time_ns < 1 << 63:
            raise InputError(
                f"a record of kind {kind[:32]!r} has a bad time or a name over {limits.wal_text_bytes} bytes"
            )
        record = WalRecord(kind, time_ns, subject, bytes(data))
        return self._commit.submit(record, importance(kind), urgent=urgent)

    async def wait_committed(self, sequence: int) -> None:
        """Return when ``sequence`` is durable."""
        await self._progress.wait_committed(sequence)

    async def wait_acknowledged(self, sequence: int) -> None:
        """Return when the server is known to hold ``sequence``."""
        await self._progress.wait_acknowledged(sequence)

    def batches_after(self, sequence: int) -> AsyncGenerator[CommittedBatch, None]:
        """Yield committed batches in order, from the one that holds ``sequence + 1``, up to the newest.

        Where records are missing the next batch simply starts later; compare ``first`` with what you expect.

        Raises:
            StorageError: a file cannot be read.
            VerificationError: a file does not verify.
        """
        return self._history.batches_after(sequence)

    async def batch_ending(self, last: int) -> CommittedBatch | None:
        """Return the batch whose last record is ``last``, or None when no readable batch ends there."""
        async for batch in self.batches_after(last - 1):
            return batch if batch.last == last else None
        return None

    async def first_batch(self) -> CommittedBatch | None:
        """Return the oldest batch that can be read, or None."""
        async for batch in self.batches_after(0):
            return batch
        return None

    def missing(self, first: int, last: int) -> bool:
        """Whether none of the records ``first`` … ``last`` can be read here (evicted or lost)."""
        return not any(span.first <= last and span.last >= first for span in self._catalogue.spans())

    def acknowledge(self, sequence: int, *, rewind: bool = False) -> None:
        """The server holds everything up to ``sequence``; ``rewind`` says it may hold less than before."""
        if self._progress.acknowledge(sequence, rewind=rewind):
            self._notary.acknowledged(sequence)

    async def rekey(self, signing_key: SigningKey) -> None:
        """Seal with another key from now on; what was sealed before stays readable."""
        self._history.rekey(bytes(signing_key.verify_key))
        await self._upkeep.rekey(signing_key)

    async def seal_now(self) -> None:
        """Commit what is queued, close the active file and seal every closed file.

        Raises:
            StorageError: sealing failed; everything stays readable in hot files.
        """
        await self._commit.rotate()
        await self._upkeep.seal_frozen()

    def stats(self) -> WalStats:
        """Return counters and sizes."""
        spans = self._catalogue.spans()
        segments = [span for span in spans if isinstance(span, SegmentSpan)]
        hot = [span for span in spans if isinstance(span, HotSpan)]
        return WalStats(
            records=self._records,
            committed=self.committed,
            acknowledged=self.acknowledged,
            oldest=spans[0].first if spans else 0,
            queued=self._commit.queued,
            refused=self._commit.refused.total(),
            refused_by_class={what.name.lower(): count for what, count in self._commit.refused.items()},
            failed=self._commit.failed,
            segments=len(segments),
            segment_bytes=sum(span.size for span in segments),
            hot_files=len(hot),
            hot_bytes=sum(span.end for span in hot),
            lost=self._lost,
            journal=self.journal.hex(),
        )

    async def close(self) -> None:
        """Commit what is queued, seal, save the cursor and let go of the directory."""
        if self._closing:
            return
        self._closing = True
        await self._upkeep.stop()
        await self._commit.stop()
        try:
            await self._upkeep.seal_frozen()
            await self._upkeep.save_cursor()
        except StageboxError as error:
            # Nothing is lost by this: the next start seals, and reads the cursor from the server.
            self._deliver(JournalEvent("wal_close_incomplete", "warning", {"reason": error.message}))
        finally:
            await self._progress.told()
            self._closed = True
            self._opened.lock.release()

    def _committed_batch(self, batch: CommittedBatch) -> None:
        self._history.add(batch)
        self._records += batch.last - batch.first + 1
        if self._journal.activations != self._activations:
            if self._activations:
                self._upkeep.wake()  # the spare is used up, and a file waits to be sealed
            self._activations = self._journal.activations
        self._progress.commit(batch.last)

    def _forget(self, path: Path) -> None:
        self._loop.run_in_executor(None, self._upkeep.forget, path)

    def _post_event(self, event: JournalEvent) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody is left to tell
            self._loop.call_soon_threadsafe(self._deliver, event)

    def _deliver(self, event: JournalEvent) -> None:
        if event.name in _LOSSES and not self._closed:
            self._lost += int(event.detail["last"]) - int(event.detail["first"]) + 1
        self._on_event(event)
