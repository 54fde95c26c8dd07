"""Renewal: what a rack must show, what it gets, what it costs when replies get lost, and who is refused."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from stagebox import cbor, envelope, passport
from stagebox.certificates import build_csr, to_der
from stagebox.control.renewal import Renewal
from stagebox.control.request import Answer
from stagebox.control.trust import open_trust_bundle
from stagebox.errors import VerificationError
from stagebox.identity import RackId
from stagebox.keyfiles import signing_key
from stagebox.passport import PassportStatus
from stagebox_keys.cluster import generate_cluster
from stagebox_keys.mixer_keys import load_mixer_keys
from stagebox_mixer.lifecycle.machine import Terms
from stagebox_mixer.lifecycle.refusals import LifecycleRefused
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.registry.model import secret_hash
from support.cluster import Cluster
from support.lifecycle import ADMIN, NS, Device, Held, LifecycleBench
from support.mixer_memory import run_now

RACK = "stage-left"


@pytest.fixture
def bench(cluster: Cluster) -> LifecycleBench:
    return LifecycleBench(cluster.keys, terms=Terms(grace_uses=2))


@pytest.fixture
def device(bench: LifecycleBench) -> Device:
    return bench.device(RACK)


def main(device: Device) -> Held:
    assert device.main is not None
    return device.main


def ask(bench: LifecycleBench, device: Device, shown: Held | None = None, **changes: Any) -> Answer:
    return bench.renew(device.ask(shown or main(device), bench.clock(), **changes))


def renew(bench: LifecycleBench, device: Device) -> Held:
    asked = device.ask(device.held[0], bench.clock())
    assert device.take_renewal(asked, bench.renew(asked))
    assert device.staged is not None
    return device.staged


def prove(bench: LifecycleBench, device: Device) -> None:
    assert device.staged is not None
    run_now(bench.service.confirm(RACK, device.staged.passport.serial))
    device.promote(device.staged)


def test_a_renewal_brings_certificate_trust_and_the_next_passport_and_both_hold_until_it_is_proved(
    bench: LifecycleBench, device: Device
) -> None:
    before = bench.entry(RACK)
    bench.clock.after(days=20)
    answer = ask(bench, device)
    renewal = Renewal.from_body(answer.body)
    leaf = x509.load_der_x509_certificate(renewal.chain[0])
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc >= datetime.timedelta(days=30)
    issued = passport.verify(renewal.passport, device.public)
    assert (issued.serial, issued.machine_id) == (2, device.machine_id)
    assert issued.secret != main(device).passport.secret
    trust = open_trust_bundle(renewal.trust, device.public)
    assert trust.roots == tuple(to_der([bench.keys.issuing.root]))
    waiting = bench.entry(RACK)
    assert replace(waiting, pending=None, last_serial=before.last_serial, renewed_at=0) == before
    assert waiting.pending is not None
    assert waiting.pending.secret_hash == secret_hash(issued.secret)
    run_now(bench.service.confirm(RACK, 2))
    proved = bench.entry(RACK)
    assert (proved.serial, proved.pending) == (2, None)
    assert proved.secret_hash == secret_hash(issued.secret)
    assert bench.changed == [RACK]
    assert [row.action for row in bench.audit.rows] == ["token_create", "enroll", "renew", "confirm"]


def test_the_same_request_gets_the_same_identity_again_and_writes_nothing(
    bench: LifecycleBench, device: Device
) -> None:
    asked = device.ask(main(device), bench.clock())
    first = bench.renew(asked)
    stored, rows = dict(bench.registry.racks.stored), len(bench.audit.rows)
    bench.clock.after(days=3)
    assert bench.renew(asked).body == first.body
    assert (bench.registry.racks.stored, len(bench.audit.rows)) == (stored, rows)


def test_a_rack_that_forgot_its_request_gets_the_waiting_identity_again(
    bench: LifecycleBench, device: Device
) -> None:
    assert ask(bench, device).body == ask(bench, device).body
    bench.clock.after(days=11)  # but not one that has lost a third of its life meanwhile
    third = passport.verify(Renewal.from_body(ask(bench, device).body).passport, device.public)
    assert third.serial == 3


def test_a_second_new_key_within_a_minute_is_too_soon(bench: LifecycleBench, device: Device) -> None:
    assert not ask(bench, device, key=Ed25519PrivateKey.generate()).error
    assert ask(bench, device, key=Ed25519PrivateKey.generate()).error == "too_soon"
    bench.clock.after(seconds=61)
    assert not ask(bench, device, key=Ed25519PrivateKey.generate()).error


def test_a_rekey_keeps_the_old_key_for_what_it_signed_before(bench: LifecycleBench, device: Device) -> None:
    old, new = main(device).passport.rack_public, Ed25519PrivateKey.generate()
    asked = device.ask(main(device), bench.clock(), key=new)
    assert device.take_renewal(asked, bench.renew(asked))
    public = new.public_key().public_bytes_raw()
    assert bench.entry(RACK).keys == (old, public)
    prove(bench, device)
    entry = bench.entry(RACK)
    assert (entry.rack_public, entry.earlier_keys) == (public, (old,))
    assert bench.audit.of("confirm")[0].detail["replaced_key"] == old.hex()


def test_earlier_keys_are_bounded(bench: LifecycleBench, device: Device) -> None:
    for _ in range(LIMITS.earlier_keys + 2):
        bench.clock.after(days=1)
        asked = device.ask(main(device), bench.clock(), key=Ed25519PrivateKey.generate())
        assert device.take_renewal(asked, bench.renew(asked))
        prove(bench, device)
    assert len(bench.entry(RACK).earlier_keys) == LIMITS.earlier_keys


# --- after the end ----------------------------------------------------------------------------------------


def test_a_rack_that_was_off_for_months_comes_back_in_its_grace(
    bench: LifecycleBench, device: Device
) -> None:
    bench.clock.after(days=30 + 89)
    renew(bench, device)
    row = bench.audit.of("renew_grace")[0]
    assert row.detail["grace_uses"] == 1
    prove(bench, device)
    bench.clock.after(days=20)
    renew(bench, device)  # in time: every use is given back
    assert bench.entry(RACK).grace_uses == 0


def test_after_the_grace_only_a_token_helps(bench: LifecycleBench, device: Device) -> None:
    bench.clock.after(days=30 + 90)
    answer = ask(bench, device)
    assert answer.error == "grace_ended"
    assert "admin token create --rack stage-left" in answer.message
    again = run_now(bench.enroll(device, bench.token(RACK)))
    assert device.take_enrollment(again)
    assert bench.entry(RACK).highest_serial == 2


def test_the_grace_is_used_up_by_renewals_not_by_lost_replies(bench: LifecycleBench, device: Device) -> None:
    for use in (1, 2):
        bench.clock.after(days=40)
        for _ in range(5):
            assert not ask(bench, device).error
        assert bench.entry(RACK).grace_uses == use
        renew(bench, device)
        prove(bench, device)
    bench.clock.after(days=40)
    assert ask(bench, device).error == "grace_used_up"


def test_an_expired_passport_is_refused(cluster: Cluster) -> None:
    bench = LifecycleBench(cluster.keys, terms=Terms(grace_days=0))
    device = bench.device(RACK)
    leaf = rack_leaf(bench, device, days=397)
    bench.clock.after(days=366)
    assert ask(bench, device, chain=leaf).error == "passport_expired"


def rack_leaf(bench: LifecycleBench, device: Device, *, days: int, name: str = RACK) -> tuple[bytes, ...]:
    """Return a chain issued past the registry, as an operator's own tool would."""
    now = datetime.datetime.fromtimestamp(bench.clock() / NS, datetime.UTC)
    rack = RackId(bench.keys.cluster.name, "default", name)
    leaf = bench.keys.issuing.sign_rack(build_csr(device.key, "rack"), rack, now=now, days=days)
    return tuple(to_der([leaf, bench.keys.issuing.certificate]))


