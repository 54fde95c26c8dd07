"""Ends live connections that would not be admitted again: banned, removed, with rights or an identity of before.

Whoever changes a rack's standing calls :meth:`Enforcer.soon`. It looks at once, and again a second later: a
connection that was being admitted while the change was written is there by then. Besides, everything is looked
at every few seconds, so that nothing rests on one message; a look that fails is logged and taken again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from stagebox.control.denylist import DenyList
from stagebox.errors import StageboxError
from stagebox.tasks import end_tasks
from stagebox_mixer.admission.sessions import Known, Sessions
from stagebox_mixer.admission.standing import Refused, Rights, check_client, check_rack, rights_of
from stagebox_mixer.connections import Connections, LiveConnection
from stagebox_mixer.denial import Denials
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import RackEntry
from stagebox_mixer.registry.store import Registry

log = structlog.get_logger()

SUPERSEDED = "superseded"
_RACK, _CLIENT = "rack:", "client:"
RIGHTS = "rights"

# A rack that is told moves to a new connection by itself, without a gap; only one that does not is cut off.
_GRACES = {SUPERSEDED: "superseded_grace_s", RIGHTS: "rights_grace_s"}


def rack_of(connection: LiveConnection) -> str | None:
    """Return the name of the rack a connection is admitted as, None if it is not a rack's."""
    return connection.user.removeprefix(_RACK) if connection.user.startswith(_RACK) else None


def ban_on(connection: LiveConnection, denied: DenyList, known: Known | None = None) -> bool:
    """Tell whether a ban hits what is known of a connection without asking the registry. Pure."""
    certificates = (connection.certificate,) if connection.certificate else ()
    hit = denied.matches(
        rack=rack_of(connection),
        machine_id=known.machine_id if known is not None else None,
        certificates=certificates,
    )
    return hit is not None


def must_end(
    connection: LiveConnection, known: Known | None, entry: RackEntry | None, denied: DenyList
) -> str | None:
    """Return why a connection must not stay, None if it may. Pure; ``entry`` is its rack's.

    The mixer's own users, which are neither racks nor clients, are not looked at. A session that is not ``known``
    stays if the rack has full rights and the connection one of its certificates.
    """
    name = rack_of(connection)
    try:
        if name is None:
            if connection.user.startswith(_CLIENT):
                check_client(connection.certificate, denied)
            return None
        entry = check_rack(name, connection.certificate, entry, denied)
    except Refused as refusal:
        return refusal.code
    if ban_on(connection, denied, known):
        return "denied"
    if rights_of(entry) is Rights.LIMITED and (known is None or known.rights is Rights.FULL):
        return RIGHTS
    if known is None:
        waiting = entry.pending.certificate if entry.pending is not None else entry.certificate
        return None if connection.certificate in ("", entry.certificate, waiting) else SUPERSEDED
    # A serial above all issued tells that the registry is an older copy; the rack's own report repairs that.
    return SUPERSEDED if known.serial < entry.serial else None


class Enforcer:
    """Looks at the live connections and ends those that must not stay. ``ended`` counts them."""

    def __init__(
        self,
        *,
        connections: Connections,
        registry: Registry,
        denials: Denials,
        sessions: Sessions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections = connections
        self._registry = registry
        self._denials = denials
        self._sessions = sessions
        self._clock = clock
        self._leaving: dict[tuple[str, int], float] = {}
        self._again: dict[str | None, asyncio.Task[None]] = {}
        self._asked: set[str | None] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.ended = 0
        self.failures = 0

    async def enforce(self, rack: str | None = None) -> int:
        """Look at the connections of ``rack``, or at all; return how many were ended.

        Raises:
            StageboxError: not everything could be looked at. What was seen and must end was ended.
        """
        return await (self._all() if rack is None else self._one(rack))

    def soon(self, rack: str | None = None) -> None:
        """Look now and again in a second, without waiting for it; repeated until it succeeds."""
        self._spawn(self._attempt(rack))
        if rack in self._again:
            self._asked.add(rack)
        else:
            self._again[rack] = self._spawn(self._look_again(rack))

    async def run(self) -> None:
        """Look at everything every few seconds, for ever."""
        while True:
            try:
                await self._denials.heal()
            except StageboxError as error:
                log.warning("deny_list_not_compared", error=error.message)
            succeeded = await self._attempt(None)
            await asyncio.sleep(LIMITS.enforce_every_s if succeeded else LIMITS.enforce_again_s)

    async def close(self) -> None:
        """End the looks under way."""
        await end_tasks(self._tasks)

    async def _look_again(self, rack: str | None) -> None:
        while True:
            self._asked.discard(rack)
            await asyncio.sleep(LIMITS.enforce_again_s)
            if await self._attempt(rack) and rack not in self._asked:
                del self._again[rack]
                return

    async def _attempt(self, rack: str | None) -> bool:
        try:
            await self.enforce(rack)
        except StageboxError as error:
            self.failures += 1
            log.warning("enforcement_failed", rack=rack, error=error.message)
            return False
        return True

    async def _one(self, rack: str) -> int:
        entry, denied = await asyncio.gather(self._registry.rack(rack), self._denials.read())
        return await self._connections.kick(
            lambda connection: self._judge(connection, entry, denied), user=f"{_RACK}{rack}"
        )

    async def _all(self) -> int:
        denied = await self._denials.read()
        seen: dict[tuple[str, int], LiveConnection] = {}

        def banned(connection: LiveConnection) -> bool:
            if not ban_on(connection, denied, self._known(connection)):
                seen[_key(connection)] = connection
                return False
            self._count(connection, "denied")
            return True

        failure: StageboxError | None = None
        ended = 0
        try:
            ended = await self._connections.kick(banned)
        except StageboxError as error:
            failure = error
        ended += await self._by_registry(list(seen.values()), denied)
        if failure is not None:
            raise failure
        self._leaving = {key: since for key, since in self._leaving.items() if key in seen}
        return ended

    async def _by_registry(self, seen: list[LiveConnection], denied: DenyList) -> int:
        reads = asyncio.Semaphore(LIMITS.enforce_reads)

        async def entry_of(name: str) -> tuple[str, RackEntry | None]:
            async with reads:
                return name, await self._registry.rack(name)

        names = {name for connection in seen if (name := rack_of(connection)) is not None}
        entries = dict(await asyncio.gather(*(entry_of(name) for name in names)))
        must = [c for c in seen if self._judge(c, entries.get(rack_of(c) or ""), denied)]
        return sum(await asyncio.gather(*(self._connections.end(connection) for connection in must)))

    def _judge(self, connection: LiveConnection, entry: RackEntry | None, denied: DenyList) -> bool:
        reason = must_end(connection, self._known(connection), entry, denied)
        if reason in _GRACES:
            now = self._clock()
            since = self._leaving.setdefault(_key(connection), now)
            if now - since < getattr(LIMITS, _GRACES[reason]):
                return False
        if reason is not None:
            self._count(connection, reason)
        return reason is not None

    def _known(self, connection: LiveConnection) -> Known | None:
        known = self._sessions.find(connection.server_id, connection.cid)
        return known if known is not None and known.user == connection.user else None

    def _count(self, connection: LiveConnection, reason: str) -> None:
        self.ended += 1
        self._leaving.pop(_key(connection), None)
        log.info("connection_ended", user=connection.user, client_id=connection.cid, reason=reason)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name="enforcement")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _key(connection: LiveConnection) -> tuple[str, int]:
    return connection.server_id, connection.cid
