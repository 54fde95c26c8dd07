"""Removes what the store of modules holds and nothing needs: files of former countersignatures, halves left by a crash.

Needed is what an entry of the registry names: racks fetch by the digests of their sheets, no entry is ever removed, and
a version that is gone back to has an entry of its own. While an entry cannot be read, nobody knows what it names, and
nothing is removed. A rack that still has a sheet of before is told of the new one, or asks within minutes or when it
connects; so what is not needed goes only when it was not at every look for longer than that. This also keeps what
another mixer is about to enter, and forgives a look that went wrong. Nothing waits for a removal: one that fails is
tried again at the next look, also after a restart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from stagebox.errors import StageboxError
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.modules.store import ModuleStore

log = structlog.get_logger()


class Sweeper:
    """``lock`` is that of the :class:`~stagebox_mixer.modules.importing.Importer`; ``monotonic`` is in seconds."""

    def __init__(
        self,
        store: ModuleStore,
        lock: asyncio.Lock,
        *,
        every_s: float = LIMITS.module_sweep_s,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lock = lock
        self._every_s = every_s
        self._monotonic = monotonic
        self._since: dict[str, float] = {}

    async def run(self) -> None:
        """Sweep at once, and then for ever."""
        while True:
            try:
                await self.sweep()
            except StageboxError as error:
                log.warning("module_files_not_swept", error=error.message)
            await asyncio.sleep(self._every_s)

    async def sweep(self) -> None:
        """Look once, and remove what has not been needed for ``module_unneeded_s``.

        Raises:
            StageboxError: something cannot be read or removed; what is left stays until the next look.
        """
        await self._look()
        if not self._due():
            return
        async with self._lock:  # no import of this mixer is between its file and its entry
            await self._look()
            due = self._due()
            await self._store.files.remove(due)
        log.info("module_files_removed", subjects=len(due))

    async def _look(self) -> None:
        catalogue = await self._store.catalogue()
        needed = {entry.digest for entry in catalogue.modules.values()}
        # Entries are never removed: a registry without any was lost, and may be put back.
        known = needed and not catalogue.unreadable
        unneeded = await self._store.files.unneeded(needed) if known else frozenset()
        now = self._monotonic()
        self._since = {subject: self._since.get(subject, now) for subject in unneeded}

    def _due(self) -> list[str]:
        before = self._monotonic() - LIMITS.module_unneeded_s
        return [subject for subject, since in self._since.items() if since <= before]
