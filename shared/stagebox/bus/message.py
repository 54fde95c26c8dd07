"""One message as a subscriber sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class BusMessage:
    """A received message. ``reply`` is the subject to answer on, empty if no answer is wanted."""

    subject: str
    payload: bytes
    reply: str = ""
    headers: Mapping[str, str] | None = None
