"""Gives leases on monitor buses: tells the rack with a signed command when it must, and to stop when nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from stagebox import subjects
from stagebox.control.command import Ack, AckResult, CommandVerb
from stagebox.control.listen import LEASE_BYTES, Listen
from stagebox.errors import BusError, InputError, StageboxError, VerificationError
from stagebox.tasks import end_tasks
from stagebox_mixer.audit import Audit, Row
from stagebox_mixer.commands.service import Commands
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.listening.book import Key, LeaseBook

log = structlog.get_logger()


class ListenRefused(BusError):
    """The rack does not send the bus; ``code`` is its reason."""

    def __init__(self, code: str, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


@dataclass(frozen=True)
class Granted:
    """A lease: renewed by asking again with its id before ``ttl_s`` are over."""

    rack: str
    bus: str
    lease: str
    ttl_s: int

    @property
    def subject(self) -> str:
        """Where the packets are."""
        return subjects.audio(self.rack, self.bus)


class Listening:
    """The listeners of this mixer."""

    def __init__(
        self, *, commands: Commands, audit: Audit, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._commands = commands
        self._audit = audit
        self._now = now
        self._book = LeaseBook()
        self._lanes: weakref.WeakValueDictionary[Key, asyncio.Lock] = weakref.WeakValueDictionary()
        self._releasing: set[asyncio.Task[None]] = set()

    async def listen(self, rack: str, bus: str, ttl_s: int, caller: str, lease: str | None = None) -> Granted:
        """Give ``caller`` a lease, or renew the one it has.

        Raises:
            InputError: the time is out of range, or too many listen. VerificationError: the lease is somebody else's.
            ListenRefused: the rack refuses. CommandUnanswered, BusError: the rack cannot be told.
        """
        if not LIMITS.listen_min_s <= ttl_s <= LIMITS.listen_max_s:
            raise InputError(
                f"a lease cannot live {ttl_s} s",
                remedy=f"ask for {LIMITS.listen_min_s} to {LIMITS.listen_max_s} s and renew it in time",
            )
        key = (rack, subjects.parse(subjects.audio(rack, bus)).leaf or bus)
        if lease is not None and self._book.taken(key, lease) and not self._book.known(key, lease, caller):
            raise VerificationError("this lease is somebody else's", remedy="ask for one of your own")
        lane = self._lanes.setdefault(key, asyncio.Lock())
        async with lane:
            new = lease is None or not self._book.known(key, lease, caller)
            if new and self._book.listeners(rack) >= LIMITS.listeners_per_rack:
                raise InputError(f"{LIMITS.listeners_per_rack} listen to rack {rack!r} already")
            chosen = secrets.token_hex(LEASE_BYTES) if new or lease is None else lease
            end = self._now() + ttl_s
            if self._book.must_tell(key, end):
                await self._tell(key, caller)
            if new:
                await self._audit.record(Row(caller, "listen", rack, "ok", detail={"bus": bus}))
            self._book.take(key, chosen, caller, end)
        return Granted(rack, bus, chosen, ttl_s)

    async def release(self, rack: str, bus: str, lease: str, caller: str) -> None:
        """End a lease of ``caller``'s; one that has ended already is no error.

        Raises:
            VerificationError: the lease is somebody else's.
        """
        key = (rack, bus)
        if self._book.taken(key, lease) and not self._book.known(key, lease, caller):
            raise VerificationError("this lease is somebody else's")
        self._book.release(key, lease)
        self._stop_idle()

    async def run(self) -> None:
        """End what listeners left behind, as long as the mixer runs."""
        while True:
            await asyncio.sleep(LIMITS.listen_sweep_s)
            self._stop_idle()

    async def stop(self) -> None:
        """Tell no rack anything more; what it sends ends with our leases there."""
        await end_tasks(self._releasing)

    async def _tell(self, key: Key, caller: str) -> None:
        rack, bus = key
        lease = self._book.rack_lease(key, secrets.token_bytes(LEASE_BYTES))
        asked = self._now()
        ack = await self._send(rack, Listen(bus, lease, LIMITS.listen_rack_s), caller)
        if ack.result is not AckResult.DONE:
            raise _refused(rack, bus, ack)
        self._book.told(key, lease, asked + LIMITS.listen_rack_s)

    def _stop_idle(self) -> None:
        for key, lease in self._book.idle(self._now()).items():
            if key in self._lanes and self._lanes[key].locked():
                continue  # somebody comes just now
            self._book.forget(key)
            task = asyncio.create_task(self._tell_to_stop(key, lease), name="listen-release")
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    async def _tell_to_stop(self, key: Key, lease: bytes) -> None:
        rack, bus = key
        try:
            await self._send(rack, Listen(bus, lease, 0), LIMITS.listen_actor)
        except StageboxError as error:
            # The rack is away; the lease ends there by itself.
            log.info("listen_not_released", rack=rack, bus=bus, error=error.message)

    async def _send(self, rack: str, listen: Listen, actor: str) -> Ack:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMITS.check_wait_s):
                return await self._commands.send(
                    rack, CommandVerb.LISTEN, listen.args(), actor=actor, ttl_s=LIMITS.check_ttl_s
                )
        raise BusError(f"rack {rack!r} has other commands to answer first", remedy="try again in a moment")


_REFUSALS = {
    "unknown_bus": ("has no monitor bus {bus!r}", "see its buses with `stagebox admin racks show {rack}`"),
    "not_capturing": ("captures nothing now", "see why with `stagebox admin racks show {rack}`"),
    "unknown_verb": ("is too old to send audio on demand", "update its software"),
    "too_many_listeners": ("has too many listeners on {bus!r}", "end some of them"),
}


def _refused(rack: str, bus: str, ack: Ack) -> ListenRefused:
    what, remedy = _REFUSALS.get(ack.reason, (f"does not send {bus!r}: {ack.result.value}, {ack.reason}", ""))
    return ListenRefused(
        ack.reason,
        f"rack {rack!r} {what.format(rack=rack, bus=bus)}",
        remedy=remedy.format(rack=rack, bus=bus) or None,
    )
