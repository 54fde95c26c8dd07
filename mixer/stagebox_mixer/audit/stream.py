"""The stream AUDIT as the chain needs it: read a row, read the end, append behind a known row or not at all.

Several rows go as one atomic batch: the server takes all of them behind the expected row or none, and syncs once.
Single publishes in a row without waiting would not do: with another writer in between, the second could be taken
although the first was not.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nats.js import JetStreamContext
from nats.js.api import Header, PubAck
from nats.js.errors import APIError, NotFoundError

from stagebox.audit_chain import EMPTY, NO_HASH, Head, row_hash
from stagebox.errors import BusError
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.outages import explained
from stagebox_mixer.streams import AUDIT_STREAM

WHAT = "the audit"
_WRONG_LAST_SEQUENCE = (10071, 10164)


class Overtaken(BusError):
    """Somebody else appended first; nothing of ours was taken."""


@dataclass(frozen=True)
class Message:
    """A row on its way into the stream."""

    action: str
    data: bytes

    @property
    def subject(self) -> str:
        """The NATS subject."""
        return f"mixer.audit.{self.action}"


@dataclass(frozen=True)
class End:
    """The stream's end. ``lost`` is set if its newest row cannot be read any more."""

    head: Head
    lost: bool = False


class AuditStream:
    """The stream through whatever connection is live."""

    def __init__(self, jetstream: Callable[[], JetStreamContext]) -> None:
        self._jetstream = jetstream

    def connection(self) -> JetStreamContext:
        """Return the live connection; another one may lead to another stream.

        Raises:
            BusError: there is none.
        """
        return self._jetstream()

    async def last(self) -> int:
        """Return the number of the newest row, 0 if there is none.

        Raises:
            BusError: the stream cannot be reached.
        """
        with explained(WHAT):
            return int((await self._jetstream().stream_info(AUDIT_STREAM)).state.last_seq)

    async def end(self) -> End:
        """Return where the stream ends.

        Raises:
            BusError: the stream cannot be reached.
        """
        last = await self.last()
        if not last:
            return End(EMPTY)
        data = await self.row(last)
        return End(Head(last, row_hash(data))) if data is not None else End(Head(last, NO_HASH), lost=True)

    async def newest(self) -> Head:
        """Return the newest row that can be read; faster than :meth:`end`, but blind for what is lost behind it.

        Raises:
            BusError: the stream cannot be reached.
        """
        with explained(WHAT):
            try:
                message = await self._jetstream().get_last_msg(AUDIT_STREAM, "mixer.audit.>")
            except NotFoundError:
                return EMPTY
        return Head(int(message.seq or 0), row_hash(message.data or b""))

    async def row(self, seq: int) -> bytes | None:
        """Return the bytes of one row, or None if there is no such row.

        Raises:
            BusError: the stream cannot be reached.
        """
        with explained(WHAT):
            try:
                # From the leader: a replica that lags behind would show a hole that is none.
                message = await self._jetstream().get_msg(AUDIT_STREAM, seq=seq)
            except NotFoundError:
                return None
        return message.data or b""

    async def append(self, connection: JetStreamContext, messages: Sequence[Message], after: int) -> None:
        """Store ``messages`` as the rows behind row ``after``; on return they are durable.

        ``connection`` is the one on which ``after`` was learnt.

        Raises:
            Overtaken: row ``after`` is not the newest one.
            BusError: they may or may not have been stored.
        """
        send = _one if len(messages) == 1 else _batch
        with explained(WHAT):
            try:
                ack = await send(connection, messages, after)
            except APIError as error:
                if error.err_code in _WRONG_LAST_SEQUENCE:
                    raise Overtaken(
                        f"{WHAT} went on behind row {after}: other mixers were faster",
                        remedy="try again in a moment",
                    ) from None
                raise
        if ack.seq != after + len(messages):
            raise BusError(f"{WHAT} took {len(messages)} rows behind row {after}, but says {ack.seq}")


async def _one(js: JetStreamContext, messages: Sequence[Message], after: int) -> PubAck:
    return await js.publish(
        messages[0].subject,
        messages[0].data,
        timeout=LIMITS.audit_publish_s,
        stream=AUDIT_STREAM,
        headers={Header.EXPECTED_LAST_SEQUENCE.value: str(after)},
    )


async def _batch(js: JetStreamContext, messages: Sequence[Message], after: int) -> PubAck:
    # nats-py has no call for batches, and no public way from JetStream to its connection.
    connection = js._nc
    batch = secrets.token_hex(16)
    for number, message in enumerate(messages[:-1], 1):
        headers = {Header.BATCH_ID.value: batch, Header.BATCH_SEQUENCE.value: str(number)}
        if number == 1:
            headers[Header.EXPECTED_LAST_SEQUENCE.value] = str(after)
        await connection.publish(message.subject, message.data, headers=headers)
    commit = {
        Header.BATCH_ID.value: batch,
        Header.BATCH_SEQUENCE.value: str(len(messages)),
        Header.BATCH_COMMIT.value: "1",
        Header.EXPECTED_STREAM.value: AUDIT_STREAM,
    }
    answer = await connection.request(
        messages[-1].subject, messages[-1].data, timeout=LIMITS.audit_publish_s, headers=commit
    )
    try:
        fields = json.loads(answer.data)
    except ValueError:
        raise BusError(f"{WHAT} got an answer that is none of JetStream's") from None
    if "error" in fields:
        raise APIError.from_error(fields["error"])
    return PubAck.from_response(fields)
