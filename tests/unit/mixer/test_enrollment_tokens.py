"""Tokens as operators handle them, the shared token's narrow use, and who may not enroll at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog

from stagebox import passport
from stagebox.errors import ConfigError, InputError
from stagebox.passport import PassportStatus
from stagebox_mixer.enrollment.machine import EnrollmentRefused
from stagebox_mixer.enrollment.shared_token import SharedToken, load_shared_token
from stagebox_mixer.lifecycle.refusals import LifecycleRefused
from stagebox_mixer.registry.model import TokenState, token_hash
from stagebox_mixer.settings import MixerSettings
from support.cluster import Cluster
from support.lifecycle import ADMIN, Device, LifecycleBench
from support.mixer_memory import Running, run_now

RACK = "stage-left"
SHARED = "a-shared-token-of-a-fleet-of-racks"


@pytest.fixture
def bench(cluster: Cluster) -> LifecycleBench:
    return LifecycleBench(cluster.keys)


@pytest.fixture
def fleet(cluster: Cluster) -> LifecycleBench:
    shared = SharedToken(token_hash(SHARED), frozenset({RACK}))
    return LifecycleBench(cluster.keys, shared_token=shared)


def refused(bench: LifecycleBench, device: Device, token: str) -> str:
    with pytest.raises(EnrollmentRefused) as caught:
        run_now(bench.enroll(device, token))
    assert bench.audit.refusals[-1].reason == caught.value.code
    assert caught.value.remedy
    return caught.value.code


def new(bench: LifecycleBench, rack: str = RACK, machine: int = 0x5EED) -> Device:
    return Device(bench.keys, rack, machine)


# --- one-time tokens --------------------------------------------------------------------------------------


def test_tokens_are_listed_by_an_id_that_is_not_the_token(bench: LifecycleBench) -> None:
    made = run_now(bench.enrollment.create_token(rack=RACK, ttl_s=60, machine_id=7, actor=ADMIN))
    (listed,) = run_now(bench.enrollment.list_tokens())
    assert (listed.id, listed.entry.rack, listed.entry.machine_id) == (made.id, RACK, 7)
    assert listed.id not in made.token
    assert not listed.expired(bench.clock())
    bench.clock.after(seconds=61)
    assert listed.expired(bench.clock())
    assert bench.audit.rows[0].detail["token"] == made.id


def test_a_revoked_token_is_refused_even_to_the_key_that_used_it(bench: LifecycleBench) -> None:
    made = run_now(bench.enrollment.create_token(rack=RACK, ttl_s=60, machine_id=0, actor=ADMIN))
    device = new(bench)
    run_now(bench.enroll(device, made.token))
    for _ in range(2):
        assert run_now(bench.enrollment.revoke_token(made.id, actor=ADMIN)).entry.state is TokenState.REVOKED
    assert refused(bench, device, made.token) == "token_revoked"
    assert [row.actor for row in bench.audit.of("token_revoke")] == [ADMIN]
    with pytest.raises(InputError, match="there is no token"):
        run_now(bench.enrollment.revoke_token("0" * 16, actor=ADMIN))


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_token_revoked_while_it_is_being_used_is_used_or_refused_never_half(
    bench: LifecycleBench, steps: int
) -> None:
    made = run_now(bench.enrollment.create_token(rack=RACK, ttl_s=60, machine_id=0, actor=ADMIN))
    enrolling = Running(bench.enroll(new(bench), made.token))
    for _ in range(steps):
        enrolling.step()
    assert run_now(bench.enrollment.revoke_token(made.id, actor=ADMIN)).entry.state is TokenState.REVOKED
    enrolling.finish()
    registered = bench.registry.racks.peek(RACK) is not None
    assert registered is (enrolling.error is None)


def test_of_two_mixers_only_one_can_accept_a_token(bench: LifecycleBench) -> None:
    """However far one is when the other begins."""
    for steps in range(12):
        rack = f"rack-{steps}"
        token = bench.token(rack)
        first = Running(bench.enroll(new(bench, rack), token))
        for _ in range(steps):
            first.step()
        second = Running(bench.enroll(new(bench, rack), token)).finish()
        first.finish()
        assert [type(one.error) for one in (first, second)].count(EnrollmentRefused) == 1


# --- who may not ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "value"), [("rack", RACK), ("machine", f"{0x5EED:016x}")])
def test_a_denied_rack_or_machine_neither_enrolls_nor_gets_a_token_and_wastes_none(
    bench: LifecycleBench, kind: str, value: str
) -> None:
    token, device = bench.token(RACK), new(bench)
    bench.denials.deny(kind, value)
    assert refused(bench, device, token) == "denied"
    with pytest.raises(LifecycleRefused, match="denied"):
        bench.token(RACK, machine_id=0x5EED)
    bench.denials.clear()
    assert device.take_enrollment(run_now(bench.enroll(device, token)))


def test_a_banned_certificate_is_not_shaken_off_by_enrolling_again_with_the_same_key(
    bench: LifecycleBench,
) -> None:
    device = bench.device(RACK)
    assert device.main is not None
    bench.denials.deny("certificate", device.main.fingerprint)
    assert refused(bench, device, bench.token(RACK)) == "denied"
    # Another box may take the place of the one whose certificate is banned.
    other = new(bench, machine=9)
    assert other.take_enrollment(run_now(bench.enroll(other, bench.token(RACK))))


def test_the_same_key_enrolled_again_holds_both_identities_until_the_new_one_is_proved(
    bench: LifecycleBench,
) -> None:
    device = bench.device(RACK)
    before = bench.entry(RACK)
    run_now(bench.enroll(device, bench.token(RACK)))  # the reply is lost
    entry = bench.entry(RACK)
    assert (entry.secret_hash, entry.serial) == (before.secret_hash, 1)
    assert entry.pending is not None
    assert entry.pending.serial == 2


def test_another_key_takes_the_place_at_once_and_the_old_one_is_remembered(bench: LifecycleBench) -> None:
    old = bench.device(RACK)
    assert old.main is not None
    fresh = bench.device(RACK)
    entry = bench.entry(RACK)
    assert (entry.serial, entry.pending) == (2, None)
    assert entry.earlier_keys == (old.main.passport.rack_public,)
    assert bench.renew(old.ask(old.main, bench.clock())).error == "old_passport"
    assert fresh.main is not None
    assert not bench.renew(fresh.ask(fresh.main, bench.clock())).error


def test_a_token_does_not_lift_a_suspension(bench: LifecycleBench) -> None:
    device = bench.device(RACK)
    run_now(bench.service.suspend(RACK, actor=ADMIN))
    answer = run_now(bench.enroll(device, bench.token(RACK)))
    assert answer.status is PassportStatus.SUSPENDED
    assert passport.verify(answer.passport, device.public).status is PassportStatus.SUSPENDED


# --- the shared token -------------------------------------------------------------------------------------


def test_the_shared_token_enrolls_a_named_rack_and_the_same_key_again(fleet: LifecycleBench) -> None:
    device = new(fleet)
    for _ in range(2):
        assert device.take_enrollment(run_now(fleet.enroll(device, SHARED)))
    assert [row.reason for row in fleet.audit.of("enroll")] == ["shared_token", "shared_token"]


def test_the_shared_token_never_replaces_an_identity(fleet: LifecycleBench) -> None:
    fleet.device(RACK)
    before = fleet.entry(RACK)
    assert refused(fleet, new(fleet), SHARED) == "shared_token_taken"
    assert fleet.entry(RACK) == before
    run_now(fleet.service.remove(RACK, actor=ADMIN))
    assert refused(fleet, new(fleet), SHARED) == "shared_token_taken"


def test_the_shared_token_is_for_the_named_racks_only(fleet: LifecycleBench) -> None:
    assert refused(fleet, new(fleet, "stage-right"), SHARED) == "shared_token_other_rack"
    nameless = new(fleet)
    nameless.rack = None  # type: ignore[assignment]
    assert refused(fleet, nameless, SHARED) == "shared_token_no_name"
    fleet.denials.deny("rack", RACK)
    assert refused(fleet, new(fleet), SHARED) == "denied"


@pytest.mark.parametrize("steps", range(1, 10))
def test_two_keys_with_the_shared_token_at_once_get_one_identity(fleet: LifecycleBench, steps: int) -> None:
    first = Running(fleet.enroll(new(fleet), SHARED))
    for _ in range(steps):
        first.step()
    second = Running(fleet.enroll(new(fleet), SHARED)).finish()
    first.finish()
    assert [type(one.error) for one in (first, second)].count(EnrollmentRefused) == 1
    assert fleet.entry(RACK).serial == 1


def test_without_the_setting_there_is_no_shared_token(bench: LifecycleBench) -> None:
    assert load_shared_token(MixerSettings()) is None
    assert refused(bench, new(bench), SHARED) == "unknown_token"


def allow(tmp_path: Path, text: str = SHARED, mode: int = 0o600, **changes: Any) -> MixerSettings:
    path = tmp_path / "shared.token"
    path.write_text(text + "\n")
    path.chmod(mode)
    chosen = {"shared_token_file": path, "shared_token_racks": (RACK,), **changes}
    return MixerSettings(allow_shared_token=True, **chosen)


def test_the_shared_token_is_warned_about_at_every_start_and_not_shown(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        shared = load_shared_token(allow(tmp_path))
    assert shared is not None
    assert shared.is_it(SHARED)
    assert not shared.is_it(SHARED + "x")
    assert [(line["event"], line["log_level"]) for line in logs] == [("shared_token_allowed", "warning")]
    assert SHARED not in str(logs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared_token_racks": ()}, "needs shared_token_file and shared_token_racks"),
        ({"shared_token_file": None}, "needs shared_token_file and shared_token_racks"),
        ({"shared_token_file": Path("/nowhere/token")}, "cannot read"),
        ({"shared_token_racks": ("Stage Left",)}, "not a legal rack name"),
        ({"text": "short"}, "at least 24"),
        ({"mode": 0o644}, "open to other users"),
    ],
)
def test_a_shared_token_that_is_not_safe_stops_the_mixer(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_shared_token(allow(tmp_path, **changes))
