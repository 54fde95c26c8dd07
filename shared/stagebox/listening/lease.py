"""Holds a lease on a monitor bus: takes it, renews it in time, gives it back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import structlog

from stagebox.errors import BusError, StageboxError
from stagebox.listening.limits import LISTEN_LIMITS, ListenLimits
from stagebox.mixer_api import MixerApi
from stagebox.tasks import end_tasks

log = structlog.get_logger("stagebox.listening")


class LeaseHolder:
    """One lease. ``failure`` is set when it cannot be kept any more; `lost` is then set too."""

    def __init__(
        self, mixer: str, identity: Path, rack: str, bus: str, limits: ListenLimits = LISTEN_LIMITS
    ) -> None:
        self._mixer = mixer
        self._identity = identity
        self._rack = rack
        self._bus = bus
        self._limits = limits
        self._api: MixerApi | None = None
        self._lease = ""
        self._renewing: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()
        self.failure: StageboxError | None = None

    async def take(self) -> None:
        """Take the lease and keep it until `release`.

        Raises:
            StageboxError: the mixer or the rack refuses, or cannot be reached.
        """
        self._api = await asyncio.to_thread(MixerApi, self._mixer, self._identity)
        self._lease = await self._ask(None)
        self._renewing = asyncio.create_task(self._renew(), name="listen-lease")

    async def release(self) -> None:
        """Give it back; a mixer that cannot be told lets it end by itself."""
        if self._renewing is not None:
            await end_tasks([self._renewing])
        api, self._api = self._api, None
        if api is None:
            return
        with contextlib.suppress(StageboxError):
            if self._lease:
                await asyncio.to_thread(api.release, self._rack, self._bus, self._lease)
        await asyncio.to_thread(api.__exit__, None, None, None)

    async def _ask(self, lease: str | None) -> str:
        assert self._api is not None
        answer = await asyncio.to_thread(
            self._api.listen, self._rack, self._bus, self._limits.lease_ttl_s, lease
        )
        granted = answer.get("lease")
        if not isinstance(granted, str):
            raise BusError("the mixer gave no lease", remedy="update the mixer")
        return granted

    async def _renew(self) -> None:
        ends = time.monotonic() + self._limits.lease_ttl_s
        wait = self._limits.lease_ttl_s * self._limits.lease_renew_share
        while True:
            await asyncio.sleep(wait)
            asked = time.monotonic()
            try:
                self._lease = await self._ask(self._lease)
            except BusError as error:
                # Not reached: there is time to try again, until the lease has ended.
                if time.monotonic() >= ends:
                    self._give_up(error)
                    return
                log.warning("lease_not_renewed", rack=self._rack, bus=self._bus, error=error.message)
                wait = self._limits.lease_retry_s
            except StageboxError as error:
                self._give_up(error)
                return
            else:
                ends = asked + self._limits.lease_ttl_s
                wait = self._limits.lease_ttl_s * self._limits.lease_renew_share

    def _give_up(self, error: StageboxError) -> None:
        self.failure = error
        self.lost.set()
