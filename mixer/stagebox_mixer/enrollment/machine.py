"""The life of a one-time token as a pure state machine.

``issued`` → ``used`` happens once, by the first key that presents the token in time. The same key may come back
until the token expires (its reply was lost); any other key is refused. A token may be revoked at any time, also to
stop the key that used it from coming back. Refusals change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stagebox.errors import EnrollmentError
from stagebox_mixer.registry.model import TokenEntry, TokenState


class EnrollmentRefused(EnrollmentError):
    """An enrollment is refused; ``code`` goes to the audit and, with the message, to the rack."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


@dataclass(frozen=True)
class Redemption:
    """A token accepted: ``entry`` is what must be stored, ``repeated`` if this key used it before."""

    entry: TokenEntry
    repeated: bool


_NEW_TOKEN = "make a new one on the mixer: stagebox admin token create --rack NAME"  # noqa: S105 - a remedy


def redeem(
    entry: TokenEntry | None, *, rack_public: bytes, machine_id: int, expected_rack: str | None, now_ns: int
) -> Redemption:
    """Decide whether ``rack_public`` on ``machine_id`` may enroll with the token stored as ``entry``.

    Raises:
        EnrollmentRefused: unknown, revoked, expired, bound elsewhere, or used by another key.
    """
    if entry is None:
        raise EnrollmentRefused("unknown_token", "the enrollment token is not known here", _NEW_TOKEN)
    if entry.state is TokenState.REVOKED:
        raise EnrollmentRefused(
            "token_revoked",
            f"the enrollment token for rack {entry.rack!r} was revoked",
            _NEW_TOKEN.replace("NAME", entry.rack),
        )
    if entry.state is TokenState.USED and entry.used_by != rack_public:
        raise EnrollmentRefused(
            "token_reused",
            f"the enrollment token for rack {entry.rack!r} was already used by another key",
            f"{_NEW_TOKEN.replace('NAME', entry.rack)}; if you did not use it, somebody else did",
        )
    if now_ns >= entry.expires_at:
        raise EnrollmentRefused(
            "token_expired",
            f"the enrollment token for rack {entry.rack!r} has expired",
            _NEW_TOKEN.replace("NAME", entry.rack),
        )
    if expected_rack is not None and expected_rack != entry.rack:
        raise EnrollmentRefused(
            "other_rack",
            f"the enrollment token is for rack {entry.rack!r}, not for {expected_rack!r}",
            _NEW_TOKEN.replace("NAME", expected_rack),
        )
    if entry.machine_id not in (0, machine_id):
        raise EnrollmentRefused(
            "other_machine",
            f"the enrollment token for rack {entry.rack!r} is bound to another machine",
            "use it on the machine it was made for, or make one without --machine-id",
        )
    if entry.state is TokenState.USED:
        return Redemption(entry, repeated=True)
    return Redemption(replace(entry, state=TokenState.USED, used_by=rack_public), repeated=False)


def revoke(entry: TokenEntry) -> TokenEntry:
    """Return the token as nobody may use it any more; the key that used it is remembered."""
    return replace(entry, state=TokenState.REVOKED)
