"""Hears commands, carries out those the gate lets pass, one at a time and in order, and signs an ack for each.

Bytes that are not signed by the pinned cluster change nothing and are answered by nobody; they are an alert, folded.
The mark is durable before a command is carried out; if it cannot be written the command is not carried out.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
from nacl.signing import SigningKey

from stagebox import subjects
from stagebox.bus import BusClient, BusMessage
from stagebox.bus.subscription import Subscription
from stagebox.control.command import Ack, AckResult, Command, open_command
from stagebox.control.fields import payload_digest
from stagebox.errors import InputError, StageboxError, StorageError, VerificationError
from stagebox.tasks import end_tasks
from stagebox_rack.commands.gate import CommandGate, Judgement, Verdict
from stagebox_rack.commands.mark import CommandMark, load_mark, save_mark
from stagebox_rack.commands.refusals import RefusalFold
from stagebox_rack.limits import LIMITS, RackLimits

log = structlog.get_logger()

Handler = Callable[[Command], Awaitable[None]]
Report = Callable[[str, dict[str, Any]], None]


class CommandRefused(StageboxError):
    """What a handler raises for a command it will not carry out; ``code`` is the ack's reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CommandService:
    """The commands of one rack on one bus client.

    ``path`` is where the mark is kept (``commands.cbor`` in the state directory), ``key`` gives the identity key of the
    moment, ``publish_ack`` journals an ack and sends it live; ``event`` and ``alert`` report. A handler may not await
    :meth:`stop`.
    """

    def __init__(
        self,
        *,
        bus: BusClient,
        path: Path,
        cluster: str,
        cluster_public: bytes,
        rack: str,
        boot: bytes,
        key: Callable[[], SigningKey],
        handlers: Mapping[str, Handler],
        publish_ack: Callable[[bytes], None],
        event: Report,
        alert: Report,
        now_ns: Callable[[], int] = time.time_ns,
        limits: RackLimits = LIMITS,
    ) -> None:
        self._bus = bus
        self._path = path
        self._cluster = cluster
        self._cluster_public = cluster_public
        self._rack = rack
        self._boot = boot
        self._key = key
        self._handlers = {str(verb): handler for verb, handler in handlers.items()}
        self._publish_ack = publish_ack
        self._event = event
        self._alert = alert
        self._now_ns = now_ns
        self._limits = limits
        self._gate = CommandGate(cluster=cluster, rack=rack, mark=None, limits=limits)
        self._fold = RefusalFold()
        self._windows: dict[str, asyncio.TimerHandle] = {}
        self._refused_acks: OrderedDict[bytes, bytes] = OrderedDict()
        self._subscription: Subscription | None = None
        self._worker: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def highest(self) -> int:
        """The highest command sequence accepted: what ``sync`` reports. 0 if the mark is lost."""
        return self._gate.mark.seq if self._gate.mark is not None else 0

    @property
    def mark_lost(self) -> bool:
        """Whether every command is refused until :meth:`synced` restores the mark."""
        return self._gate.mark is None

    async def start(self) -> None:
        """Load the mark and begin to hear commands.

        Neither a damaged mark nor a server that does not let us stops the rack, only its commands.

        Raises:
            BusError: the bus client is closed.
        """
        try:
            mark = await asyncio.to_thread(load_mark, self._path, cluster=self._cluster, rack=self._rack)
        except StorageError as error:
            self._alert("command_mark_lost", {"reason": error.message})
        else:
            self._gate.keep(mark)
        self._subscription = await self._bus.subscribe(
            subjects.command(self._rack), max_messages=self._limits.commands_pending, lasting=True
        )
        self._worker = asyncio.create_task(self._work(self._subscription), name="commands")

    @property
    def running(self) -> bool:
        """Whether commands are taken."""
        return self._worker is not None and not self._worker.done()

    async def stop(self) -> None:
        """Finish the command under way, within its time, and hear no more."""
        self._stopping = True
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
        if self._worker is not None:
            await asyncio.wait({self._worker}, timeout=self._limits.command_run)
            await end_tasks([self._worker])
        for reason, window in list(self._windows.items()):
            window.cancel()
            self._close_window(reason)

    async def synced(self, command: int, time_ns: int) -> None:
        """Take the mixer's word for where commands stand, if the mark is lost; else do nothing.

        ``command`` is the ``Command`` and ``time_ns`` the ``Time`` of the mixer's verified answer to a ``sync`` that
        this process asked for; only such an answer is known to be fresh.
        """
        if not self.mark_lost:
            return
        mark = self._gate.restored(command, time_ns)
        if await self._save(mark):
            self._gate.keep(mark)
            self._event("command_mark_restored", {"seq": command})

    async def _work(self, subscription: Subscription) -> None:
        async for message in subscription:
            if self._stopping:
                return
            try:
                await self._take(message)
            except Exception as error:
                # One bad command must not end the obedience to all later ones.
                log.error("command_error", error=repr(error))

    async def _take(self, message: BusMessage) -> None:
        try:
            command, payload = open_command(message.payload, self._cluster_public)
        except InputError:
            self._report_refusal("malformed")
            return
        except VerificationError:
            self._report_refusal("signature")
            return
        digest = payload_digest(payload)
        judgement = self._gate.judge(command, digest, self._now_ns())
        match judgement.verdict:
            case Verdict.OBEY:
                await self._obey(command, digest)
            case Verdict.REPEAT:
                await self._repeat(command, digest)
            case Verdict.REFUSE:
                self._refuse(command, digest, judgement)
            case Verdict.IGNORE:
                self._report_refusal(judgement.reason)

    async def _obey(self, command: Command, digest: bytes) -> None:
        mark = self._gate.accept(command, digest)
        if not await self._save(mark):
            return  # no ack: the mixer sends it again, and then the disk may take it
        self._gate.keep(mark)
        result, reason = await self._carry_out(command)
        await self._answer(command, digest, result, reason)

    async def _carry_out(self, command: Command) -> tuple[AckResult, str]:
        detail: dict[str, Any] = {"seq": command.seq, "verb": command.verb}
        try:
            handler = self._handlers.get(command.verb)
            if handler is None:
                raise CommandRefused("unknown_verb", f"this rack does not know the command {command.verb!r}")
            async with asyncio.timeout(self._limits.command_run):
                await handler(command)
        except CommandRefused as error:
            result, reason, message = AckResult.REFUSED, error.code, error.message
        except TimeoutError:
            result, reason, message = AckResult.FAILED, "timeout", "it took too long"
        except StageboxError as error:
            result, reason, message = AckResult.FAILED, _code(error), error.message
        except Exception as error:
            log.error("command_handler_failed", verb=command.verb, exc_info=error)
            result, reason, message = AckResult.FAILED, "internal", type(error).__name__
        else:
            self._event("command_done", detail)
            return AckResult.DONE, ""
        self._alert(
            "command_failed", {**detail, "result": result.value, "reason": reason, "message": message}
        )
        return result, reason

    async def _answer(self, command: Command, digest: bytes, result: AckResult, reason: str) -> None:
        ack = self._seal(command, digest, result, reason)
        mark = self._gate.finish(ack)
        await self._save(mark)
        self._gate.keep(mark)  # also when the disk refused: while we run, a repeat gets the same ack
        self._publish_ack(ack)

    async def _repeat(self, command: Command, digest: bytes) -> None:
        mark = self._gate.mark
        if mark is not None and mark.ack:
            self._bus.publish(subjects.ack(self._rack), mark.ack)
        else:
            await self._answer(command, digest, AckResult.FAILED, "interrupted")

    def _refuse(self, command: Command, digest: bytes, judgement: Judgement) -> None:
        reason, known = judgement.reason, self._refused_acks.get(digest)
        if known is None:
            known = self._seal(command, digest, judgement.result, reason)
            # What may change is judged anew: the mark may be back, the clocks may agree by now.
            if reason not in ("mark_lost", "not_yet"):
                self._remember(digest, known)
        if self._report_refusal(reason, seq=command.seq, verb=command.verb):
            self._publish_ack(known)
        else:
            self._bus.publish(subjects.ack(self._rack), known)

    def _remember(self, digest: bytes, ack: bytes) -> None:
        self._refused_acks[digest] = ack
        while len(self._refused_acks) > self._limits.command_refusals_kept:
            self._refused_acks.popitem(last=False)

    def _seal(self, command: Command, digest: bytes, result: AckResult, reason: str) -> bytes:
        return Ack(
            cluster=self._cluster,
            rack=self._rack,
            seq=command.seq,
            command=digest,
            boot=self._boot,
            time_ns=self._now_ns(),
            result=result,
            reason=reason,
        ).seal(self._key())

    async def _save(self, mark: CommandMark) -> bool:
        try:
            await asyncio.to_thread(save_mark, self._path, mark)
        except StorageError as error:
            if self._fold.admit("storage"):
                self._alert("command_mark_not_kept", {"seq": mark.seq, "reason": error.message})
                self._open_window("storage")
            return False
        return True

    def _report_refusal(self, reason: str, **detail: Any) -> bool:
        """Raise the alert of a refusal, or only count it; return whether it was raised."""
        if not self._fold.admit(reason):
            return False
        self._alert("command_refused", {"reason": reason, "count": 1, **detail})
        self._open_window(reason)
        return True

    def _open_window(self, reason: str) -> None:
        loop = asyncio.get_running_loop()
        self._windows[reason] = loop.call_later(
            self._limits.command_refusal_window, self._close_window, reason
        )

    def _close_window(self, reason: str) -> None:
        self._windows.pop(reason, None)
        count = self._fold.close(reason)
        if count:
            self._alert("command_refused", {"reason": reason, "count": count})


def _code(error: StageboxError) -> str:
    """Return the ack's reason for an error: ``PassportError`` is ``passport_error``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
