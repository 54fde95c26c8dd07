"""The mixer's own users on the bus: made at every start, kept in memory only."""

from __future__ import annotations

from dataclasses import dataclass

from stagebox import subjects
from stagebox_keys import nats_jwt
from stagebox_keys.mixer_keys import NatsKeys
from stagebox_keys.nkey import Nkey, NkeyKind
from stagebox_mixer.limits import LIMITS

LIVE_INBOX = subjects.inbox_prefix("mixer", "live")
"""The inbox prefix of :func:`live_user`; its permissions cover no other."""


@dataclass(frozen=True)
class BusUser:
    """A user token with its key."""

    jwt: str
    key: Nkey


def mixer_user(keys: NatsKeys, *, now_s: int) -> BusUser:
    """The mixer in account STORE, where no rack or client is: owns the streams and buckets."""
    return _user(keys.store.signing, keys.store.id, "mixer", now_s)


def system_user(keys: NatsKeys, *, now_s: int) -> BusUser:
    """The mixer in the system account: sees connections and may kick them."""
    return _user(keys.system.signing, keys.system.id, "mixer-sys", now_s)


def live_user(keys: NatsKeys, *, now_s: int) -> BusUser:
    """The mixer in account STAGEBOX, where racks and clients are: commands and announcements out,
    requests, acks, heartbeats and alerts in.

    It may answer a request on whatever reply subject that names, once: there is no pattern that covers the racks'
    inboxes and nothing else. Whoever answers therefore checks the reply subject first; see ``requests.py``.
    """
    permissions = nats_jwt.Permissions(
        publish=(subjects.ALL_COMMANDS, subjects.TRUST, subjects.BEACON, subjects.DENY_LIST),
        subscribe=(
            subjects.ALL_REQUESTS,
            subjects.ALL_ACKS,
            subjects.ALL_STATUSES,
            subjects.ALL_ALERTS,
            f"{LIVE_INBOX}.>",
        ),
        publish_deny=("rack.>", "$JS.>", "$SYS.>"),
        responses=1,
        responses_s=int(LIMITS.request_answer_s),
    )
    return _user(keys.stagebox.signing, keys.stagebox.id, "mixer-live", now_s, permissions)


def callout_user(keys: NatsKeys, *, now_s: int) -> BusUser:
    """The callout service in account AUTH; its key is the one the account's token names."""
    token = nats_jwt.user_jwt(
        keys.auth.signing,
        keys.auth.id,
        keys.callout.public,
        "callout",
        nats_jwt.EVERYTHING,
        issued_s=now_s,
    )
    return BusUser(token, keys.callout)


def _user(
    signing: Nkey,
    account: str,
    name: str,
    now_s: int,
    permissions: nats_jwt.Permissions = nats_jwt.EVERYTHING,
) -> BusUser:
    key = Nkey.generate(NkeyKind.USER)
    token = nats_jwt.user_jwt(signing, account, key.public, name, permissions, issued_s=now_s)
    return BusUser(token, key)