# --- who is refused ---------------------------------------------------------------------------------------


def test_an_old_passport_is_refused_for_ever(bench: LifecycleBench, device: Device) -> None:
    old = main(device)
    renew(bench, device)
    prove(bench, device)
    answer = ask(bench, device, old)
    assert answer.error == "old_passport"
    assert bench.audit.refusals[-1].actor == "spiffe://flux-test/tenant/default/rack/stage-left"


def test_the_current_serial_with_another_secret_is_refused(bench: LifecycleBench, device: Device) -> None:
    held = main(device)
    twin = replace(held.passport, secret="another secret")
    flux = bench.keys.authority.seal(envelope.DOMAIN_PASSPORT, twin.encode())
    assert ask(bench, device, passport=flux).error == "old_passport"


def other_authority(bench: LifecycleBench, held: Held) -> bytes:
    return envelope.seal(envelope.DOMAIN_PASSPORT, held.passport.encode(), signing_key(held.key))


def test_every_broken_proof_is_refused_and_changes_nothing(
    bench: LifecycleBench, device: Device, tmp_path: Any
) -> None:
    held, other = main(device), bench.device("stage-right")
    stranger = Ed25519PrivateKey.generate()
    generate_cluster(tmp_path / "c", "flux-test", None, datetime.datetime.now(datetime.UTC))
    keys = load_mixer_keys(tmp_path / "c" / "mixer", None, now=datetime.datetime.now(datetime.UTC))
    foreign = keys.issuing.sign_rack(
        build_csr(device.key, "rack"), held.passport.rack_id, now=datetime.datetime.now(datetime.UTC)
    )
    csr = x509.load_pem_x509_csr(build_csr(stranger, "rack"))
    broken_csr = bytearray(csr.public_bytes(Encoding.DER))
    broken_csr[-1] ^= 1
    tampered = bytearray(held.flux)
    tampered[40] ^= 1
    before = dict(bench.registry.racks.stored)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"signer": stranger}, "signature"),
        ({"passport": bytes(tampered)}, "passport"),
        ({"passport": other_authority(bench, held)}, "passport"),
        ({"passport": main(other).flux}, "other_rack"),
        ({"rack": "stage-right"}, "other_rack"),
        ({"rack": "Stage Left"}, "malformed"),
        ({"chain": tuple(to_der([foreign, keys.issuing.certificate]))}, "certificate"),
        ({"chain": main(other).chain}, "other_rack"),
        ({"chain": rack_leaf(bench, other, days=30)}, "certificate_key"),
        ({"chain": (b"no certificate",)}, "malformed"),
        ({"csr": b"no csr"}, "csr"),
        ({"csr": bytes(broken_csr)}, "csr"),
    ]
    for changes, code in cases:
        answer = ask(bench, device, **changes)
        assert (answer.error, answer.body) == (code, {}), changes.keys()
    assert bench.registry.racks.stored == before
    assert {row.reason for row in bench.audit.refusals} == {code for _, code in cases}


