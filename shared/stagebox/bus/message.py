"""One message as a subscriber sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class BusMessage:
    """A received message. ``reply`` is the subject to answer on, empty if no answer is wanted.

    ``headers`` is None if the message has none, and empty if they cannot be read.
    """

    subject: str
    payload: bytes
    reply: str = ""
    headers: Mapping[str, str] | None = None

    @property
    def relayed(self) -> bool:
        """Whether it has headers: our records, requests and acks have none, JetStream's answers have.

        nats-server does not check the reply subject of a request, so whoever may ask JetStream for a message can
        have it delivered on any subject, another rack's too.
        """
        return self.headers is not None
