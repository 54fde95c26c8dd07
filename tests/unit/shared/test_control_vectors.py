"""The published control messages: our code agrees with every one that is good and refuses every one that is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from stagebox import cbor, envelope
from stagebox.control.command import Ack, Command, open_ack, open_command
from stagebox.control.denylist import DenyList, open_deny_list
from stagebox.control.fields import payload_digest
from stagebox.control.renewal import Renewal, RenewalRequest
from stagebox.control.request import Answer, ReceivedRequest, Request, open_answer
from stagebox.control.sync import SyncAnswer, SyncReport
from stagebox.control.trust import TrustBundle, open_trust_bundle
from stagebox.errors import DecodeError, VerificationError
from stagebox.modules.patch import PatchSheet, open_sheet

VECTORS = Path(__file__).parents[2] / "vectors"
CONTROL: dict[str, Any] = json.loads((VECTORS / "control.json").read_text())
CLUSTER = bytes.fromhex(CONTROL["cluster"]["public"])
RACK = bytes.fromhex(CONTROL["rack"]["public"])
ERRORS = {"DecodeError": DecodeError, "VerificationError": VerificationError}
Message = Request | Answer | Command | Ack | TrustBundle | DenyList | PatchSheet


def vector(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(v for v in CONTROL["valid"] if (v["kind"], v["name"]) == (kind, name))
    return found


def wire(kind: str, name: str) -> bytes:
    return bytes.fromhex(vector(kind, name)["envelope"])


def answer(data: bytes) -> Answer:
    return Answer.decode(envelope.open_envelope(envelope.DOMAIN_ANSWER, data, CLUSTER))


OPEN: dict[str, Callable[[bytes], Message]] = {
    "request": lambda data: ReceivedRequest.parse(data).verify(RACK),
    "answer": answer,
    "command": lambda data: open_command(data, CLUSTER)[0],
    "ack": lambda data: open_ack(data, RACK),
    "trust": lambda data: open_trust_bundle(data, CLUSTER),
    "deny_list": lambda data: open_deny_list(data, CLUSTER),
    "patch": lambda data: open_sheet(data, CLUSTER),
}


def plain(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return value


def label(found: dict[str, Any]) -> str:
    return " ".join(str(found[key]) for key in ("kind", "body", "name", "reason") if key in found)


@pytest.mark.parametrize("good", CONTROL["valid"], ids=label)
def test_a_good_message_verifies_and_encodes_to_the_same_bytes(good: dict[str, Any]) -> None:
    message = OPEN[good["kind"]](bytes.fromhex(good["envelope"]))
    payload = bytes.fromhex(good["payload"])
    assert message.encode() == payload
    assert payload_digest(payload).hex() == good["digest"]
    fields = cbor.expect_map(cbor.decode(payload, max_bytes=len(payload)), "payload")
    assert plain(fields) == good["fields"]


@pytest.mark.parametrize("bad", CONTROL["refused"], ids=label)
def test_a_bad_message_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ERRORS[bad["error"]]):
        OPEN[bad["kind"]](bytes.fromhex(bad["envelope"]))


BODIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "renew request": RenewalRequest.from_body,
    "renew answer": Renewal.from_body,
    "sync request": SyncReport.from_body,
    "sync answer": SyncAnswer.from_body,
}


@pytest.mark.parametrize("bad", CONTROL["refused_bodies"], ids=label)
def test_a_bad_body_is_refused(bad: dict[str, Any]) -> None:
    data = bytes.fromhex(bad["cbor"])
    with pytest.raises(DecodeError):
        BODIES[bad["body"]](cbor.expect_map(cbor.decode(data, max_bytes=len(data)), "body"))


def test_the_published_bodies_parse_and_are_written_the_same() -> None:
    renew = ReceivedRequest.parse(wire("request", "renew")).request
    sync = ReceivedRequest.parse(wire("request", "sync")).request
    assert RenewalRequest.from_body(renew.body).body() == renew.body
    assert SyncReport.from_body(sync.body).body() == sync.body
    renewed, synced = answer(wire("answer", "renewed")), answer(wire("answer", "synced"))
    assert Renewal.from_body(renewed.body).body() == renewed.body
    assert SyncAnswer.from_body(synced.body) == SyncAnswer(b"", False, 7)
    assert SyncAnswer.from_body(synced.body).body() == synced.body


def test_each_published_answer_answers_the_published_request_and_no_other() -> None:
    renew = ReceivedRequest.parse(wire("request", "renew")).request
    sync = ReceivedRequest.parse(wire("request", "sync")).request
    for name in ("renewed", "too soon"):
        assert open_answer(wire("answer", name), CLUSTER, renew)
        with pytest.raises(VerificationError, match="not to our request"):
            open_answer(wire("answer", name), CLUSTER, sync)
    assert open_answer(wire("answer", "synced"), CLUSTER, sync)


@pytest.mark.parametrize(("command", "ack"), [("passport", "done"), ("status", "refused")])
def test_each_published_ack_names_the_published_command(command: str, ack: str) -> None:
    named = open_ack(wire("ack", ack), RACK).command
    assert named == payload_digest(open_command(wire("command", command), CLUSTER)[1])


def test_the_published_request_carries_the_racks_key_and_the_deny_list_verifies() -> None:
    body = ReceivedRequest.parse(wire("request", "renew")).request.body
    csr = x509.load_der_x509_csr(body["Csr"])
    assert csr.is_signature_valid
    assert csr.public_key().public_bytes_raw() == RACK  # type: ignore[union-attr]
    bans = ReceivedRequest.parse(wire("request", "deny-list")).request.body["List"]
    found = open_deny_list(bans, CLUSTER)
    assert found.epoch == 3
    assert found.matches(rack="stage-right")
    assert found.matches(machine_id=255)
    assert found.matches(certificates=["sha256:" + "0f" * 32])
    assert found.matches(rack="stage-left", machine_id=254, certificates=["sha256:" + "00" * 32]) is None


def test_the_published_revocations_hit_the_module_and_the_vendor() -> None:
    found = open_deny_list(wire("deny_list", "a module and a vendor revoked"), CLUSTER)
    assert found.matches_module((bytes([0x0E]) * 32,), ())
    assert found.matches_module((), (bytes([0x0D]) * 16,))
    assert found.matches_module((bytes([0x0F]) * 32,), (bytes(16),)) is None
    assert found.matches(rack="stage-right")


def test_the_published_answer_brings_the_published_sheet() -> None:
    asked = ReceivedRequest.parse(wire("request", "patch")).request
    sheet = open_sheet(open_answer(wire("answer", "patched"), CLUSTER, asked).body["Sheet"], CLUSTER)
    assert sheet == open_sheet(wire("patch", "two modules"), CLUSTER)
    assert [insert.params for insert in sheet.inserts] == [{"gain": 0.5, "mix": 0.3}, {}]
    for name in ("piece", "not assigned"):
        asked = ReceivedRequest.parse(wire("request", "module")).request
        assert open_answer(wire("answer", name), CLUSTER, asked)
