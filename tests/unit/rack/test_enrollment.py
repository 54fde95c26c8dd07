"""What the rack demands of a mixer's URL, pin and answer; the talking itself is an integration test."""

from __future__ import annotations

import base64
import dataclasses
import socket
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.signing import SigningKey

from stagebox import passport
from stagebox.certificates import root_pin, to_pem
from stagebox.errors import ConfigError, EnrollmentError, PassportError, StageboxError, VerificationError
from stagebox.keyfiles import encode_public, save_private_key
from stagebox.passport import Passport, PassportStatus
from stagebox_rack import enrollment, state
from stagebox_rack.enrollment import MixerAddress, check_pin, parse_mixer_url, verify_reply
from stagebox_rack.state import StatePaths
from support.pki import DAY, NOW, SERVER, Ca, uri

CLUSTER, OTHER = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
KEY = Ed25519PrivateKey.from_private_bytes(bytes([5]) * 32)
ROOT = Ca("root")
ISSUING = Ca("issuing", ROOT)
SPIFFE = "spiffe://flux-prod/tenant/default/rack/stage-left"
PASSPORT = Passport(
    cluster_id="flux-prod", machine_id=7, name="stage-left", tenant="default",
    status=PassportStatus.ACTIVE, secret="the-bearer-secret", cluster_public=bytes(CLUSTER.verify_key),
    rack_public=KEY.public_key().public_bytes_raw(), serial=3, issued_at=1, not_after=2,
)  # fmt: skip
MIXER = MixerAddress("https://mixer:8443", "mixer", 8443, True)
PIN = root_pin(ROOT.certificate)


def reply(issued: Passport = PASSPORT, key: SigningKey = CLUSTER, **changes: Any) -> dict[str, Any]:
    leaf = ISSUING.issue(KEY.public_key(), [uri(SPIFFE)])
    return {
        "v": 1,
        "certificate": to_pem([leaf]).decode(),
        "chain": to_pem([ISSUING.certificate]).decode(),
        "passport": base64.b64encode(passport.issue(issued, key)).decode(),
        "cluster_public": bytes(CLUSTER.verify_key).hex(),
        "snake_port": 4222,
        **changes,
    }


def verify(answer: dict[str, Any], host: str = "mixer") -> state.Enrolled:
    return verify_reply(answer, roots=[ROOT.certificate], key=KEY, host=host)


# --- the URL and the pin ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://mixer:8443", MixerAddress("https://mixer:8443", "mixer", 8443, True)),
        ("https://mixer", MixerAddress("https://mixer", "mixer", 443, True)),
        ("https://mixer:8443/", MixerAddress("https://mixer:8443", "mixer", 8443, True)),
        ("https://[2001:db8::1]:8443", MixerAddress("https://[2001:db8::1]:8443", "2001:db8::1", 8443, True)),
        ("http://127.0.0.1:8080", MixerAddress("http://127.0.0.1:8080", "127.0.0.1", 8080, False)),
        ("http://localhost", MixerAddress("http://localhost", "localhost", 80, False)),
        ("http://[::1]:8080", MixerAddress("http://[::1]:8080", "::1", 8080, False)),
    ],
)
def test_a_mixer_url_is_https_or_loopback(url: str, expected: MixerAddress) -> None:
    assert parse_mixer_url(url) == expected


@pytest.mark.parametrize(
    "host",
    ["mixer", "127.evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0"],
)
def test_plaintext_to_another_machine_is_refused_with_the_better_url(host: str) -> None:
    with pytest.raises(ConfigError, match="plaintext") as caught:
        parse_mixer_url(f"http://{host}:8080")
    assert caught.value.remedy == f"use --mixer https://{host}:8080"
    assert caught.value.exit_code == 64


