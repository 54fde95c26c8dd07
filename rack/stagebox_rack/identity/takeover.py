"""From a new identity to the one in use: staged, shown, proved, promoted, without a gap in what is captured.

Rules: what a new passport forbids ends before anything else is done; a passport is durable before it is answered for;
the old identity is dropped only after the mixer admitted the new one; a refusal changes nothing on disk. One thing is
moved at a time. The bus client belongs to the caller; it is told to try by :attr:`Takeover.attach`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import structlog

from stagebox.bus import Failure
from stagebox.errors import StageboxError
from stagebox.passport import PassportStatus
from stagebox.tasks import end_tasks
from stagebox_rack.identity.credentials import REFUSALS, Credentials
from stagebox_rack.identity.store import Held, IdentityStore, Issued
from stagebox_rack.limits import LIMITS
from stagebox_rack.state import RackIdentity

log = structlog.get_logger()


class SwappableBus(Protocol):
    """What is needed of the bus client."""

    @property
    def connected(self) -> bool:
        """Whether a connection is up."""
        ...

    async def swap_certificate(self) -> None:
        """Move to a new connection made with what the providers give now."""
        ...

    def retry_now(self) -> None:
        """Cut the current back-off short."""
        ...


class Owner(Protocol):
    """What the application does when the identity changes."""

    async def obey(self, status: PassportStatus) -> None:
        """Do what a passport's status demands. It returns when what is forbidden has ended."""
        ...

    async def proved(self, previous: RackIdentity, identity: RackIdentity) -> None:
        """Sign with ``identity`` from now on."""
        ...

    def event(self, name: str, detail: dict[str, Any]) -> None:
        """Publish something that happened."""
        ...

    def alert(self, name: str, detail: dict[str, Any]) -> None:
        """Publish something that needs attention."""
        ...


