"""How far a journal has come: what is durable here, what the mixer holds, and who waits for either."""

from __future__ import annotations

import asyncio


class Progress:
    """One open journal's, in sequences. Belongs to one event loop."""

    def __init__(self, committed: int, acknowledged: int) -> None:
        self.committed = committed
        """The last durable sequence."""
        self.acknowledged = min(acknowledged, committed)
        """The last sequence the mixer is known to hold."""
        self._advanced = asyncio.Condition()
        self._telling: asyncio.Task[None] | None = None

    def commit(self, sequence: int) -> None:
        """Everything up to ``sequence`` is durable."""
        self.committed = sequence
        self._wake_waiters()

    def acknowledge(self, sequence: int, *, rewind: bool) -> bool:
        """The mixer holds everything up to ``sequence``; return whether that counts.

        ``rewind`` says it may hold less than before.
        """
        if sequence > self.committed:
            raise ValueError(f"sequence {sequence} was never committed")
        if not rewind and sequence <= self.acknowledged:
            return False
        self.acknowledged = sequence
        self._wake_waiters()
        return True

    async def wait_committed(self, sequence: int) -> None:
        """Return when ``sequence`` is durable."""
        async with self._advanced:
            await self._advanced.wait_for(lambda: self.committed >= sequence)

    async def wait_acknowledged(self, sequence: int) -> None:
        """Return when the mixer is known to hold ``sequence``."""
        async with self._advanced:
            await self._advanced.wait_for(lambda: self.acknowledged >= sequence)

    async def told(self) -> None:
        """Return when everyone who waits has been told of what was."""
        if self._telling is not None:
            await self._telling

    def _wake_waiters(self) -> None:
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self._advanced:
            self._advanced.notify_all()