def test_a_request_to_another_cluster_gets_an_answer_that_is_not_believed(
    bench: LifecycleBench, device: Device
) -> None:
    with pytest.raises(VerificationError, match="not to our request"):
        ask(bench, device, cluster="flux-prod")
    assert bench.audit.refusals[-1].reason == "other_cluster"


def test_bytes_that_are_no_request_get_a_harmless_answer(bench: LifecycleBench) -> None:
    for data in (b"", b"\xff" * 100, cbor.encode({"Payload": b"", "Signature": bytes(64)})):
        payload = envelope.open_envelope(
            envelope.DOMAIN_ANSWER,
            run_now(bench.service.renew(data, via="https", host="192.0.2.9")),
            bench.keys.authority.public,
        )
        assert Answer.decode(payload).error == "malformed"
    assert bench.audit.refusals[-1].actor == "192.0.2.9"


@pytest.mark.parametrize("kind", ["rack", "machine", "certificate"])
def test_a_denied_rack_renews_again_only_after_it_is_cleared(
    bench: LifecycleBench, device: Device, kind: str
) -> None:
    asked = device.ask(main(device), bench.clock())
    assert not bench.renew(asked).error
    machine = f"{device.machine_id:016x}"
    value = {"rack": RACK, "machine": machine, "certificate": main(device).fingerprint}[kind]
    bench.denials.deny(kind, value)
    # Not even what was granted before is given again.
    assert bench.renew(asked).error == "denied"
    for step in ("approve", "activate", "rotate_secret"):
        with pytest.raises(LifecycleRefused, match="denied"):
            run_now(getattr(bench.service, step)(RACK, actor=ADMIN))
    bench.denials.clear()
    assert not bench.renew(asked).error


