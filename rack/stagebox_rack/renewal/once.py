"""One renewal from outside the running rack: what ``stagebox rack renew``, and so the systemd timer, does.

The new identity is only staged. The running rack notices, shows it to the mixer and promotes it when it is admitted;
if none runs, the next one does.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import time
from dataclasses import dataclass

from nacl.signing import SigningKey

from stagebox.control.fields import NONCE_BYTES
from stagebox.errors import BusError, StageboxError
from stagebox_rack import state
from stagebox_rack.identity.lock import locked
from stagebox_rack.identity.store import Held, IdentityStore, Issued
from stagebox_rack.renewal import exchange, https, operator_command
from stagebox_rack.renewal.exchange import RenewalRefused
from stagebox_rack.renewal.schedule import due_at
from stagebox_rack.renewal.service import RenewalPolicy, life_of, trust_serial
from stagebox_rack.state import RackIdentity


@dataclass(frozen=True)
class Outcome:
    """What became of it. Times are seconds since the Unix epoch."""

    rack: str
    renewed: bool
    serial: int
    not_after: int
    due: int


def renew_once(
    store: IdentityStore, policy: RenewalPolicy, *, force: bool = False, rekey: bool = False
) -> Outcome:
    """Renew if it is due, or ``force`` says so; stage what comes. Blocking, so that Ctrl-C ends it at once.

    Raises:
        PassportError: not enrolled. InUseError: a renewal is under way. StageboxError: it failed; what was held
        still is.
    """
    state.require_enrolled(store.paths)
    state.require_owner(store.paths)
    with locked(store.paths.renewal_lock):
        held = store.open()
        if not force and time.time() < due_at(life_of(held.newest), 0.0):
            return _outcome(held.newest, renewed=False)
        if rekey and held.staged is not None:
            raise BusError(
                "an identity waits to be proved to the mixer: the next key comes after it",
                remedy="run the rack until it has connected, then rekey",
            )
        if policy.command:
            issued = _by_command(held, policy)
        else:
            issued = _over_https(store, held, policy, rekey or policy.rekey)
        return _outcome(store.stage(held, issued), renewed=True)


def _by_command(held: Held, policy: RenewalPolicy) -> Issued:
    pem = asyncio.run(operator_command.run(policy.command, held.newest, timeout=policy.command_timeout))
    return exchange.accept_operator_chain(pem, held=held.newest, now=_now())


def _over_https(store: IdentityStore, held: Held, policy: RenewalPolicy, rekey: bool) -> Issued:
    refusal: StageboxError | None = None
    for presented in held.all:
        asked = exchange.begin(
            presented,
            new_key=SigningKey.generate() if rekey and held.staged is None else None,
            nonce=os.urandom(NONCE_BYTES),
            now_ns=time.time_ns(),
        )
        serial = trust_serial(store.paths, presented)

        def accept(data: bytes, asked: exchange.Exchange = asked, serial: int = serial) -> Issued:
            return exchange.accept(
                asked, data, held=held, machine_id=store.machine_id, trust_serial=serial, now=_now()
            )

        try:
            return https.renew(policy.mixers(presented), held.main.roots_pem, asked.data, accept)
        except RenewalRefused as error:
            refusal = refusal or error  # of the newest one held: it says more
    assert refusal is not None
    raise refusal


def _outcome(identity: RackIdentity, *, renewed: bool) -> Outcome:
    life = life_of(identity)
    return Outcome(
        identity.passport.name, renewed, identity.passport.serial, int(life.ends), int(due_at(life, 0.0))
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
