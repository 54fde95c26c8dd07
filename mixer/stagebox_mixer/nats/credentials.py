"""The mixer's own users on the bus: made at every start, kept in memory only."""

from __future__ import annotations

from dataclasses import dataclass

from stagebox_keys import nats_jwt
from stagebox_keys.mixer_keys import NatsKeys
from stagebox_keys.nkey import Nkey, NkeyKind


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


def _user(signing: Nkey, account: str, name: str, now_s: int) -> BusUser:
    key = Nkey.generate(NkeyKind.USER)
    token = nats_jwt.user_jwt(signing, account, key.public, name, nats_jwt.EVERYTHING, issued_s=now_s)
    return BusUser(token, key)
