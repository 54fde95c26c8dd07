"""The mixer's ``WAL`` stream as the shipper sees it.

Rules: every publish names the last stream sequence of this rack's subject that it must follow
(``Nats-Expected-Last-Subject-Sequence``) and an id (``Nats-Msg-Id``). Several batches go out as one atomic
batch (ADR-50): inside a stream shared by many racks the sequence of the next message is not known until the one
before is stored, so this is the one way to pipeline without giving up the guard. A stream without
``allow_atomic`` gets one message a round trip.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stagebox.errors import BusError, StageboxError
from stagebox_rack.limits import LIMITS

STREAM = "WAL"
_NOT_FOUND = "404"
_WRONG_LAST = (10071, 10070, 10201)  # wrong last sequence, wrong last message id, duplicate id in a batch
_ATOMIC_DISABLED = 10174


class Reply(Protocol):
    """A message that came back."""

    @property
    def payload(self) -> bytes:
        """The message's data."""
        ...

    @property
    def headers(self) -> Mapping[str, str] | None:
        """The message's headers."""
        ...


class Bus(Protocol):
    """What is needed of the bus; ``stagebox.bus.BusClient`` has it."""

    def publish(self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None) -> bool:
        """Send without an answer; False when it was not sent."""
        ...

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send and wait for the answer; raises BusError when there is none."""
        ...


class SequenceMismatchError(StageboxError):
    """The stream moved on without us knowing: read it again."""


@dataclass(frozen=True)
class StoredMessage:
    """A message as the stream holds it."""

    sequence: int
    data: bytes


@dataclass(frozen=True)
class Outgoing:
    """One batch on its way: its id and its signed envelope."""

    message_id: str
    data: bytes


class WalStream:
    """The stream, for one rack's subject."""

    def __init__(self, bus: Bus, subject: str, *, timeout: float = LIMITS.wal_ship_timeout) -> None:
        self._bus = bus
        self._subject = subject
        self._timeout = timeout
        self.atomic = True

    async def last(self) -> StoredMessage | None:
        """Return the last message stored on the subject, or None.

        Raises:
            BusError: no answer, or the stream does not exist or does not allow direct reads.
        """
        reply = await self._request(f"$JS.API.DIRECT.GET.{STREAM}.{self._subject}", b"", {})
        headers = reply.headers or {}
        if headers.get("Status") == _NOT_FOUND:
            return None
        if "Nats-Sequence" not in headers or headers.get("Nats-Subject") != self._subject:
            raise BusError(f"the stream {STREAM} answered a direct read with {dict(headers)}")
        return StoredMessage(int(headers["Nats-Sequence"]), reply.payload)

    async def publish(self, messages: Sequence[Outgoing], follows: int) -> int:
        """Store ``messages`` in order right after stream sequence ``follows``; return the last one's sequence.

        More than one message is stored all or nothing.

        Raises:
            SequenceMismatchError: something else was stored after ``follows``; nothing of this was.
            BusError: refused or not answered; whether it was stored is not known.
        """
        final = messages[-1]
        headers = self._guard(follows)
        if len(messages) > 1:
            # A new id for every try: the server may still hold the start of one that broke off.
            batch = secrets.token_hex(16)
            for number, message in enumerate(messages[:-1], 1):
                head = {**_part(batch, number, message), **(headers if number == 1 else {})}
                if not self._bus.publish(self._subject, message.data, headers=head):
                    raise BusError(f"a batch on {self._subject} broke off: the bus took no more")
            headers = {**_part(batch, len(messages), final), "Nats-Batch-Commit": "1"}
        else:
            headers["Nats-Msg-Id"] = final.message_id
        reply = await self._request(self._subject, final.data, headers)
        return self._acknowledged(reply.payload)

    def _guard(self, follows: int) -> dict[str, str]:
        return {"Nats-Expected-Last-Subject-Sequence": str(follows), "Nats-Expected-Stream": STREAM}

    def _acknowledged(self, data: bytes) -> int:
        try:
            answer = json.loads(data)
            error = answer.get("error")
            sequence = 0 if error else int(answer["seq"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BusError(
                f"the stream {STREAM} answered with something that is no acknowledgement"
            ) from None
        if error:
            self._refused(error)
        if answer.get("duplicate"):
            raise SequenceMismatchError("the server holds this batch already")
        return sequence

    def _refused(self, error: Mapping[str, Any]) -> None:
        code = error.get("err_code")
        description = str(error.get("description", "no reason given"))
        if code in _WRONG_LAST:
            raise SequenceMismatchError(description)
        if code == _ATOMIC_DISABLED:
            self.atomic = False
        raise BusError(f"the stream {STREAM} refused a batch: {description}")

    async def _request(self, subject: str, data: bytes, headers: dict[str, str]) -> Reply:
        return await self._bus.request(subject, data, timeout=self._timeout, headers=headers or None)


def _part(batch: str, number: int, message: Outgoing) -> dict[str, str]:
    return {
        "Nats-Batch-Id": batch,
        "Nats-Batch-Sequence": str(number),
        "Nats-Msg-Id": message.message_id,
    }
