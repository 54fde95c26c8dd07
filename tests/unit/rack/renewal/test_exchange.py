"""What a rack believes of an answer: everything in it is verified, and a refusal or a forgery changes nothing."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from nacl.signing import SigningKey

from stagebox.certificates import to_der, to_pem
from stagebox.control.renewal import RenewalRequest
from stagebox.control.request import ReceivedRequest
from stagebox.errors import PassportError, StageboxError, VerificationError
from stagebox.passport import PassportStatus
from stagebox_rack.identity.store import Held, IdentityStore, Issued
from stagebox_rack.renewal.exchange import (
    Exchange,
    RenewalRefused,
    accept,
    accept_operator_chain,
    accept_passport,
    begin,
)
from support.issuer import MACHINE, Issuer
from support.pki import DAY, NOW, SERVER, Ca, uri

OTHER = SigningKey(bytes([9]) * 32)
NONCE = bytes(16)


class Rack:
    """An enrolled rack and its cluster."""

    def __init__(self, directory: Path) -> None:
        self.issuer = Issuer()
        self.store: IdentityStore = self.issuer.enroll(directory)
        self.held: Held = self.store.open()

    @property
    def public(self) -> bytes:
        return self.held.main.public

    def ask(self, new_key: SigningKey | None = None) -> Exchange:
        return begin(self.held.newest, new_key=new_key, nonce=NONCE, now_ns=1)

    def accept(self, asked: Exchange, data: bytes, *, now: datetime.datetime = NOW) -> Issued:
        return accept(asked, data, held=self.held, machine_id=MACHINE, trust_serial=1, now=now)


@pytest.fixture
def rack(tmp_path: Path) -> Rack:
    return Rack(tmp_path / "state")


def test_the_request_proves_the_identity_held_and_asks_for_its_key(rack: Rack) -> None:
    asked = rack.ask()
    received = ReceivedRequest.parse(asked.data)
    received.verify(rack.public)
    body = RenewalRequest.from_body(received.request.body)
    assert body.passport == rack.store.paths.passport.read_bytes()
    assert list(body.chain) == to_der(rack.held.main.chain)
    assert rack.held.main.passport.secret not in repr(asked)


def test_a_rekey_is_signed_by_the_old_key_and_asks_for_the_new_one(rack: Rack) -> None:
    asked = rack.ask(OTHER)
    ReceivedRequest.parse(asked.data).verify(rack.public)
    issued = rack.accept(asked, rack.issuer.answer(asked.data))
    assert (issued.key, issued.passport.rack_public) == (OTHER, bytes(OTHER.verify_key))


def test_an_honest_answer_is_believed_again_when_it_is_repeated(rack: Rack) -> None:
    asked = rack.ask()
    first, again = rack.issuer.answer(asked.data), rack.issuer.answer(asked.data)
    assert first == again
    issued = rack.accept(asked, first)
    assert (issued.passport.serial, issued.key) == (2, rack.held.main.key)
    assert rack.accept(asked, again) == issued


Lie = Callable[[Rack, bytes], bytes]


def lies(**changes: Callable[[Rack], Any]) -> Lie:
    def made(rack: Rack, data: bytes) -> bytes:
        return rack.issuer.answer(data, **{name: make(rack) for name, make in changes.items()})

    return made


def passport_with(**changes: Any) -> Callable[[Rack], Any]:
    return lambda rack: rack.issuer.passport(rack.public, **changes)


LIES: dict[str, Lie] = {
    "another key signed the answer": lies(key=lambda _: OTHER),
    "it answers another request": lies(request=lambda _: bytes(32)),
    "it is for another rack": lies(rack=lambda _: "stage-right"),
    "it is for another cluster": lies(cluster=lambda _: "other"),
    "it answers another verb": lies(verb=lambda _: "sync"),
    "the passport has the serial held": lies(passport=passport_with(serial=1)),
    "the passport is older": lies(passport=passport_with(serial=0)),
    "the passport is of another rack": lies(passport=passport_with(name="stage-right")),
    "the passport is of another machine": lies(passport=passport_with(machine_id=MACHINE + 1)),
    "the passport is for another key": lies(passport=lambda r: r.issuer.passport(bytes(OTHER.verify_key))),
    "the passport is of another tenant": lies(passport=passport_with(tenant="other")),
    "the passport is signed by another cluster": lies(
        flux=lambda r: Issuer(authority=OTHER).flux(
            r.issuer.passport(r.public, cluster_public=r.issuer.public)
        )
    ),
    "the certificate is for another key": lies(chain=lambda r: r.issuer.chain(bytes(OTHER.verify_key))),
    "the certificate is of another CA": lies(chain=lambda r: Issuer().chain(r.public)),
    "the certificate has ended": lies(chain=lambda r: r.issuer.chain(r.public, not_after=NOW - DAY)),
    "the trust bundle is older": lies(trust=lambda r: r.issuer.trust(serial=0)),
    "the trust bundle drops every root trusted": lies(
        trust=lambda r: r.issuer.trust(roots=tuple(to_der([Ca("other").certificate])))
    ),
    "the trust bundle is not the cluster's": lies(trust=lambda r: Issuer(authority=OTHER).trust()),
    "the body is empty": lambda rack, data: rack.issuer.reply(data),
    "the answer is text": lambda _rack, _data: b"denied",
    "the answer is the request": lambda _rack, data: data,
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_does_not_prove_itself_is_refused_whole(rack: Rack, lie: str) -> None:
    asked = rack.ask()
    with pytest.raises(StageboxError) as caught:
        rack.accept(asked, LIES[lie](rack, asked.data))
    assert not isinstance(caught.value, RenewalRefused)


def test_a_refusal_counts_only_under_the_clusters_signature(rack: Rack) -> None:
    asked = rack.ask()
    genuine = rack.issuer.reply(asked.data, error="denied", message="rack 'stage-left' is denied")
    with pytest.raises(RenewalRefused, match="denied") as caught:
        rack.accept(asked, genuine)
    assert caught.value.code == "denied"
    forged = rack.issuer.reply(asked.data, error="denied", message="go away", key=OTHER)
    with pytest.raises(VerificationError, match="does not verify") as other:
        rack.accept(asked, forged)
    assert not isinstance(other.value, RenewalRefused)


def test_the_serial_must_be_above_every_one_held_also_a_staged_one(rack: Rack) -> None:
    rack.store.stage(rack.held, rack.issuer.issue(rack.held.main.key, serial=7))
    rack.held = rack.store.open()
    asked = rack.ask()
    assert RenewalRequest.from_body(asked.request.body).passport == rack.held.newest.flux
    for serial in (2, 7):
        made = rack.issuer.passport(rack.public, serial=serial)
        with pytest.raises(PassportError, match="serial"):
            rack.accept(asked, rack.issuer.answer(asked.data, passport=made))
    assert rack.accept(
        asked, rack.issuer.answer(asked.data, passport=rack.issuer.passport(rack.public, serial=8))
    )


# --- a passport that came by command -----------------------------------------------------------------------


def test_a_reissued_passport_keeps_key_and_certificate(rack: Rack) -> None:
    made = rack.issuer.passport(rack.public, status=PassportStatus.SUSPENDED)
    issued = accept_passport(rack.issuer.flux(made), held=rack.held, machine_id=MACHINE)
    assert (issued.passport, issued.key, issued.chain) == (made, rack.held.main.key, rack.held.main.chain)


@pytest.mark.parametrize(
    "changes",
    [{"serial": 1}, {"serial": 0}, {"name": "other"}, {"machine_id": 3}, {"rack_public": bytes(32)}],
)
def test_a_reissued_passport_that_does_not_succeed_ours_is_refused(
    rack: Rack, changes: dict[str, Any]
) -> None:
    made = dataclasses.replace(rack.issuer.passport(rack.public), **changes)
    with pytest.raises(PassportError):
        accept_passport(rack.issuer.flux(made), held=rack.held, machine_id=MACHINE)


def test_a_forged_passport_is_refused(rack: Rack) -> None:
    made = rack.issuer.passport(rack.public, status=PassportStatus.SUSPENDED)
    for data in (Issuer(authority=OTHER).flux(made), b"suspended", b""):
        with pytest.raises(PassportError):
            accept_passport(data, held=rack.held, machine_id=MACHINE)


# --- a certificate by the operator's command --------------------------------------------------------------


def operator(rack: Rack, pem: bytes) -> Issued:
    return accept_operator_chain(pem, held=rack.held.main, now=NOW)


def test_an_operators_certificate_that_ends_later_is_taken_with_the_passport_held(rack: Rack) -> None:
    chain = rack.issuer.chain(rack.public, not_after=NOW + 60 * DAY)
    issued = operator(rack, to_pem(chain))
    assert (issued.chain, issued.flux) == (chain, rack.held.main.flux)


def test_an_operators_certificate_that_proves_nothing_is_refused(rack: Rack) -> None:
    later = NOW + 60 * DAY
    issuer = rack.issuer
    name = [uri("spiffe://flux-prod/tenant/default/rack/stage-right")]
    key = Ed25519PublicKey.from_public_bytes(rack.public)
    wrong = {
        "no later": issuer.chain(rack.public),
        "another key": issuer.chain(bytes(OTHER.verify_key), not_after=later),
        "another CA": Issuer().chain(rack.public, not_after=later),
        "another name": (issuer.issuing.issue(key, name, not_after=later), issuer.issuing.certificate),
        "for servers": (
            issuer.issuing.issue(
                key, [uri(rack.held.main.passport.rack_id.uri)], usage=SERVER, not_after=later
            ),
            issuer.issuing.certificate,
        ),
    }
    for what, chain in wrong.items():
        with pytest.raises(VerificationError):
            operator(rack, to_pem(chain))
            pytest.fail(f"taken: {what}")
    for pem in (b"", b"not PEM"):
        with pytest.raises(StageboxError):
            operator(rack, pem)
