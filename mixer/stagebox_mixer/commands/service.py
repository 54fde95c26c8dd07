"""Sends commands and hears their acks.

Order of writes: the sequence is taken in the registry (compare-and-set), the audit row is written, then the
command is sent, again each second until a verified ack or the command's end. A crash in between leaves a sequence
unused, never one used twice. An ack changes nothing but the fate of the command it names.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from stagebox import envelope, subjects
from stagebox.bus import BusClient, BusMessage
from stagebox.bus.subscription import Subscription
from stagebox.control.command import Ack, AckResult
from stagebox.errors import BusError, InputError, StageboxError, VerificationError
from stagebox.identity import check_name
from stagebox_keys.authority import ClusterAuthority
from stagebox_mixer.audit import Audit, Row
from stagebox_mixer.commands.outbox import AckRefused, Outbox, Outgoing, issue, numbered
from stagebox_mixer.limits import LIMITS, MixerLimits
from stagebox_mixer.registry.model import RackEntry
from stagebox_mixer.registry.store import Conflict, Registry

log = structlog.get_logger()
_NS = 1_000_000_000
_RESULTS = {AckResult.DONE: "ok", AckResult.REFUSED: "refused", AckResult.FAILED: "failed"}


class CommandUnanswered(BusError):
    """No ack came in time. The rack may have carried the command out all the same."""

    def __init__(self, rack: str, why: str) -> None:
        super().__init__(
            f"rack {rack!r} {why}",
            remedy="see whether it is connected with `stagebox admin racks show`, then give the command again",
        )


class Commands:
    """The one sender of commands of this mixer; ``bus`` is a connection of ``credentials.live_user``."""

    def __init__(
        self,
        *,
        bus: BusClient,
        authority: ClusterAuthority,
        cluster: str,
        registry: Registry,
        audit: Audit,
        now_ns: Callable[[], int] = time.time_ns,
        limits: MixerLimits = LIMITS,
    ) -> None:
        self._bus = bus
        self._authority = authority
        self._cluster = cluster
        self._registry = registry
        self._audit = audit
        self._now_ns = now_ns
        self._limits = limits
        self._outbox = Outbox(
            cluster=cluster,
            resend_s=limits.command_resend_s,
            grace_s=limits.command_ack_grace_s,
            settled=limits.acks_remembered,
        )
        self._last_issued = 0
        self._waiters: dict[str, asyncio.Future[Ack]] = {}
        self._lanes: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._queued: Counter[str] = Counter()
        self._subscription: Subscription | None = None
        self.sent = self.answered = self.unanswered = 0

    @property
    def outstanding(self) -> int:
        """How many commands wait for their ack."""
        return len(self._outbox)

    async def start(self) -> None:
        """Begin to hear acks.

        Raises:
            BusError: the server does not let us.
        """
        self._subscription = await self._bus.subscribe(
            subjects.ALL_ACKS, self._on_ack, max_messages=self._limits.acks_pending
        )

    async def stop(self) -> None:
        """End; who still waits for an ack gets :class:`CommandUnanswered`."""
        for rack, waiter in list(self._waiters.items()):
            if not waiter.done():
                waiter.set_exception(CommandUnanswered(rack, "had not answered when the mixer stopped"))
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
            self._subscription = None

    async def send(
        self,
        rack: str,
        verb: str,
        args: Mapping[str, Any] | None = None,
        *,
        actor: str,
        ttl_s: float | None = None,
    ) -> Ack:
        """Give one command and return the rack's verified ack, whatever it says. Commands to one rack go in turn.

        Raises:
            InputError: no such rack, it was removed, or the command cannot be made.
            CommandUnanswered: no ack in time. BusError: the registry, the audit or the bus is down; nothing was sent.
        """
        check_name("rack", rack)
        life = self._limits.command_ttl_s if ttl_s is None else ttl_s
        if not 0 < life <= self._limits.command_max_ttl_s:
            raise InputError(f"a command cannot live {life:g} s", remedy="at most 24 hours, usually 30 s")
        if self._queued[rack] >= self._limits.commands_waiting_per_rack:
            raise BusError(
                f"{self._queued[rack]} commands wait for rack {rack!r} already",
                remedy="wait until it answers them, or until they expire",
            )
        lane = self._lanes.setdefault(rack, asyncio.Lock())
        self._queued[rack] += 1
        try:
            async with lane:
                outgoing = await self._issue(rack, verb, args or {}, actor, life)
                return await self._carry(outgoing, actor)
        finally:
            self._queued[rack] -= 1
            if not self._queued[rack]:
                del self._queued[rack]

    async def _issue(
        self, rack: str, verb: str, args: Mapping[str, Any], actor: str, life_s: float
    ) -> Outgoing:
        entry = await self._take_sequence(rack)
        # Racks obey no command issued before another, so a clock that steps back must not show.
        self._last_issued = max(self._now_ns(), self._last_issued + 1)
        command = issue(
            entry,
            cluster=self._cluster,
            verb=str(verb),
            args=args,
            now_ns=self._last_issued,
            ttl_ns=int(life_s * _NS),
        )
        outgoing = Outgoing(command, self._authority.seal(envelope.DOMAIN_COMMAND, command.encode()))
        await self._audit.record(Row(actor, "command", rack, "ok", detail=_detail(outgoing)))
        return outgoing

    async def _take_sequence(self, rack: str) -> RackEntry:
        while True:
            stored = await self._registry.racks.get(rack)
            if stored is None:
                raise InputError(f"no rack {rack!r} is registered", remedy="stagebox admin racks list")
            entry = numbered(stored.entry)
            try:
                await self._registry.racks.put(rack, entry, revision=stored.revision)
            except Conflict:
                continue  # decide again on what the other one wrote
            return entry

    async def _carry(self, outgoing: Outgoing, actor: str) -> Ack:
        rack, loop = outgoing.command.rack, asyncio.get_running_loop()
        waiter: asyncio.Future[Ack] = loop.create_future()
        self._outbox.put(outgoing, loop.time())
        self._waiters[rack] = waiter
        self.sent += 1
        try:
            while self._outbox.on_its_way(outgoing) and not self._outbox.given_up(rack, loop.time()):
                data = self._outbox.due(rack, loop.time())
                if data is not None:
                    self._bus.publish(subjects.command(rack), data)  # not sent: it is again in a second
                await asyncio.wait({waiter}, timeout=max(0.0, self._outbox.wakes_at(rack) - loop.time()))
            if not self._outbox.on_its_way(outgoing):
                return await waiter  # answered; the ack is being recorded
        finally:
            del self._waiters[rack]
            if self._outbox.on_its_way(outgoing):
                self.unanswered += 1
                self._outbox.abandon(outgoing)
        await self._record_quietly(
            Row(actor, "command", rack, "failed", "unanswered", detail=_detail(outgoing))
        )
        life = (outgoing.command.expires - outgoing.command.issued) / _NS
        raise CommandUnanswered(
            rack, f"did not answer command {outgoing.command.seq} ({outgoing.command.verb}) within {life:g} s"
        )

    async def _on_ack(self, message: BusMessage) -> None:
        rack = message.subject.split(".")[1]
        try:
            await self._take_ack(rack, message.payload)
        except AckRefused as refusal:
            detail: dict[str, str | int] = {"message": refusal.message[: self._limits.refusal_message_chars]}
            self._audit.refused(
                Row(f"rack:{rack}", "command_ack", rack, "refused", refusal.code, detail=detail)
            )
        except StageboxError as error:
            # The registry is away: the command is sent again, and so is this ack.
            log.warning("command_ack_not_checked", rack=rack, error=error.message)

    async def _take_ack(self, rack: str, data: bytes) -> None:
        try:
            ack = Ack.decode(envelope.split(data)[0])  # whose it is says the signature, below
        except InputError as error:
            raise AckRefused("malformed", error.message) from None
        outgoing = self._outbox.examine(rack, ack)
        if outgoing is None:
            return
        entry = await self._registry.rack(rack)
        _verify(data, entry)
        late = not self._outbox.on_its_way(outgoing)
        self._outbox.answered(outgoing)
        self.answered += 1
        detail = {**_detail(outgoing), "late": int(late)}
        waiter = None if late else self._waiters.get(rack)
        try:
            await self._record_quietly(
                Row(f"rack:{rack}", "command_ack", rack, _RESULTS[ack.result], ack.reason, detail=detail)
            )
        finally:
            if waiter is not None and not waiter.done():
                waiter.set_result(ack)

    async def _record_quietly(self, row: Row) -> None:
        """Record what has already happened at the rack: that cannot be held back until the audit is there."""
        try:
            await self._audit.record(row)
        except StageboxError as error:
            log.error("audit_write_failed", action=row.action, error=error.message)


def _verify(data: bytes, entry: RackEntry | None) -> None:
    try:
        if entry is not None:
            envelope.open_by_any(envelope.DOMAIN_ACK, data, entry.keys)
            return
    except VerificationError:
        pass
    raise AckRefused("signature", "the ack is not signed by a key of this rack")


def _detail(outgoing: Outgoing) -> dict[str, str | int]:
    command = outgoing.command
    # Never the arguments: a passport carries its secret.
    return {"verb": command.verb, "seq": command.seq, "command": outgoing.digest.hex()}
