"""The published vectors: the committed script makes exactly them, and our code agrees with every one."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from stagebox import cbor, envelope, passport
from stagebox.certificates import verify_chain
from stagebox.errors import DecodeError, InputError, PassportError, StageboxError, VerificationError
from stagebox.identity import RackId, check_name, machine_id, parse_spiffe
from stagebox.records.audio import AudioPacket
from stagebox.records.checkpoint import Checkpoint, payload_hash
from stagebox.records.digest import record_digest
from stagebox.records.event import Event
from stagebox.records.meter import CHANNEL_KEYS, MeterFrame
from stagebox.records.module import ModuleRecord
from stagebox.records.status import Status
from stagebox.subscriber.limits import SubscriberLimits
from stagebox.subscriber.trust import RackTrust
from stagebox.subscriber.verifier import Verdict, Verifier

TESTS = Path(__file__).parents[2]
VECTORS = TESTS / "vectors"
REFERENCE = TESTS.parent / "docs" / "reference"
NAMES = ("audit", "checkpoint", "control", "envelope", "identity", "module-signature", "passport", "records")
ERRORS = {"DecodeError": DecodeError, "VerificationError": VerificationError}


def load(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return data


ENVELOPE, IDENTITY, PASSPORT = load("envelope"), load("identity"), load("passport")
RECORDS, CHECKPOINT = load("records"), load("checkpoint")


def by(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda vector: str(vector[key])


def test_the_committed_script_makes_exactly_the_committed_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vectors.make_vectors", str(tmp_path)]
    subprocess.run(command, cwd=TESTS, check=True, env={**os.environ, "PYTHONPATH": ""})
    for name in NAMES:
        assert (tmp_path / f"{name}.json").read_bytes() == (VECTORS / f"{name}.json").read_bytes(), name


def test_the_script_shares_no_code_with_what_it_tests() -> None:
    for script in VECTORS.glob("*.py"):
        assert not re.search(r"^\s*(from|import) (stagebox|cbor2)", script.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "page", ["passport", "envelope", "subjects", "checkpoint", "control", "module-signature"]
)
def test_every_long_hex_string_of_the_reference_is_in_a_vector(page: str) -> None:
    vectors = "".join((VECTORS / f"{name}.json").read_text() for name in NAMES)
    shown = re.findall(r"\b[0-9a-f]{32,}\b", (REFERENCE / f"{page}.md").read_text())
    assert shown, f"{page}.md shows no vector"
    for text in shown:
        assert text in vectors or text == "00" * 32, f"{page}.md shows {text[:40]}… which no vector holds"


# --- envelope and passport --------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", ENVELOPE["valid"], ids=by("domain"))
def test_a_good_envelope_opens(vector: dict[str, Any]) -> None:
    domain = bytes.fromhex(ENVELOPE["domains"][vector["domain"]])
    public = bytes.fromhex(ENVELOPE["key"]["public"])
    data = bytes.fromhex(vector["envelope"])
    assert domain == getattr(envelope, f"DOMAIN_{vector['domain'].upper()}")
    assert envelope.open_envelope(domain, data, public).hex() == vector["payload"]
    assert envelope.split(data)[1].hex() == vector["signature"]


@pytest.mark.parametrize("vector", ENVELOPE["refused"], ids=by("reason"))
def test_a_bad_envelope_is_refused(vector: dict[str, Any]) -> None:
    domain = bytes.fromhex(ENVELOPE["domains"][vector["domain"]])
    with pytest.raises(ERRORS[vector["error"]]):
        envelope.open_envelope(
            domain, bytes.fromhex(vector["envelope"]), bytes.fromhex(ENVELOPE["key"]["public"])
        )


@pytest.mark.parametrize("vector", PASSPORT["valid"], ids=by("name"))
def test_a_good_passport_verifies(vector: dict[str, Any]) -> None:
    found = passport.verify(bytes.fromhex(vector["passport"]), bytes.fromhex(PASSPORT["cluster"]["public"]))
    fields = vector["fields"]
    assert found.encode().hex() == vector["payload"]
    assert (found.cluster_id, found.name, found.tenant) == (
        fields["ClusterID"], fields["Name"], fields["Tenant"],
    )  # fmt: skip
    assert (found.machine_id, found.secret, found.status) == (
        fields["machine_id"], fields["Secret"], fields["Status"],
    )  # fmt: skip
    assert (found.serial, found.issued_at, found.not_after) == (
        fields["Serial"], fields["IssuedAt"], fields["NotAfter"],
    )  # fmt: skip
    assert found.rack_public.hex() == fields["RackPublic"] == PASSPORT["rack"]["public"]
    known = {"Version", "ClusterID", "machine_id", "Name", "Tenant", "Status", "Secret", "ClusterPublic",
             "RackPublic", "Serial", "IssuedAt", "NotAfter"}  # fmt: skip
    assert found.extra == {key: value for key, value in fields.items() if key not in known}


@pytest.mark.parametrize("vector", PASSPORT["refused"], ids=by("reason"))
def test_a_bad_passport_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(PassportError):
        passport.verify(bytes.fromhex(vector["passport"]), bytes.fromhex(PASSPORT["cluster"]["public"]))


# --- identity ---------------------------------------------------------------------------------------------


def test_names_are_judged_as_published() -> None:
    for name in IDENTITY["names"]["legal"]:
        assert check_name("rack", name) == name
    for name in IDENTITY["names"]["refused"]:
        with pytest.raises(InputError):
            check_name("rack", name)


def test_spiffe_identities_are_judged_as_published() -> None:
    for uri in IDENTITY["spiffe"]["legal"]:
        assert parse_spiffe(uri).uri == uri
    for uri in IDENTITY["spiffe"]["refused"]:
        with pytest.raises(VerificationError):
            parse_spiffe(uri)


@pytest.mark.parametrize("vector", IDENTITY["machine_id"], ids=by("file"))
def test_the_machine_id_is_derived_as_published(vector: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "machine-id"
    path.write_text(vector["file"] + "\n")
    assert str(machine_id((path,))) == vector["uint64"]


# --- records ----------------------------------------------------------------------------------------------

CODECS: dict[str, type[MeterFrame | AudioPacket | Status | Event | ModuleRecord]] = {
    "meter": MeterFrame,
    "audio": AudioPacket,
    "status": Status,
    "event": Event,
    "module": ModuleRecord,
}


@pytest.mark.parametrize("vector", RECORDS["valid"], ids=by("subject"))
def test_a_record_decodes_and_encodes_to_the_same_bytes(vector: dict[str, Any]) -> None:
    data, fields = bytes.fromhex(vector["record"]), vector["fields"]
    record = CODECS[vector["kind"]].decode(data)
    assert record.encode() == data
    assert record_digest(vector["subject"], data).hex() == vector["digest"]
    assert (record.seq, record.boot.hex(), record.time_ns) == (fields["seq"], fields["boot"], fields["t"])
    match record:
        case MeterFrame():
            assert (record.start, record.frames, record.rate) == (
                fields["start"], fields["n"], fields["rate"],
            )  # fmt: skip
            for name, key in CHANNEL_KEYS.items():
                assert hundredths(getattr(record, name)) == fields[key], key
            assert record.flags.hex() == fields["flags"]
            assert hundredths(record.correlation, none=-128) == fields["corr"]
            values = [value for entry in record.programmes for value in dataclasses.astuple(entry)]
            assert hundredths(values) == fields["prog"]
            assert record.extra == {key: fields[key] for key in ("later-field",) if key in fields}
        case AudioPacket():
            assert (record.start, record.frames, record.rate, record.channels, record.codec) == tuple(
                fields[key] for key in ("start", "n", "rate", "ch", "codec")
            )
            assert record.data.hex() == fields["data"]
        case Status():
            assert (record.state, record.body) == (fields["state"], fields["body"])
        case Event():
            assert (record.name, record.detail) == (fields["event"], fields["detail"])
        case ModuleRecord():
            assert vector["subject"].startswith(f"rack.stage-left.module.{record.module}.")
            assert (record.module, record.version, record.insert, record.source, record.start) == tuple(
                fields[key] for key in ("module", "version", "insert", "source", "start")
            )
            assert record.data == fields["data"]
            assert record.extra == {key: fields[key] for key in ("later-field",) if key in fields}


def hundredths(values: Iterable[float], none: int = -32768) -> list[int]:
    return [none if math.isnan(value) else round(value * 100) for value in values]


def test_a_meter_frame_of_the_first_release_is_still_read() -> None:
    [vector] = RECORDS["earlier"]
    fields, frame = vector["fields"], MeterFrame.decode(bytes.fromhex(vector["record"]))
    assert (frame.version, frame.seq, frame.start, frame.frames, frame.rate) == (1, 1, 0, 2400, 48_000)
    assert [list(frame.peak), list(frame.rms), list(frame.true_peak), list(frame.momentary)] == [
        fields["peak"], fields["rms"], fields["tp"], fields["m"],
    ]  # fmt: skip
    assert frame.programme_momentary == fields["pm"]
    assert (len(frame.ppm1), len(frame.vu), frame.flags, len(frame.correlation)) == (0, 0, b"", 0)


@pytest.mark.parametrize("vector", RECORDS["refused"], ids=by("reason"))
def test_a_malformed_record_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        CODECS[vector["kind"]].decode(bytes.fromhex(vector["record"]))


# --- checkpoint -------------------------------------------------------------------------------------------


def moment(name: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(CHECKPOINT[name])


def verifier() -> Verifier[str]:
    root = x509.load_der_x509_certificate(bytes.fromhex(CHECKPOINT["root"]))
    return Verifier(RackTrust([root], SubscriberLimits()), SubscriberLimits())


def observe(subscriber: Verifier[str], vector: dict[str, Any], when: str = "verify_at") -> int:
    """Give one checkpoint to a subscriber; return how many records it proved."""
    data = bytes.fromhex(vector["checkpoint"])
    _, outcomes = subscriber.add_checkpoint(CHECKPOINT["subject"], data, moment(when))
    assert all(outcome.verdict is Verdict.VERIFIED for outcome in outcomes)
    return len(outcomes)


def test_the_published_checkpoints_prove_every_published_record() -> None:
    subscriber = verifier()
    for number, vector in enumerate(RECORDS["valid"]):
        position = (bytes.fromhex(vector["fields"]["boot"]), vector["fields"]["seq"])
        digest = bytes.fromhex(vector["digest"])
        assert not subscriber.add_record(str(number), vector["subject"], digest, position, 0.0)
    assert [observe(subscriber, vector) for vector in CHECKPOINT["valid"]] == [2, 4, 2]
    assert subscriber.pending == 0


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_checkpoint_encodes_to_the_same_bytes(number: int) -> None:
    vector = CHECKPOINT["valid"][number]
    payload = bytes.fromhex(vector["payload"])
    found = Checkpoint.decode(payload)
    assert found.encode() == payload == cbor.encode(cbor.decode(payload, max_bytes=len(payload)))
    assert payload_hash(payload).hex() == vector["payload_hash"]
    assert found.chain == tuple(bytes.fromhex(der) for der in vector["fields"]["Chain"])
    assert found.previous.hex() == vector["fields"]["Prev"]


@pytest.mark.parametrize("vector", CHECKPOINT["refused"], ids=by("reason"))
def test_a_bad_checkpoint_proves_nothing(vector: dict[str, Any]) -> None:
    subscriber = verifier()
    with pytest.raises(StageboxError):
        observe(subscriber, vector)
    assert subscriber.checkpoints == 0


@pytest.mark.parametrize("vector", CHECKPOINT["refused_after_the_first"], ids=by("reason"))
def test_a_second_history_is_refused(vector: dict[str, Any]) -> None:
    subscriber = verifier()
    observe(subscriber, CHECKPOINT["valid"][0])
    with pytest.raises(VerificationError):
        observe(subscriber, vector)
    assert subscriber.checkpoints == 1


@pytest.mark.parametrize("when", ["too_early", "too_late"])
def test_a_checkpoint_proves_nothing_outside_its_certificates_life(when: str) -> None:
    with pytest.raises(VerificationError):
        observe(verifier(), CHECKPOINT["valid"][0], when)


def test_the_published_certificate_is_the_racks() -> None:
    leaf = x509.load_der_x509_certificate(bytes.fromhex(CHECKPOINT["valid"][0]["fields"]["Chain"][0]))
    root = x509.load_der_x509_certificate(bytes.fromhex(CHECKPOINT["root"]))
    identity = verify_chain(leaf, [], [root], moment("verify_at"))
    assert identity == RackId("flux-prod", "default", "stage-left")
