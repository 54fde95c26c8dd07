"""Asks the mixer: signed requests over the snake, and answers only if the pinned cluster signed them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

from stagebox import subjects
from stagebox.bus.message import BusMessage
from stagebox.control.fields import NONCE_BYTES
from stagebox.control.request import Answer, Request, Verb, open_answer
from stagebox_rack.state import RackIdentity


class RequestBus(Protocol):
    """What is needed of the bus client."""

    @property
    def connected(self) -> bool:
        """Whether a connection is up."""
        ...

    async def request(self, subject: str, payload: bytes, *, timeout: float) -> BusMessage:
        """Ask and return the answer, or raise ``BusError``."""
        ...


class MixerDesk:
    """The mixer as it answers this rack. ``identity`` gives our identity, ``heard`` takes times it signed."""

    def __init__(
        self,
        bus: RequestBus,
        identity: Callable[[], RackIdentity],
        *,
        timeout: float,
        heard: Callable[[int], None] = lambda _: None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._bus = bus
        self._identity = identity
        self._timeout = timeout
        self._heard = heard
        self._wall_ns = wall_ns

    @property
    def connected(self) -> bool:
        """Whether asking makes sense now."""
        return self._bus.connected

    async def ask(self, verb: Verb, body: dict[str, Any]) -> Answer:
        """Ask once, with a nonce of its own, and return the verified answer; it may refuse.

        Raises:
            BusError: nobody answers. DecodeError, VerificationError: the answer does not prove to be one.
        """
        identity = self._identity()
        passport = identity.passport
        request = Request(
            passport.cluster_id, passport.name, verb.value, os.urandom(NONCE_BYTES), self._wall_ns(), body
        )
        reply = await self._bus.request(
            subjects.request(passport.name, verb.value),
            request.seal(identity.key),
            timeout=self._timeout,
        )
        answer = open_answer(reply.payload, passport.cluster_public, request)
        self._heard(answer.time_ns)
        return answer
