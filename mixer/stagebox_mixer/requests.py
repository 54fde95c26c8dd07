"""The desk where racks' requests come in: ``rack.<name>.req.<verb>``, answered into the rack's own inbox.

Nothing is believed for the subject it came on, but it must agree with it: a request names the rack and the verb of
its subject and is answered only on ``_INBOX_rack_<name>.…`` of that same rack; what does not is refused without an
answer and audited. What a request may do is its handler's business, which verifies the signature. Rate and concurrency
are bounded for each rack, and concurrency over all of them, so that one rack cannot keep the others waiting; what is
over the bounds is refused unread, and the rack asks again.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import structlog

from stagebox import subjects
from stagebox.bus import BusClient, BusMessage
from stagebox.bus.subscription import Subscription
from stagebox.control.request import ReceivedRequest, Verb
from stagebox.errors import InputError, StageboxError, VerificationError
from stagebox.subjects import Kind
from stagebox_mixer.audit import Audit, Row
from stagebox_mixer.limits import LIMITS, MixerLimits
from stagebox_mixer.source_rate import SourceRate

log = structlog.get_logger()

QUEUE = "requests"
_PIECES = f".{Verb.MODULE.value}"
_INBOX_REST = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")

Handler = Callable[[bytes, str], Awaitable[bytes]]
"""Takes the request's envelope and who sent it (``rack:<name>``); returns the answer's envelope."""


class RequestRefused(VerificationError):
    """A request is not even looked at; ``code`` goes to the audit."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def check_request(subject: str, reply: str, data: bytes) -> tuple[str, Verb]:
    """Return rack and verb of a request whose envelope, subject and reply subject agree; its signature is not checked.

    Raises:
        RequestRefused: they do not agree, or something is malformed.
    """
    try:
        parsed = subjects.parse(subject)
        if parsed.kind is not Kind.REQUEST:
            raise InputError(f"{subject!r} is no request's subject")
        request = ReceivedRequest.parse(data).request
    except InputError as error:
        raise RequestRefused("malformed", error.message) from None
    prefix = f"{subjects.inbox_prefix('rack', parsed.rack)}."
    if not reply.startswith(prefix) or not _INBOX_REST.fullmatch(reply, len(prefix)):
        raise RequestRefused(
            "reply_subject", f"{reply!r} is not in the private inbox of rack {parsed.rack!r}"
        )
    if request.rack != parsed.rack:
        raise RequestRefused("other_rack", f"a request of rack {request.rack!r} came on {subject!r}")
    if request.verb != parsed.leaf:
        raise RequestRefused("other_verb", f"a request for {request.verb!r} came on {subject!r}")
    try:
        return parsed.rack, Verb(request.verb)
    except ValueError:
        raise RequestRefused("unknown_verb", f"this mixer does not know the verb {request.verb!r}") from None


class RequestDesk:
    """Takes requests from ``bus``, a connection of ``credentials.live_user``, to their handlers."""

    def __init__(
        self,
        *,
        bus: BusClient,
        audit: Audit,
        handlers: Mapping[Verb, Handler],
        limits: MixerLimits = LIMITS,
    ) -> None:
        self._bus = bus
        self._audit = audit
        self._handlers = dict(handlers)
        self._limits = limits
        self._rate = SourceRate(
            per_s=limits.requests_per_s, burst=limits.requests_burst, max_sources=limits.requests_racks
        )
        # Files come in many pieces, and must not use up what a rack may ask besides.
        self._pieces = SourceRate(
            per_s=limits.requests_modules_per_s,
            burst=limits.requests_modules_burst,
            max_sources=limits.requests_racks,
        )
        self._slots = asyncio.Semaphore(limits.requests_at_once)
        self._of_rack: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None
        self.answered = self.refused = self.failed = 0

    async def start(self) -> None:
        """Begin to take requests; several mixers share them.

        Raises:
            BusError: the server does not let us.
        """
        self._subscription = await self._bus.subscribe(subjects.ALL_REQUESTS, self._on_request, queue=QUEUE)

    async def stop(self) -> None:
        """Take no more, answer those under way."""
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
            self._subscription = None
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_request(self, message: BusMessage) -> None:
        rack = message.subject.split(".")[1]
        if message.relayed:
            # Before the rate: another rack, by way of JetStream, must not use up what this one may ask.
            self._refuse(rack, RequestRefused("relayed", "the rack did not send this itself"))
            return
        rate = self._pieces if message.subject.endswith(_PIECES) else self._rate
        if rate.wait_s(rack, time.monotonic()):
            self._refuse(rack, RequestRefused("too_many_requests", "the rack asks too often"))
            return
        if (
            len(self._tasks) >= self._limits.requests_waiting
            or self._of_rack[rack] >= self._limits.requests_per_rack
        ):
            self._refuse(rack, RequestRefused("busy", "too many requests at once"))
            return
        self._of_rack[rack] += 1
        task = asyncio.create_task(self._handle(rack, message), name="rack-request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, rack: str, message: BusMessage) -> None:
        try:
            async with self._slots:
                await self._answer(message)
        except RequestRefused as refusal:
            self._refuse(rack, refusal)
        except StageboxError as error:
            # No answer is the answer: the rack asks again, and nothing of it depends on ours.
            self.failed += 1
            log.warning("request_failed", rack=rack, subject=message.subject, error=error.message)
        except Exception as error:
            # One bad request must not end the desk that answers all others; the rack asks again.
            self.failed += 1
            log.error("request_error", rack=rack, subject=message.subject, error=repr(error))
        finally:
            self._of_rack[rack] -= 1
            if not self._of_rack[rack]:
                del self._of_rack[rack]

    async def _answer(self, message: BusMessage) -> None:
        rack, verb = check_request(message.subject, message.reply, message.payload)
        handler = self._handlers.get(verb)
        if handler is None:
            raise RequestRefused("unknown_verb", f"nobody here answers {verb.value!r}")
        answer = await handler(message.payload, f"rack:{rack}")
        if self._bus.publish(message.reply, answer):
            self.answered += 1
        else:
            self.failed += 1
            log.warning("answer_not_sent", rack=rack, verb=verb.value)

    def _refuse(self, rack: str, refusal: RequestRefused) -> None:
        self.refused += 1
        detail: dict[str, str | int] = {"message": refusal.message[: self._limits.refusal_message_chars]}
        self._audit.refused(Row(f"rack:{rack}", "request", rack, "refused", refusal.code, detail=detail))
