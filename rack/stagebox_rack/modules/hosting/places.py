"""Chains and feeds as they are brought to a host: what it is told of them, and how they are let go."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Protocol

from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.chain import Chain
from stagebox_rack.modules.hosting.feed import Feed
from stagebox_rack.modules.hosting.lane import Lane
from stagebox_rack.modules.hosting.process import Answer


class Speaker(Protocol):
    """The way to a host that runs."""

    async def ask(self, verb: str, fields: dict[str, Any], descriptors: Sequence[int] = ()) -> Answer:
        """Tell it to do something; raises `HostGone`."""
        ...

    def kill(self, reason: str = "") -> None:
        """End it at once."""
        ...


class Place(Protocol):
    """A chain or feed, as far as it is arranged."""

    @property
    def name(self) -> str:
        """What events call it."""
        ...

    @property
    def number(self) -> int:
        """Which lane of its host it is."""
        ...

    async def attach(self, host: Speaker) -> None:
        """Make it known to a new host; raises `HostGone`."""
        ...

    def shape(self) -> dict[str, int]:
        """``rate``, ``channels`` and ``block`` of its instances, if they are given audio."""
        ...

    def switch(self, *, placed: bool, running: bool, hosted: bool) -> None:
        """Something is placed, something of it runs, a host is there."""
        ...

    def silent_for(self, now: float) -> float:
        """How many seconds of monotonic time the host has owed it an answer; 0 if it owes none."""
        ...

    async def close(self) -> None:
        """Let go of it; no host knows it any more."""
        ...


class ChainPlace:
    """A chain with the descriptors that its host is given."""

    def __init__(self, name: str, number: int, rate: int, channels: int, bell: int) -> None:
        """Make the chain.

        Raises:
            OSError: no memory or no descriptor is left.
        """
        self.name = name
        self.number = number
        self._block = rate // LIMITS.module_blocks_per_s
        self._memory = Lane.create(self._block, channels, LIMITS.module_lane_blocks)
        self._replies: tuple[int, ...] = ()
        try:
            self._replies = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._replies[0], False)
            self.chain = Chain(
                name, number, rate, channels, lane=self._memory, reply=self._replies[0], bell=bell
            )
        except BaseException:
            self._close()
            raise

    async def attach(self, host: Speaker) -> None:
        """Make it known to a new host."""
        fields = {"Lane": self.number, "Rate": self.chain.rate, "Channels": self.chain.channels}
        await host.ask("chain", fields, [self._memory, self._replies[1]])

    def shape(self) -> dict[str, int]:
        """What its instances are told of the audio."""
        return {"rate": self.chain.rate, "channels": self.chain.channels, "block": self._block}

    def switch(self, *, placed: bool, running: bool, hosted: bool) -> None:
        """Decide what becomes of audio."""
        self.chain.switch(placed=placed, running=running, hosted=hosted)

    def silent_for(self, now: float) -> float:
        """How long the audio thread has been owed an answer."""
        self.chain.rest()
        return self.chain.silent_for(now)

    async def close(self) -> None:
        """Let go; the audio thread may be inside, for as long as it waits at most."""
        while not self.chain.try_close():  # noqa: ASYNC110 - a lock of another thread
            await asyncio.sleep(LIMITS.module_wait_credit / 10)
        self._close()

    def _close(self) -> None:
        for descriptor in (self._memory, *self._replies):
            os.close(descriptor)


class FeedPlace:
    """A feed with the socket that its host is given."""

    def __init__(self, name: str, number: int, bell: int) -> None:
        """Make the feed.

        Raises:
            OSError: no descriptor is left.
        """
        self.name = name
        self.number = number
        self.feed = Feed(name, number, bell)

    async def attach(self, host: Speaker) -> None:
        """Make it known to a new host, without what the one before did not take."""
        self.feed.drain()
        await host.ask("feed", {"Lane": self.number}, [self.feed.theirs.fileno()])

    def shape(self) -> dict[str, int]:
        """Its instances are given no audio."""
        return {}

    def switch(self, *, placed: bool, running: bool, hosted: bool) -> None:
        """Take records while something runs."""
        self.feed.live = running

    def silent_for(self, now: float) -> float:
        """Nobody waits for a feed."""
        return 0.0

    async def close(self) -> None:
        """Let go."""
        self.feed.close()
