"""What a rack's report on connecting may change, and what it gets told; and whose certificate ends soon."""

from __future__ import annotations

import datetime
import secrets
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stagebox.certificates import build_csr, fingerprint, to_der
from stagebox.control.denylist import open_deny_list
from stagebox.control.request import Answer, Request, Verb, open_answer
from stagebox.control.sync import SyncAnswer, SyncReport
from stagebox.keyfiles import signing_key
from stagebox_mixer.lifecycle.expiry import ExpirySweep, due
from stagebox_mixer.lifecycle.machine import Terms
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import RackEntry
from stagebox_mixer.registry.store import Stored
from support.cluster import Cluster
from support.lifecycle import ADMIN, DAY_NS, NS, Device, Held, LifecycleBench
from support.mixer_memory import run_now

RACK = "stage-left"


@pytest.fixture
def bench(cluster: Cluster) -> LifecycleBench:
    return LifecycleBench(cluster.keys)


@pytest.fixture
def device(bench: LifecycleBench) -> Device:
    return bench.device(RACK)


def main(device: Device) -> Held:
    assert device.main is not None
    return device.main


def send(
    bench: LifecycleBench, device: Device, verb: Verb, body: dict[str, Any], key: Ed25519PrivateKey | None
) -> Answer:
    request = Request(device.cluster, RACK, verb.value, secrets.token_bytes(16), bench.clock(), body)
    data = request.seal(signing_key(key if key is not None else main(device).key))
    handler = {Verb.SYNC: bench.service.sync, Verb.DENY_LIST: bench.service.deny_list}[verb]
    return open_answer(run_now(handler(data, host="192.0.2.1")), device.public, request)


def report(
    bench: LifecycleBench, device: Device, key: Ed25519PrivateKey | None = None, **changes: Any
) -> Answer:
    bench.clock.after(seconds=LIMITS.sync_write_interval_s)
    passport = main(device).passport
    plain = SyncReport(passport.serial, passport.status.value, 0, 0, main(device).chain)
    return send(bench, device, Verb.SYNC, replace(plain, **changes).body(), key)


def test_a_report_without_news_writes_nothing(bench: LifecycleBench, device: Device) -> None:
    rows = len(bench.audit.rows)
    for _ in range(3):
        assert report(bench, device).error == ""
    assert len(bench.audit.rows) == rows


def test_the_command_sequence_of_a_restored_registry_catches_up_and_never_goes_back(
    bench: LifecycleBench, device: Device
) -> None:
    assert SyncAnswer.from_body(report(bench, device, command=41).body).command == 41
    assert SyncAnswer.from_body(report(bench, device, command=7).body).command == 41
    assert bench.entry(RACK).command_seq == 41
    assert [row.detail for row in bench.audit.of("report")] == [{"command_seq": 41}]


def test_a_rack_cannot_use_up_its_command_sequence(bench: LifecycleBench, device: Device) -> None:
    answer = report(bench, device, command=(1 << 64) - 1)
    assert answer.error == "command_sequence"
    assert bench.entry(RACK).command_seq == 0


def test_a_certificate_renewed_by_the_operator_is_taken_over_and_an_older_one_is_not(
    bench: LifecycleBench, device: Device
) -> None:
    now = datetime.datetime.fromtimestamp(bench.clock() / NS, datetime.UTC)
    rack = main(device).passport.rack_id
    leaf = bench.keys.issuing.sign_rack(build_csr(device.key, "rack"), rack, now=now, days=60)
    chain = tuple(to_der([leaf, bench.keys.issuing.certificate]))
    assert not report(bench, device, chain=chain, renewal="operator").error
    entry = bench.entry(RACK)
    assert (entry.certificate, entry.renewal) == (fingerprint(leaf), "operator")
    assert entry.certificate_not_after == int(leaf.not_valid_after_utc.timestamp()) * NS
    assert not report(bench, device, renewal="operator").error
    assert bench.entry(RACK).certificate == fingerprint(leaf)