def test_a_ban_of_a_waiting_certificate_counts(bench: LifecycleBench, device: Device) -> None:
    staged = renew(bench, device)
    bench.denials.deny("certificate", staged.fingerprint)
    assert ask(bench, device, main(device)).error == "denied"


def test_a_rack_the_registry_does_not_know_or_removed_is_refused(
    bench: LifecycleBench, device: Device
) -> None:
    run_now(bench.service.remove(RACK, actor=ADMIN))
    assert ask(bench, device).error == "removed"
    bench.registry.racks.stored.clear()
    assert ask(bench, device).error == "unknown_rack"


# --- a registry put back from yesterday's backup ----------------------------------------------------------


def restored(bench: LifecycleBench, device: Device, *changes: str) -> None:
    """Let the rack go on, then put the registry back to how it was before."""
    backup = dict(bench.registry.racks.stored)
    for action in changes or ("rotate_secret",):
        run_now(getattr(bench.service, action)(RACK, actor=ADMIN))
        flux = bench.service.pending_passport(bench.entry(RACK))
        assert flux is not None
        assert device.take_passport(flux)
        prove(bench, device)
    bench.registry.racks.stored = backup


def test_a_passport_newer_than_the_registry_is_evidence_that_the_registry_is_behind(
    bench: LifecycleBench, device: Device
) -> None:
    restored(bench, device)
    assert bench.entry(RACK).highest_serial == 1
    assert renew(bench, device).passport.serial == 3
    entry = bench.entry(RACK)
    assert (entry.serial, entry.secret_hash) == (2, secret_hash(main(device).passport.secret))
    row = bench.audit.of("registry_behind")[0]
    assert (row.detail["serial"], row.detail["known"]) == (2, 1)


def test_a_suspension_forgotten_by_the_registry_is_learned_back(
    bench: LifecycleBench, device: Device
) -> None:
    restored(bench, device, "suspend")
    assert bench.entry(RACK).status is PassportStatus.ACTIVE
    assert renew(bench, device).passport.status is PassportStatus.SUSPENDED


def test_an_activation_forgotten_by_the_registry_leaves_the_rack_suspended(
    bench: LifecycleBench, device: Device
) -> None:
    run_now(bench.service.suspend(RACK, actor=ADMIN))
    restored(bench, device, "activate")
    assert renew(bench, device).passport.status is PassportStatus.SUSPENDED


def test_a_serial_issued_twice_after_a_restore_does_not_lock_the_rack_out(
    bench: LifecycleBench, device: Device
) -> None:
    restored(bench, device)
    run_now(bench.service.rotate_secret(RACK, actor=ADMIN))  # the same serial once more, with another secret
    entry = bench.entry(RACK)
    assert entry.pending is not None
    assert entry.pending.serial == main(device).passport.serial
    assert renew(bench, device).passport.serial == 3
    assert bench.audit.of("renew")[-1].reason == "adopted"


def test_a_serial_is_learned_even_from_a_rack_whose_grace_has_ended(
    bench: LifecycleBench, device: Device
) -> None:
    restored(bench, device, "rotate_secret", "rotate_secret")
    bench.clock.after(days=200)
    assert ask(bench, device).error == "grace_ended"
    # Else the token would give it a passport older than its own, and it would refuse that.
    assert device.take_enrollment(run_now(bench.enroll(device, bench.token(RACK))))