@pytest.mark.parametrize(
    "url",
    [
        "", "mixer", "mixer:8443", "//mixer", "https://", "https://:8443", "ftp://mixer", "wss://mixer:4222",
        "https://user@mixer", "https://user:hunter22@mixer", "http://127.0.0.1@evil.example",
        "https://mixer:99999", "https://mixer:x", "https://mi xer", "https://[::1", "https://mixer\\@evil",
        "https://[fe80::1%25eth0]", "file:///etc/passwd", "https://mixer/path", "https://mixer?x=1",
        "https://mixer#x", "https://mixer/?token=sbt-hunter22",
    ],
)  # fmt: skip
def test_what_is_not_a_mixer_url_is_refused_without_repeating_secrets(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_mixer_url(url)
    assert "hunter22" not in caught.value.message + (caught.value.remedy or "")


def test_a_pin_is_taken_in_any_case_and_with_blanks_around() -> None:
    assert check_pin(PIN) == PIN
    assert check_pin(f"  {PIN.upper()}\n") == PIN


@pytest.mark.parametrize(
    "pin",
    ["", "sha256:", PIN[:-1], PIN + "0", PIN[7:], PIN.replace("256", "1"), PIN[:-1] + "g", "sbt-hunter22"],
)
def test_another_form_of_pin_is_refused_without_repeating_it(pin: str) -> None:
    with pytest.raises(ConfigError, match="not a CA pin") as caught:
        check_pin(pin)
    assert "hunter22" not in caught.value.message


# --- the answer -------------------------------------------------------------------------------------------


def test_a_good_answer_is_what_is_stored() -> None:
    enrolled = verify(reply())
    assert passport.verify(enrolled.passport, enrolled.cluster_public) == PASSPORT
    assert enrolled.servers == ("wss://mixer:4222",)
    assert enrolled.roots_pem == ROOT.pem
    assert enrolled.certificate_pem.count(b"BEGIN CERTIFICATE") == 2
    assert verify(reply(), host="2001:db8::1").servers == ("wss://[2001:db8::1]:4222",)


@pytest.mark.parametrize("name", ["certificate", "chain", "passport", "cluster_public", "snake_port"])
@pytest.mark.parametrize("wrong", ["missing", None, 5.5, "", "é", "nonsense!", [], {}])
def test_a_malformed_answer_is_an_enrollment_error(name: str, wrong: Any) -> None:
    answer = reply(**{name: wrong})
    if wrong == "missing":
        del answer[name]
    with pytest.raises((EnrollmentError, PassportError)) as caught:
        verify(answer)
    assert caught.value.exit_code in (76, 78)


@pytest.mark.parametrize("port", [0, -1, 65_536, True, "4222", 4222.0])
def test_an_impossible_port_is_refused(port: Any) -> None:
    with pytest.raises(EnrollmentError, match="malformed"):
        verify(reply(snake_port=port))


def test_a_certificate_of_another_authority_is_refused() -> None:
    leaf = Ca("root").issue(KEY.public_key(), [uri(SPIFFE)])
    with pytest.raises(VerificationError, match="chain"):
        verify(reply(certificate=to_pem([leaf]).decode()))


def test_a_certificate_for_another_key_is_refused() -> None:
    leaf = ISSUING.issue(Ed25519PrivateKey.generate().public_key(), [uri(SPIFFE)])
    with pytest.raises(VerificationError, match="another key than ours"):
        verify(reply(certificate=to_pem([leaf]).decode()))


@pytest.mark.parametrize(
    "name",
    [SPIFFE.replace("left", "right"), SPIFFE.replace("flux-prod", "other"), "spiffe://flux-prod/mixer/m"],
)
def test_a_certificate_for_another_identity_than_the_passports_is_refused(name: str) -> None:
    leaf = ISSUING.issue(KEY.public_key(), [uri(name)])
    with pytest.raises(VerificationError, match="the passport for 'stage-left'"):
        verify(reply(certificate=to_pem([leaf]).decode()))


def test_an_expired_or_a_server_certificate_is_refused() -> None:
    expired = ISSUING.issue(KEY.public_key(), [uri(SPIFFE)], not_before=NOW - 3 * DAY, not_after=NOW - DAY)
    server = ISSUING.issue(KEY.public_key(), [uri(SPIFFE)], usage=SERVER)
    for leaf in (expired, server):
        with pytest.raises(VerificationError, match="does not verify"):
            verify(reply(certificate=to_pem([leaf]).decode()))


def test_a_passport_of_another_cluster_key_is_refused() -> None:
    with pytest.raises(PassportError, match="not signed by the pinned cluster"):
        verify(reply(key=OTHER))
    with pytest.raises(PassportError):
        verify(reply(cluster_public=bytes(OTHER.verify_key).hex()))
    with pytest.raises(PassportError):
        verify(reply(cluster_public="00"))


# --- the whole conversation, with the wire replaced -------------------------------------------------------


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    found = StatePaths(tmp_path / "state")
    state.prepare(found)
    save_private_key(found.identity_key, KEY, None)
    return found


class Wire:
    """Answers the two requests of an enrollment and keeps what was sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], ca: bytes = ROOT.pem) -> None:
        self.requests: list[tuple[str, dict[str, Any] | None]] = []
        replies = {"/api/v1/trust": {"v": 1, "ca": ca.decode()}, "/api/v1/racks/enroll": answer}

        def call(
            _mixer: MixerAddress, _method: str, path: str, _context: object, body: Any
        ) -> dict[str, Any]:
            self.requests.append((path, body))
            return replies[path]

        monkeypatch.setattr(enrollment, "_call", call)


def enroll(paths: StatePaths, machine_id: int = 7) -> Passport:
    return enrollment.enroll(
        paths, mixer=MIXER, token="sbt-hunter22", pin=PIN, machine_id=machine_id, rack=None
    )


def test_an_enrollment_stores_an_identity_that_loads(
    paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire(monkeypatch, reply())
    assert enroll(paths) == PASSPORT
    assert state.load(paths, machine_id=7).passport == PASSPORT
    body = wire.requests[1][1]
    assert body is not None
    assert (body["token"], body["machine_id"], body["rack"]) == ("sbt-hunter22", 7, None)
    assert "PRIVATE" not in str(body)


def test_the_token_is_not_sent_to_a_ca_that_is_not_the_pinned_one(
    paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ca in (Ca("root").pem, ROOT.pem + Ca("extra").pem):
        wire = Wire(monkeypatch, reply(), ca=ca)
        with pytest.raises(VerificationError, match="the token was not sent") as caught:
            enroll(paths)
        assert [path for path, _ in wire.requests] == ["/api/v1/trust"]
        assert "hunter22" not in caught.value.message
    assert not paths.passport.exists()


def test_a_passport_for_another_machine_is_not_stored(
    paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    Wire(monkeypatch, reply())
    with pytest.raises(PassportError, match="another machine"):
        enroll(paths, machine_id=8)
    assert not paths.passport.exists()


def issued(**changes: Any) -> dict[str, Any]:
    """An answer with a changed passport and the certificate that goes with it."""
    fresh = dataclasses.replace(PASSPORT, **changes)
    leaf = ISSUING.issue(KEY.public_key(), [uri(fresh.rack_id.uri)])
    signer = OTHER if fresh.cluster_public == bytes(OTHER.verify_key) else CLUSTER
    return reply(
        fresh, signer, certificate=to_pem([leaf]).decode(), cluster_public=fresh.cluster_public.hex()
    )


def test_a_newer_passport_of_the_same_rack_succeeds_the_old(
    paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    Wire(monkeypatch, issued())
    enroll(paths)
    wire = Wire(monkeypatch, issued(serial=4, secret="another-secret"))
    assert enroll(paths).serial == 4
    assert state.load(paths, machine_id=7).passport.secret == "another-secret"
    body = wire.requests[1][1]
    assert body is not None
    assert body["rack"] == "stage-left"


def test_a_key_renewed_while_the_mixer_was_asked_is_not_mixed_with_the_old_keys_certificate(
    paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    Wire(monkeypatch, issued())
    enroll(paths)
    Wire(monkeypatch, issued(serial=4))
    post = enrollment._post

    def renewed_meanwhile(*arguments: Any) -> Any:
        answer = post(*arguments)
        paths.identity_key.unlink()  # what the promotion of a rekeyed identity does, in short
        save_private_key(paths.identity_key, Ed25519PrivateKey.generate(), None)
        return answer

    monkeypatch.setattr(enrollment, "_post", renewed_meanwhile)
    before = paths.passport.read_bytes(), paths.certificate.read_bytes()
    with pytest.raises(EnrollmentError, match="renewed its identity key meanwhile"):
        enroll(paths)
    assert (paths.passport.read_bytes(), paths.certificate.read_bytes()) == before


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"name": "stage-right", "serial": 9}, EnrollmentError, "belongs to rack 'stage-left'"),
        ({"cluster_public": bytes(OTHER.verify_key), "serial": 9}, EnrollmentError, "of cluster 'flux-prod'"),
        ({"serial": 3}, PassportError, "older"),
        ({"serial": 2}, PassportError, "older"),
    ],
)
def test_what_does_not_succeed_the_old_passport_replaces_nothing(
    paths: StatePaths,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[StageboxError],
    reason: str,
) -> None:
    Wire(monkeypatch, issued())
    enroll(paths)
    before = {path.name: path.read_bytes() for path in paths.directory.iterdir()}
    Wire(monkeypatch, issued(**changes))
    with pytest.raises(error, match=reason):
        enroll(paths)
    assert {path.name: path.read_bytes() for path in paths.directory.iterdir()} == before


def test_a_damaged_passport_is_not_silently_replaced(
    paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths.passport.write_bytes(b"damaged")
    paths.cluster_public.write_bytes(encode_public(bytes(CLUSTER.verify_key)))
    wire = Wire(monkeypatch, reply())
    with pytest.raises(PassportError):
        enroll(paths)
    assert wire.requests == []
    assert paths.passport.read_bytes() == b"damaged"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<html>", "does not answer like a mixer"),
        (200, b"[]", "does not answer like a mixer"),
        (200, b"\xff", "does not answer like a mixer"),
        (200, b"[" * 200_000, "does not answer like a mixer"),
        (200, b'{"a":"' + b"x" * (1 << 19) + b'"}', "does not answer like a mixer"),
        (403, b'{"message":"the token has expired","remedy":"make a new one"}', "the token has expired"),
        (500, b"{}", "refused: 500"),
        (403, b'{"message":"no","remedy":{"not":"text"}}', "refused: no"),
    ],
)
def test_an_answer_that_is_not_a_mixers_or_a_refusal_is_an_enrollment_error(
    status: int, body: bytes, reason: str
) -> None:
    with pytest.raises(EnrollmentError, match=reason) as caught:
        enrollment._parse_reply(MIXER, status, body)
    assert caught.value.remedy is None or isinstance(caught.value.remedy, str)


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "127.0.0.1"])
def test_a_mixer_that_cannot_be_reached_is_an_enrollment_error(paths: StatePaths, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    mixer = parse_mixer_url(f"https://{host}:{port}")
    with pytest.raises(EnrollmentError, match="cannot reach the mixer") as caught:
        enrollment.enroll(paths, mixer=mixer, token="sbt-hunter22", pin=PIN, machine_id=7, rack=None)
    assert "hunter22" not in caught.value.message