def test_a_rack_that_does_not_renew_with_us_gets_a_new_passport_in_time(
    bench: LifecycleBench, device: Device
) -> None:
    assert not report(bench, device, renewal="operator").error
    bench.clock.after(days=200)
    report(bench, device, renewal="operator")
    assert not bench.delivered
    bench.clock.after(days=60)
    report(bench, device, renewal="operator")
    entry = bench.entry(RACK)
    assert entry.pending is not None
    assert bench.delivered == [RACK]
    assert entry.pending.passport_not_after > entry.passport_not_after


def test_a_report_by_another_key_or_with_another_certificate_is_refused(
    bench: LifecycleBench, device: Device
) -> None:
    before = bench.entry(RACK)
    stranger = Ed25519PrivateKey.generate()
    assert report(bench, device, stranger, command=9).error == "signature"
    other = bench.device("stage-right")
    assert report(bench, device, command=9, chain=main(other).chain).error == "other_rack"
    assert report(bench, device, command=9, chain=(b"x",)).error == "malformed"
    assert report(bench, device, command=9, renewal="nobody").error == "malformed"
    assert bench.entry(RACK) == before


def test_a_replaced_key_speaks_for_the_rack_no_more(bench: LifecycleBench, device: Device) -> None:
    old = main(device).key
    asked = device.ask(main(device), bench.clock(), key=Ed25519PrivateKey.generate())
    assert device.take_renewal(asked, bench.renew(asked))
    assert report(bench, device, old).error == ""
    assert device.staged is not None
    assert report(bench, device, device.staged.key, chain=device.staged.chain).error == ""
    run_now(bench.service.confirm(RACK, 2))
    device.promote(device.staged)
    assert report(bench, device, old).error == "signature"


def test_a_rack_cannot_fill_the_audit_with_its_problems(bench: LifecycleBench, device: Device) -> None:
    passport = main(device).passport
    for number in range(20):
        body = SyncReport(
            passport.serial, "active", 0, 0, main(device).chain, problem=f"{number} " + "x" * 1000
        ).body()
        assert not send(bench, device, Verb.SYNC, body, None).error
    assert len(bench.audit.of("report")) == 1
    assert len(bench.entry(RACK).problem) == LIMITS.problem_chars
    assert report(bench, device).error == ""
    assert bench.entry(RACK).problem == ""


def test_what_waits_for_the_rack_is_delivered_when_it_reports(bench: LifecycleBench, device: Device) -> None:
    run_now(bench.service.suspend(RACK, actor=ADMIN))
    bench.delivered.clear()
    report(bench, device)
    assert bench.delivered == [RACK]
    report(bench, device, serial=2)
    assert bench.delivered == [RACK]


def test_the_newer_deny_list_goes_to_whoever_has_the_older(bench: LifecycleBench, device: Device) -> None:
    bench.denials.deny("rack", "stolen")
    answer = SyncAnswer.from_body(report(bench, device).body)
    assert open_deny_list(answer.deny_list, device.public).epoch == 1
    newer = replace(bench.denials.list, epoch=5)
    answer = SyncAnswer.from_body(report(bench, device, deny_epoch=5).body)
    assert (answer.deny_list, answer.want_deny_list) == (b"", True)
    body = {"List": bench.denials.sealed(newer)}
    assert send(bench, device, Verb.DENY_LIST, body, None).error == ""
    assert bench.denials.list.epoch == 5
    genuine = bench.denials.sealed(newer)
    forged = {"List": genuine[:-1] + bytes([genuine[-1] ^ 1])}
    assert send(bench, device, Verb.DENY_LIST, forged, None).error == "not_ours"
    assert send(bench, device, Verb.DENY_LIST, {}, None).error == "malformed"
    assert bench.audit.refusals[-1].action == "deny_list"


def test_a_denied_or_removed_rack_is_not_listened_to(bench: LifecycleBench, device: Device) -> None:
    bench.denials.deny("certificate", main(device).fingerprint)
    assert report(bench, device, command=5).error == "denied"
    bench.denials.clear()
    run_now(bench.service.remove(RACK, actor=ADMIN))
    assert report(bench, device, command=5).error == "removed"
    assert bench.entry(RACK).command_seq == 0


