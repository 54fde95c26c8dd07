"""Which identity is shown: staged first, main when it is refused, never half of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from nacl.signing import SigningKey

from stagebox.bus import Cause, Failure
from stagebox_rack.identity.credentials import REFUSALS, Credentials
from support.issuer import Issuer


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    """A rack with a staged, rekeyed identity."""
    issuer = Issuer()
    store = issuer.enroll(tmp_path / "state")
    store.stage(store.open(), issuer.issue(SigningKey.generate()))
    return Credentials(store.open())


def shown(credentials: Credentials) -> int:
    """Make an attempt; return the serial of the passport that was shown."""
    context, key, secret = credentials.context(), credentials.key(), credentials.secret()
    identity = next(held for held in credentials.held.all if held.key == key)
    assert secret == identity.passport.secret
    assert context is credentials.context() or credentials.key() != key
    return identity.passport.serial


def test_the_staged_identity_is_shown_first_and_stays_shown_while_the_network_fails(
    credentials: Credentials,
) -> None:
    for cause in (Cause.TIMED_OUT, Cause.CONNECTION_REFUSED, Cause.SERVER_CERTIFICATE_EXPIRED):
        assert shown(credentials) == 2
        credentials.failed(Failure(cause, ""))
    assert shown(credentials) == 2


@pytest.mark.parametrize("cause", sorted(REFUSALS))
def test_after_a_refusal_the_two_take_turns(credentials: Credentials, cause: Cause) -> None:
    seen = []
    for _ in range(4):
        seen.append(shown(credentials))
        credentials.failed(Failure(cause, ""))
    assert seen == [2, 1, 2, 1]


def test_a_staged_identity_that_connects_is_proved_and_the_main_one_is_not_dropped_before(
    credentials: Credentials,
) -> None:
    staged = credentials.held.staged
    shown(credentials)
    assert credentials.held.main.passport.serial == 1
    assert credentials.connected() is staged
    assert credentials.active is staged
    assert credentials.held.main.passport.serial == 1


def test_the_main_identity_that_connects_proves_nothing_of_the_staged_one(credentials: Credentials) -> None:
    shown(credentials)
    credentials.failed(Failure(Cause.AUTHORIZATION_REFUSED, ""))
    assert shown(credentials) == 1
    assert credentials.connected() is None
    assert credentials.active is credentials.held.main
    assert credentials.held.newest is credentials.held.staged
    assert shown(credentials) == 2  # at the next reconnect it has another chance


def test_all_that_wait_have_their_turn_and_what_waited_longer_than_a_proved_one_is_dead(
    tmp_path: Path,
) -> None:
    issuer = Issuer()
    store = issuer.enroll(tmp_path / "state")
    for _ in range(3):
        held = store.open()
        store.stage(held, issuer.issue(held.main.key))
    credentials = Credentials(store.open())
    seen = []
    for _ in range(4):
        credentials.context()
        seen.append(credentials.secret())
        credentials.failed(Failure(Cause.AUTHORIZATION_REFUSED, ""))
    assert seen == ["secret-4", "secret-3", "secret-2", "secret-1"]
    credentials.context()
    credentials.failed(Failure(Cause.AUTHORIZATION_REFUSED, ""))
    credentials.context()
    proved = credentials.connected()
    assert proved is not None
    main = store.promote(proved)
    assert main is not None
    credentials.promoted(proved, main)
    assert [identity.passport.serial for identity in credentials.held.all] == [4, 3]
    assert [identity.passport.serial for identity in store.open().all] == [4, 3]
