"""What the mixer has committed, asked over its API as the viewer. Blocking calls run on a worker thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from demo.limits import LIMITS
from stagebox.errors import StageboxError
from stagebox.mixer_api import MixerApi

Rows = list[dict[str, Any]]


class LakeView:
    """The lake's rows of every rack, as last read."""

    def __init__(self, api: MixerApi, racks: Sequence[str]) -> None:
        self._api = api
        self._racks = racks
        self._lock = asyncio.Lock()
        self.rows: dict[str, Rows] = {}

    def committed(self, rack: str) -> int | None:
        """Return how many records of ``rack`` are committed, None if that was not read yet."""
        rows = self.rows.get(rack)
        return None if rows is None else sum(int(row["records"]) for row in rows)

    @property
    def batches(self) -> int | None:
        """Committed batches of all racks."""
        if not self.rows:
            return None
        return sum(int(row["batches"]) for rows in self.rows.values() for row in rows)

    async def refresh(self) -> None:
        """Read every rack's rows.

        Raises:
            StageboxError: the mixer did not answer.
        """
        async with self._lock:
            for name in self._racks:
                answer = await asyncio.to_thread(self._api.rack, name)
                self.rows[name] = list(answer["wal"])

    async def poll(self) -> None:
        """Keep the rows fresh while the bridge is shown; a missed answer only leaves them older."""
        while True:
            with contextlib.suppress(StageboxError):
                await self.refresh()
            await asyncio.sleep(LIMITS.lake_poll)

    async def settled(self, records: Mapping[str, int | None]) -> None:
        """Return when the lake holds ``records`` of every rack, or the deadline passed; see :attr:`rows`.

        Raises:
            StageboxError: the mixer did not answer.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMITS.lake_settle):
                while True:
                    await self.refresh()
                    if all(self.committed(name) == count for name, count in records.items()):
                        return
                    await asyncio.sleep(LIMITS.lake_settle_poll)


@contextlib.asynccontextmanager
async def open_lake(base_url: str, identity: Path, racks: Sequence[str]) -> AsyncIterator[LakeView]:
    """Open a view of the lake as the client in ``identity``."""
    api = await asyncio.to_thread(MixerApi, base_url, identity)
    try:
        yield LakeView(api, racks)
    finally:
        await asyncio.to_thread(api.__exit__, None, None, None)