class Takeover:
    """The identity of one running rack. Call its hooks from those of the bus client."""

    def __init__(self, store: IdentityStore, held: Held, owner: Owner, *, wall: Callable[[], float]) -> None:
        """Take what was loaded.

        Raises:
            TlsError: a certificate cannot be used.
        """
        self.credentials = Credentials(held)
        self.refused_since: float | None = None
        self._store = store
        self._owner = owner
        self._wall = wall
        self._bus: SwappableBus | None = None
        self._moving = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self.changed = asyncio.Event()

    @property
    def held(self) -> Held:
        """The identities held now."""
        return self.credentials.held

    @property
    def machine_id(self) -> int:
        """The machine that passports are bound to."""
        return self._store.machine_id

    def attach(self, bus: SwappableBus) -> None:
        """Say which bus client shows the identity."""
        self._bus = bus

    def begin(self) -> None:
        """The owner is wired: identities may be moved."""
        self._ready.set()

    def look_soon(self) -> None:
        """Do :meth:`look` in the background."""
        self._spawn(self.look())

    async def close(self) -> None:
        """End what runs in the background; files are left whole."""
        while self._tasks:
            await end_tasks(self._tasks)

    async def take(self, accept: Callable[[Held], Issued]) -> Issued:
        """Take a new identity: ``accept`` verifies it against what is held when its turn has come.

        It is durable, and its status obeyed, when this returns; it is shown to the mixer in the background.

        Raises:
            StageboxError: it does not verify or cannot be stored; what was held still is.
        """
        async with self._moving:
            held = self.held
            issued = accept(held)
            status = issued.passport.status
            if status is not PassportStatus.ACTIVE:
                await self._owner.obey(status)
            self.credentials.stage(await asyncio.to_thread(self._store.stage, held, issued))
            if status is PassportStatus.ACTIVE:
                await self._owner.obey(status)
        self.changed.set()
        self._spawn(self._show())
        return issued

    async def look(self) -> None:
        """Take over what another process staged or enrolled meanwhile. A file that does not verify changes nothing."""
        if not self._store.changed():
            return
        async with self._moving:
            try:
                found = await asyncio.to_thread(self._store.open)
                if _same(found, self.held):
                    return
                status = found.newest.passport.status
                if found.newest.passport.serial < self.credentials.serial:
                    log.error("identity_on_disk_is_older", serial=found.newest.passport.serial)
                    return
                if status is not PassportStatus.ACTIVE:
                    await self._owner.obey(status)
                previous = self.held.main
                self.credentials.replace(found)
                await self._owner.proved(previous, found.main)
                if status is PassportStatus.ACTIVE:
                    await self._owner.obey(status)
            except StageboxError as error:
                log.error("identity_on_disk_unusable", reason=error.message)
                return
        self.changed.set()
        self._spawn(self._show())

    def show_again(self) -> None:
        """Show a staged identity that was refused once more."""
        if self.held.staged is not None:
            self._spawn(self._show())

    def on_failed(self, failure: Failure) -> None:
        """An attempt to connect failed."""
        self.credentials.failed(failure)
        if self._bus is not None and self._bus.connected:
            return  # what was refused is a staged identity; we are still in with another
        if failure.cause in REFUSALS and self.refused_since is None:
            self.refused_since = self._wall()
            self.changed.set()

    def on_connected(self) -> None:
        """A connection stands: whoever was shown is admitted."""
        self.refused_since = None
        proved = self.credentials.connected()
        if proved is not None:
            self._spawn(self._promote(proved))
        self.changed.set()

    async def watch(self) -> None:
        """Look for what other processes left, and show again what was refused, for ever."""
        loop = asyncio.get_running_loop()
        newest, shown, pause = self.held.staged, loop.time(), LIMITS.prove_retry
        while True:
            await asyncio.sleep(LIMITS.identity_poll)
            await self.look()
            if self.held.staged is not newest:
                newest, shown, pause = self.held.staged, loop.time(), LIMITS.prove_retry
            elif newest is not None and loop.time() - shown >= pause:
                shown, pause = loop.time(), min(2 * pause, LIMITS.prove_retry_max)
                self.show_again()

    async def _show(self) -> None:
        bus = self._bus
        if bus is None:
            return
        self.credentials.try_staged()
        if not bus.connected:
            bus.retry_now()
            return
        try:
            await bus.swap_certificate()
        except StageboxError as error:
            # The old identity still carries the connection; the new one is shown again later.
            log.warning("identity_not_admitted", reason=error.message)

    async def _promote(self, proved: RackIdentity) -> None:
        await self._ready.wait()  # the first connection may stand before there is a journal to sign for
        async with self._moving:
            if not any(proved is item for item in self.held.waiting):
                return  # promoted by the connection before, or replaced
            try:
                main = await asyncio.to_thread(self._store.promote, proved)
            except StageboxError as error:
                self._owner.alert("identity_not_stored", {"reason": error.message})
                return
            if main is not None:
                previous = self.held.main
                self.credentials.promoted(proved, main)
                await self._owner.proved(previous, main)
                self._owner.event("identity_renewed", _facts(previous, main))
        if main is None:
            await self.look()
        self.changed.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_logged(work), name="identity")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _logged(work: Awaitable[None]) -> None:
    try:
        await work
    except Exception as error:  # a background step: nobody awaits it, and the rack goes on with what it holds
        log.error("identity_step_failed", exc_info=error)


def _same(found: Held, held: Held) -> bool:
    def facts(identity: RackIdentity) -> object:
        return identity.flux, identity.chain, identity.public

    return [facts(identity) for identity in found.all] == [facts(identity) for identity in held.all]


def _facts(previous: RackIdentity, identity: RackIdentity) -> dict[str, Any]:
    return {
        "serial": identity.passport.serial,
        "status": identity.passport.status.value,
        "not_after": int(identity.chain[0].not_valid_after_utc.timestamp()),
        "certificate_renewed": identity.chain[0] != previous.chain[0],
        "rekeyed": identity.public != previous.public,
    }
