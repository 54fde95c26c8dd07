"""Which live connections must end, and that a look which fails is taken again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from stagebox.control.denylist import DenyList, denied
from stagebox.errors import BusError
from stagebox.passport import PassportStatus
from stagebox_mixer.admission import enforcement
from stagebox_mixer.admission.enforcement import Enforcer, must_end
from stagebox_mixer.admission.request import Session
from stagebox_mixer.admission.sessions import Known, Sessions
from stagebox_mixer.admission.standing import Rights
from stagebox_mixer.connections import Connections, LiveConnection
from stagebox_mixer.denial import Denials
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import PendingIssue, RackEntry
from stagebox_mixer.registry.store import Registry

LEAF, REGISTERED, WAITING = ("sha256:" + digit * 64 for digit in "123")
NOBODY = DenyList("flux-test")
ENTRY = RackEntry(
    "stage-left", "default", 1, bytes(32), PassportStatus.ACTIVE, 4, bytes(32), REGISTERED, 1, 1
)
PENDING = PendingIssue(bytes(32), bytes(32), 5, 1, 0, WAITING, b"", 1, bytes(32))
RACK = LiveConnection("NA", 7, "rack:stage-left", LEAF)
PERSON = LiveConnection("NA", 8, "client:viewer:desk", LEAF)
KNOWN = Known("rack:stage-left", 4, 1, Rights.FULL)


def banning(kind: str, value: str) -> DenyList:
    return NOBODY.with_denied(denied(kind, value), now_ns=1)


def test_a_rack_in_good_standing_stays() -> None:
    renewing = replace(ENTRY, pending=PENDING)
    assert must_end(RACK, KNOWN, ENTRY, NOBODY) is None
    assert must_end(RACK, KNOWN, renewing, NOBODY) is None
    assert must_end(RACK, replace(KNOWN, serial=5), renewing, NOBODY) is None
    assert must_end(RACK, KNOWN, ENTRY, banning("rack", "stage-right")) is None


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("rack", "stage-left"),
        ("machine", f"{1:016x}"),
        ("certificate", LEAF),
        ("certificate", REGISTERED),
        ("certificate", WAITING),
    ],
)
def test_a_ban_of_anything_that_is_the_racks_ends_it(kind: str, value: str) -> None:
    assert must_end(RACK, KNOWN, replace(ENTRY, pending=PENDING), banning(kind, value)) == "denied"


def test_the_machine_a_connection_was_admitted_on_counts_also_when_the_registry_names_another() -> None:
    elsewhere = replace(ENTRY, machine_id=2)
    assert must_end(RACK, KNOWN, elsewhere, banning("machine", f"{1:016x}")) == "denied"
    assert must_end(RACK, KNOWN, elsewhere, banning("machine", f"{2:016x}")) == "denied"
    assert enforcement.ban_on(RACK, banning("machine", f"{1:016x}"), KNOWN)
    assert not enforcement.ban_on(RACK, banning("machine", f"{2:016x}"), KNOWN)


def test_a_rack_that_is_not_or_no_longer_registered_is_ended() -> None:
    assert must_end(RACK, KNOWN, None, NOBODY) == "unknown_rack"
    assert must_end(RACK, KNOWN, replace(ENTRY, removed_at=1), NOBODY) == "removed"


@pytest.mark.parametrize("status", [PassportStatus.PENDING, PassportStatus.SUSPENDED])
def test_full_rights_end_with_the_status_that_gave_them(status: PassportStatus) -> None:
    entry = replace(ENTRY, status=status)
    assert must_end(RACK, KNOWN, entry, NOBODY) == "rights"
    assert must_end(RACK, replace(KNOWN, rights=Rights.LIMITED), entry, NOBODY) is None
    assert must_end(RACK, None, entry, NOBODY) == "rights"  # what it has is not known


def test_a_session_of_an_older_passport_is_superseded() -> None:
    assert must_end(RACK, KNOWN, replace(ENTRY, serial=5), NOBODY) == "superseded"
    # Higher than any issue on record: the record is the older one.
    assert must_end(RACK, replace(KNOWN, serial=9), ENTRY, NOBODY) is None


def test_a_session_from_before_this_mixer_started_is_judged_by_its_certificate() -> None:
    for certificate in (REGISTERED, WAITING, ""):
        connection = replace(RACK, certificate=certificate)
        assert must_end(connection, None, replace(ENTRY, pending=PENDING), NOBODY) is None
    assert must_end(RACK, None, ENTRY, NOBODY) == "superseded"


def test_a_persons_connection_ends_by_certificate_and_nothing_else() -> None:
    assert must_end(PERSON, None, None, NOBODY) is None
    assert must_end(PERSON, None, None, banning("rack", "desk")) is None
    assert must_end(PERSON, None, None, banning("certificate", LEAF)) == "denied"


def test_the_mixers_own_connections_are_let_alone() -> None:
    own = LiveConnection("NA", 9, "mixer-live", "")
    assert must_end(own, None, None, banning("rack", "mixer-live")) is None


def test_the_session_least_lately_looked_at_is_forgotten_first() -> None:
    sessions = Sessions(limit=2)
    for number in (1, 2):
        sessions.remember(Session("NA", number), KNOWN)
    assert sessions.find("NA", 1) == KNOWN
    sessions.remember(Session("NB", 1), KNOWN)
    assert sessions.find("NA", 2) is None
    assert sessions.find("NA", 1) == sessions.find("NB", 1) == KNOWN
    assert sessions.find("NB", 2) is None


class Servers:
    """Stands in for the servers, the registry and the deny list."""

    def __init__(self, *live: LiveConnection) -> None:
        self.live = list(live)
        self.entries = {"stage-left": ENTRY}
        self.bans = NOBODY
        self.failures = 0
        self.looks: list[str | None] = []

    async def kick(self, match: Callable[[LiveConnection], bool], *, user: str | None = None) -> int:
        self.looks.append(user)
        ended = [item for item in self.live if user in (None, item.user) and match(item)]
        self.live = [item for item in self.live if item not in ended]
        if self.failures:
            self.failures -= 1
            raise BusError("1 of 2 servers said who is connected")
        return len(ended)

    async def end(self, connection: LiveConnection) -> bool:
        self.live.remove(connection)
        return True

    async def rack(self, name: str) -> RackEntry | None:
        return self.entries.get(name)

    async def read(self) -> DenyList:
        return self.bans

    async def heal(self) -> None:
        pass


def enforcer(servers: Servers, clock: Callable[[], float] = lambda: 0.0) -> Enforcer:
    sessions = Sessions()
    sessions.remember(Session("NA", 7), KNOWN)
    return Enforcer(
        connections=cast(Connections, servers),
        registry=cast(Registry, servers),
        denials=cast(Denials, servers),
        sessions=sessions,
        clock=clock,
    )


async def test_a_sweep_ends_what_must_end_and_nothing_else() -> None:
    ghost = replace(RACK, cid=9, user="rack:ghost")
    servers = Servers(RACK, PERSON, ghost)
    assert await enforcer(servers).enforce() == 1
    assert servers.live == [RACK, PERSON]
    servers.bans = banning("certificate", LEAF)
    assert await enforcer(servers).enforce() == 2
    assert servers.live == []


async def test_a_look_at_one_rack_asks_for_that_rack_only() -> None:
    servers = Servers(RACK, PERSON)
    servers.entries["stage-left"] = replace(ENTRY, removed_at=1)
    assert await enforcer(servers).enforce("stage-left") == 1
    assert (servers.looks, servers.live) == (["rack:stage-left"], [PERSON])


async def test_a_rack_has_a_few_seconds_to_end_its_old_connection_itself() -> None:
    now = 0.0
    servers = Servers(RACK)
    servers.entries["stage-left"] = replace(ENTRY, serial=5)
    guard = enforcer(servers, lambda: now)
    assert await guard.enforce() == 0
    now = LIMITS.superseded_grace_s - 0.1
    assert await guard.enforce("stage-left") == 0
    now = LIMITS.superseded_grace_s
    assert await guard.enforce() == 1
    # The next connection with that number starts with a grace of its own.
    servers.live = [RACK]
    await guard.enforce()
    assert servers.live == [RACK]


async def test_what_can_be_ended_is_ended_even_if_a_server_does_not_answer() -> None:
    servers = Servers(RACK)
    servers.entries["stage-left"] = replace(ENTRY, removed_at=1)
    servers.failures = 1
    with pytest.raises(BusError, match="1 of 2"):
        await enforcer(servers).enforce()
    assert servers.live == []


async def test_a_change_is_looked_at_now_again_later_and_until_it_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(enforcement, "LIMITS", replace(LIMITS, enforce_again_s=0.01))
    servers = Servers()
    servers.failures = 3
    guard = enforcer(servers)
    guard.soon("stage-left")
    async with asyncio.timeout(5):
        while len(servers.looks) < 4:
            # Admitted while the change was being written: the first look did not see it.
            if len(servers.looks) == 1 and not servers.live:
                servers.entries["stage-left"] = replace(ENTRY, removed_at=1)
                servers.live = [RACK]
            await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert len(servers.looks) == 4  # now, and again until one did not fail
    assert (servers.live, guard.failures) == ([], 3)
    await guard.close()


async def test_the_sweep_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforcement, "LIMITS", replace(LIMITS, enforce_again_s=0.01, enforce_every_s=0.02))
    servers = Servers()
    servers.failures = 2
    guard = enforcer(servers)
    sweep = asyncio.create_task(guard.run())
    async with asyncio.timeout(5):
        while len(servers.looks) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    sweep.cancel()
    await asyncio.gather(sweep, return_exceptions=True)
    assert guard.failures == 2
