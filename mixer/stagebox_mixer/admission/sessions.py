"""What each live connection was admitted as, remembered by server and client number.

nats-server keeps nothing of a callout's token but the user's name, and at a reload it asks again without the
connection's token. So the mixer remembers. What it does not know (it started after the connection) is judged by
the registry alone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from stagebox_mixer.admission.request import Session
from stagebox_mixer.admission.standing import Rights
from stagebox_mixer.limits import LIMITS


@dataclass(frozen=True)
class Known:
    """A rack's connection: its user name, the passport serial and machine it proved, the rights it got."""

    user: str
    serial: int
    machine_id: int
    rights: Rights


class Sessions:
    """The last ``limit`` sessions that were admitted or looked at."""

    def __init__(self, limit: int = LIMITS.admission_sessions) -> None:
        self._limit = limit
        self._known: OrderedDict[Session, Known] = OrderedDict()

    def remember(self, session: Session, known: Known) -> None:
        """Note what a session was admitted as."""
        self._known[session] = known
        self._known.move_to_end(session)
        if len(self._known) > self._limit:
            self._known.popitem(last=False)

    def find(self, server_id: str, client_id: int) -> Known | None:
        """Return what a session was admitted as, None if that is not known (any more)."""
        session = Session(server_id, client_id)
        known = self._known.get(session)
        if known is not None:
            self._known.move_to_end(session)  # what is looked at is alive; what is not may be forgotten first
        return known
