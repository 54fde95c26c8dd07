"""Which identity to show: the newest staged one first, then older ones, then the main one. Pure but for TLS contexts.

The bus client asks for the TLS context first and then for key and secret, so all three of one attempt are of one
identity. A staged identity that has connected is proved; until then the others stay usable, and after a refusal
they take turns. A network failure is no refusal and changes nobody's turn.
"""

from __future__ import annotations

import ssl

from nacl.signing import SigningKey

from stagebox.bus import Cause, Failure
from stagebox_rack.identity.store import Held
from stagebox_rack.limits import LIMITS
from stagebox_rack.state import RackIdentity

REFUSALS = frozenset(
    {
        Cause.AUTHORIZATION_REFUSED,
        Cause.AUTHORIZATION_EXPIRED,
        Cause.CLIENT_CERTIFICATE_EXPIRED,
        Cause.CLIENT_CERTIFICATE_REFUSED,
    }
)
"""The mixer answered, and does not want this identity."""
_OTHER_TURN = REFUSALS | {Cause.TLS_HANDSHAKE, Cause.LOCAL}


class Credentials:
    """The identities held, and the providers of the bus client."""

    def __init__(self, held: Held) -> None:
        """Take what was loaded.

        Raises:
            TlsError: a certificate cannot be used.
        """
        self._held = held
        self._contexts = {id(identity): (identity, identity.tls_context()) for identity in held.all}
        self._turn = 0
        self._attempt = self._active = held.newest

    @property
    def held(self) -> Held:
        """The identities held."""
        return self._held

    @property
    def active(self) -> RackIdentity:
        """What the last connection was made with; the newest before there was one."""
        return self._active

    @property
    def serial(self) -> int:
        """The highest passport serial held."""
        return max(identity.passport.serial for identity in self._held.all)

    def context(self) -> ssl.SSLContext:
        """Begin an attempt: choose an identity and return its TLS context."""
        order = self._held.all
        self._attempt = order[self._turn % len(order)]
        return self._contexts[id(self._attempt)][1]

    def key(self) -> SigningKey:
        """Return the identity key of this attempt."""
        return self._attempt.key

    def secret(self) -> str:
        """Return the passport secret of this attempt."""
        return self._attempt.passport.secret

    def failed(self, failure: Failure) -> None:
        """The attempt made no connection."""
        if failure.cause in _OTHER_TURN:
            self._turn += 1

    def connected(self) -> RackIdentity | None:
        """The attempt made a connection; return the staged identity that is proved by that, if it was one."""
        self._active, self._turn = self._attempt, 0
        return self._attempt if any(self._attempt is item for item in self._held.waiting) else None

    def stage(self, identity: RackIdentity) -> None:
        """Take a newly staged identity: it is shown first.

        Raises:
            TlsError: its certificate cannot be used.
        """
        self._contexts[id(identity)] = (identity, identity.tls_context())
        self._hold(Held(self._held.main, (identity, *self._held.waiting)[: LIMITS.staged_identities]))

    def try_staged(self) -> None:
        """Give the newest identity the next turn."""
        self._turn = 0

    def promoted(self, proved: RackIdentity, main: RackIdentity) -> None:
        """``proved`` is the main identity now, and called ``main``; what waited longer than it is dead."""
        self._contexts[id(main)] = (main, self._contexts[id(proved)][1])
        self._attempt = main if self._attempt is proved else self._attempt
        self._active = main if self._active is proved else self._active
        place = next(index for index, item in enumerate(self._held.waiting) if item is proved)
        self._hold(Held(main, self._held.waiting[:place]))

    def replace(self, held: Held) -> None:
        """Take what another process left on disk in place of everything held.

        Raises:
            TlsError: a certificate cannot be used; what was held stays.
        """
        self._contexts.update(Credentials(held)._contexts)
        self._hold(held)

    def _hold(self, held: Held) -> None:
        self._held, self._turn = held, 0
        used = {id(identity) for identity in (*held.all, self._attempt, self._active)}
        self._contexts = {key: value for key, value in self._contexts.items() if key in used}
