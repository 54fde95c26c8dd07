"""What a journal does about itself while it is open: a spare file, sealing, eviction, the saved cursor.

On the event loop; the work is done on worker threads. What fails is said once and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path

from nacl.signing import SigningKey

from stagebox.errors import StageboxError, StorageError
from stagebox_rack.limits import RackLimits
from stagebox_rack.wal import hotfile
from stagebox_rack.wal.acknowledged import save_cursor
from stagebox_rack.wal.catalogue import Catalogue
from stagebox_rack.wal.commit import GroupCommit
from stagebox_rack.wal.events import JournalEvent, OnEvent
from stagebox_rack.wal.eviction import Evictor
from stagebox_rack.wal.journal import FULL, Edges
from stagebox_rack.wal.notary import Notary
from stagebox_rack.wal.opening import Opened
from stagebox_rack.wal.owner import Owner
from stagebox_rack.wal.retention import Quota, evictions
from stagebox_rack.wal.sealing import Sealer


class Upkeep:
    """One journal's. ``acknowledged`` is what the mixer holds now; ``report`` may be called from any thread."""

    def __init__(
        self,
        opened: Opened,
        owner: Owner,
        *,
        edges: Edges,
        limits: RackLimits,
        catalogue: Catalogue,
        commit: GroupCommit,
        notary: Notary,
        acknowledged: Callable[[], int],
        report: OnEvent,
    ) -> None:
        self._layout, self._journal = opened.layout, opened.keyring.journal
        self._rack = owner.rack
        self._disk, self._clock = edges.disk, edges.clock
        self._limits = limits
        self._catalogue = catalogue
        self._commit = commit
        self._sealer = Sealer(
            opened.layout,
            opened.keyring,
            catalogue,
            owner.signing_key,
            rack=owner.rack,
            on_event=report,
            on_seal=notary.post_seal,
            clock_quality=edges.clock_quality,
            disk=edges.disk,
            hot_file_bytes=limits.wal_hot_file_bytes,
        )
        self._evictor = Evictor(
            catalogue,
            owner.signing_key,
            rack=owner.rack,
            journal=self._journal,
            on_event=report,
            on_tombstone=notary.post_tombstone,
            disk=edges.disk,
        )
        self._acknowledged = acknowledged
        self._report = report
        self._saved = acknowledged()
        self._opened_at = self._clock()
        self._sealing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="wal-maintenance")

    def wake(self) -> None:
        """There is something to do now."""
        self._wake.set()

    async def stop(self) -> None:
        """Finish what is under way."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def rekey(self, signing_key: SigningKey) -> None:
        """Sign seals and tombstones with another key from now on."""
        await asyncio.to_thread(self._sealer.rekey, signing_key)  # waits for a segment being sealed
        await asyncio.to_thread(self._evictor.rekey, signing_key)

    def forget(self, tombstone: Path) -> None:
        """Remove a tombstone that the mixer knows of."""
        self._evictor.forget(tombstone)

    async def seal_frozen(self) -> None:
        """Seal every closed file.

        Raises:
            StorageError: sealing failed; everything stays readable in hot files.
        """
        async with self._sealing:
            for span in self._catalogue.frozen():
                await asyncio.to_thread(self._sealer.seal, span)

    async def retain(self) -> None:
        """Remove what the quota and the ages ask for.

        Raises:
            StorageError: the disk refused.
        """
        limits = self._limits
        settled = self._clock() - self._opened_at >= limits.wal_age_after_start
        chosen = evictions(
            self._catalogue.segments(),
            acknowledged=self._acknowledged(),
            now=time.time(),
            quota=Quota(limits.wal_quota_bytes, limits.wal_grace, limits.wal_age if settled else math.inf),
        )
        await asyncio.to_thread(self._evictor.evict, chosen)

    async def save_cursor(self) -> None:
        """Write down what the mixer holds, if it is not yet.

        Raises:
            StorageError: the disk refused.
        """
        acknowledged = self._acknowledged()
        if acknowledged != self._saved:
            await asyncio.to_thread(
                save_cursor, self._disk, self._layout.cursor, self._rack, self._journal, acknowledged
            )
            self._saved = acknowledged

    async def _run(self) -> None:
        limits = self._limits
        pause = limits.wal_maintain_first
        failing = False
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
            self._wake.clear()
            pause = limits.wal_maintain
            errors = await self._round()
            if errors:
                pause = limits.wal_seal_retry
                if not failing:
                    self._report(JournalEvent("wal_maintenance_failed", "warning", {"reason": errors[0]}))
            failing = bool(errors)

    async def _round(self) -> list[str]:
        """Do everything once; what fails keeps nothing else from being done. Return what failed.

        Sealing comes first: it turns the full hot file into the spare.
        """
        errors: list[str] = []
        for work in (self.seal_frozen, self._spare, self.retain, self.save_cursor):
            try:
                await work()
            except (StageboxError, OSError) as error:
                errors.append(str(error))
        return errors

    async def _spare(self) -> None:
        await asyncio.to_thread(self._make_spare)

    def _make_spare(self) -> None:
        try:
            hotfile.make_spare(self._layout, self._limits.wal_hot_file_bytes, self._disk)
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in FULL and not self._commit.tight:
                self._commit.tight = True
                self._report(JournalEvent("wal_space_low", "alert", {"reason": reason}))
            raise StorageError(f"cannot make the spare hot file: {reason}") from error
        if self._commit.tight:
            self._commit.tight = False
            self._report(JournalEvent("wal_space_back", "info"))