# --- certificates that end soon ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "left_days", "is_due"),
    [(30, 7.1, False), (30, 6.9, True), (4, 1.1, False), (4, 0.9, True), (30, -89, True), (30, -91, False)],
)
def test_a_certificate_is_due_a_week_or_a_quarter_of_its_life_before_its_end_until_the_grace_ends(
    bench: LifecycleBench, device: Device, days: int, left_days: float, is_due: bool
) -> None:
    entry, terms = bench.entry(RACK), Terms(certificate_days=days)
    found = due([entry], terms, entry.certificate_not_after - int(left_days * DAY_NS))
    assert bool(found) is is_due
    assert not due([replace(entry, removed_at=1)], terms, entry.certificate_not_after - 1)


def test_an_ending_certificate_is_told_once_a_day(bench: LifecycleBench, device: Device) -> None:
    sweep = ExpirySweep(registry=bench.registry, audit=bench.audit, terms=bench.terms, clock=bench.clock)
    assert run_now(sweep.check()) == ()
    bench.clock.now_ns = (bench.entry(RACK).certificate_not_after - 5 * DAY_NS) // DAY_NS * DAY_NS
    for _ in range(3):
        assert [rack.rack for rack in run_now(sweep.check())] == [RACK]
        bench.clock.after(seconds=3600)
    assert [row.reason for row in bench.audit.of("certificate_expiring")] == ["ends_soon"]
    bench.clock.after(days=7)
    run_now(sweep.check())
    assert [row.reason for row in bench.audit.of("certificate_expiring")] == ["ends_soon", "ended"]
    assert sweep.expiring[0].ended


def test_a_renewal_counts_when_it_is_proved(bench: LifecycleBench, device: Device) -> None:
    bench.clock.after(days=25)
    asked = device.ask(main(device), bench.clock())
    assert device.take_renewal(asked, bench.renew(asked))

    def late() -> tuple[object, ...]:
        return due([bench.entry(RACK)], bench.terms, bench.clock())

    assert late()
    run_now(bench.service.confirm(RACK, 2))
    assert not late()


def test_a_rack_that_never_takes_its_passport_is_not_sent_it_as_fast_as_it_asks(
    bench: LifecycleBench, device: Device
) -> None:
    run_now(bench.service.suspend(RACK, actor=ADMIN))
    bench.delivered.clear()
    began = bench.clock()
    for _ in range(50):
        assert not report(bench, device).error
    passed_s = (bench.clock() - began) / NS
    assert 1 <= len(bench.delivered) <= 1 + passed_s / LIMITS.sync_deliver_interval_s
    run_now(bench.service.rotate_secret(RACK, actor=ADMIN))
    bench.delivered.clear()
    assert not report(bench, device).error
    assert bench.delivered == [RACK]  # another issue is sent at once


def test_a_report_of_an_identity_replaced_meanwhile_changes_nothing(
    bench: LifecycleBench, device: Device
) -> None:
    now = datetime.datetime.fromtimestamp(bench.clock() / NS, datetime.UTC)
    leaf = bench.keys.issuing.sign_rack(
        build_csr(device.key, "rack"), main(device).passport.rack_id, now=now, days=60
    )
    chain = tuple(to_der([leaf, bench.keys.issuing.certificate]))
    read, other = bench.registry.racks.get, bench.device("stage-right")
    reads = 0

    async def replaced_after_the_first_read(key: str) -> Stored[RackEntry] | None:
        nonlocal reads
        reads += 1
        found = await read(key)
        if reads == 1 or found is None:
            return found
        return replace(found, entry=replace(found.entry, rack_public=main(other).passport.rack_public))

    rows = len(bench.audit.rows)
    bench.registry.racks.get = replaced_after_the_first_read  # type: ignore[method-assign]
    assert not report(bench, device, chain=chain, problem="of before").error
    assert reads == 2
    assert len(bench.audit.rows) == rows
    bench.registry.racks.get = read  # type: ignore[method-assign]
    assert bench.entry(RACK).certificate != fingerprint(leaf)
