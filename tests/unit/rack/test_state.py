from __future__ import annotations

import dataclasses
import json
import os
import ssl
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.signing import SigningKey

from stagebox import files, passport
from stagebox.certificates import to_pem
from stagebox.errors import KeyFileError, PassportError, StageboxError, StorageError, TlsError
from stagebox.keyfiles import encode_public, save_private_key
from stagebox.passport import Passport, PassportStatus
from stagebox_rack import state
from stagebox_rack.state import Enrolled, StatePaths
from support.pki import DAY, NOW, Ca, uri

MACHINE = 0x0123_4567_89AB_CDEF
CLUSTER = SigningKey(bytes(32))
KEY = Ed25519PrivateKey.from_private_bytes(bytes([5]) * 32)
ROOT = Ca("root")
ISSUING = Ca("issuing", ROOT)
SPIFFE = "spiffe://flux-prod/tenant/default/rack/stage-left"
PASSPORT = Passport(
    cluster_id="flux-prod", machine_id=MACHINE, name="stage-left", tenant="default",
    status=PassportStatus.ACTIVE, secret="the-bearer-secret", cluster_public=bytes(CLUSTER.verify_key),
    rack_public=KEY.public_key().public_bytes_raw(), serial=3, issued_at=1, not_after=2,
)  # fmt: skip
CHAIN = (ISSUING.issue(KEY.public_key(), [uri(SPIFFE)]), ISSUING.certificate)
ENROLLED = Enrolled(
    passport=passport.issue(PASSPORT, CLUSTER),
    certificate_pem=to_pem(CHAIN),
    roots_pem=ROOT.pem,
    cluster_public=bytes(CLUSTER.verify_key),
    servers=("wss://mixer:4222",),
)


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    """A rack that is enrolled."""
    found = StatePaths(tmp_path / "state")
    state.prepare(found)
    save_private_key(found.identity_key, KEY, None)
    state.store(found, ENROLLED)
    return found


def load(paths: StatePaths, machine_id: int = MACHINE) -> state.RackIdentity:
    return state.load(paths, machine_id=machine_id)


def test_what_was_stored_loads(paths: StatePaths) -> None:
    identity = load(paths)
    assert identity.passport == PASSPORT
    assert bytes(identity.key.verify_key) == PASSPORT.rack_public
    assert (identity.chain, identity.servers) == (CHAIN, ("wss://mixer:4222",))
    assert identity.roots_pem == ROOT.pem
    context = identity.tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_the_state_is_closed_to_others(paths: StatePaths) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(paths.directory) == 0o700
    assert {mode(path) for path in (paths.passport, paths.identity_key, paths.snake)} == {0o600}


def test_secrets_are_in_no_repr(paths: StatePaths) -> None:
    shown = repr(load(paths)) + repr(ENROLLED)
    assert PASSPORT.secret not in shown
    assert bytes(KEY.private_bytes_raw()).hex() not in shown


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [
        ("state.flux", PassportError, 78),
        ("cluster.pub", PassportError, 78),
        ("identity.key", KeyFileError, 66),
        ("rack.pem", KeyFileError, 66),
        ("ca.pem", StorageError, 74),
        ("snake.json", StorageError, 74),
    ],
)
def test_a_missing_file_is_named_with_what_to_do(
    paths: StatePaths, name: str, error: type[StageboxError], code: int
) -> None:
    (paths.directory / name).unlink()
    with pytest.raises(error, match=name.replace(".", r"\.")) as caught:
        load(paths)
    assert caught.value.exit_code == code
    assert caught.value.remedy or name in ("identity.key", "rack.pem")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("state.flux", PassportError),
        ("cluster.pub", PassportError),
        ("identity.key", KeyFileError),
        ("rack.pem", KeyFileError),
        ("snake.json", StorageError),
    ],
)
@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage"])
def test_a_damaged_file_is_an_error_and_is_left_as_it_is(
    paths: StatePaths, name: str, error: type[StageboxError], damage: str
) -> None:
    path = paths.directory / name
    whole = path.read_bytes()
    bad = {"empty": b"", "truncated": whole[: len(whole) // 2], "garbage": os.urandom(len(whole))}[damage]
    path.write_bytes(bad)
    before = {item.name: item.read_bytes() for item in paths.directory.iterdir()}
    with pytest.raises(error):
        load(paths)
    assert {item.name: item.read_bytes() for item in paths.directory.iterdir()} == before


def test_a_damaged_root_is_found_when_the_snake_is_built(paths: StatePaths) -> None:
    paths.roots.write_bytes(b"nonsense")
    with pytest.raises(TlsError, match="CA bundle"):
        load(paths).tls_context()


@pytest.mark.parametrize(
    "text",
    [
        "[]", "{}", '{"v":1}', '{"v":1,"servers":[]}', '{"v":2,"servers":["wss://a:1"]}',
        '{"v":1,"servers":"wss://a:1"}', '{"v":1,"servers":[1]}', '{"v":1,"servers":["ws://a:1"]}', "null",
        '{"v":1,"servers":["nats://a:1"]}', '{"v":1,"servers":["wss://a:1"],"api":["http://a:1"]}',
        '{"v":1,"servers":["wss://a:1"],"api":"https://a:1"}',
    ],
)  # fmt: skip
def test_a_snake_file_that_names_no_secure_server_is_refused(paths: StatePaths, text: str) -> None:
    paths.snake.write_text(text)
    with pytest.raises(StorageError, match=r"snake\.json is damaged"):
        load(paths)


def test_every_flipped_bit_of_the_passport_stops_the_rack(paths: StatePaths) -> None:
    whole = paths.passport.read_bytes()
    for position in range(0, len(whole), 9):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        paths.passport.write_bytes(damaged)
        with pytest.raises(PassportError) as caught:
            load(paths)
        assert caught.value.exit_code == 78


@pytest.mark.parametrize("status", [PassportStatus.PENDING, PassportStatus.SUSPENDED])
def test_a_rack_that_is_not_active_still_has_an_identity(paths: StatePaths, status: PassportStatus) -> None:
    issued = passport.issue(dataclasses.replace(PASSPORT, status=status), CLUSTER)
    state.store(paths, dataclasses.replace(ENROLLED, passport=issued))
    assert load(paths).passport.status is status


def test_an_identity_that_has_ended_still_loads(paths: StatePaths) -> None:
    ended = ISSUING.issue(KEY.public_key(), [uri(SPIFFE)], not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    state.store(paths, dataclasses.replace(ENROLLED, certificate_pem=to_pem([ended, ISSUING.certificate])))
    assert load(paths).chain[0] == ended


def test_a_copied_disk_does_not_start_elsewhere(paths: StatePaths) -> None:
    with pytest.raises(PassportError, match="another machine"):
        load(paths, machine_id=MACHINE + 1)


def test_a_foreign_identity_key_is_noticed(paths: StatePaths) -> None:
    paths.identity_key.unlink()
    save_private_key(paths.identity_key, Ed25519PrivateKey.generate(), None)
    with pytest.raises(PassportError, match="another identity key"):
        load(paths)


@pytest.mark.parametrize("wrong", ["name", "key"])
def test_a_certificate_of_somebody_else_is_noticed(paths: StatePaths, wrong: str) -> None:
    key = KEY if wrong == "name" else Ed25519PrivateKey.generate()
    name = SPIFFE if wrong == "key" else SPIFFE.replace("left", "right")
    leaf = ISSUING.issue(key.public_key(), [uri(name)])
    paths.certificate.write_bytes(to_pem([leaf, ISSUING.certificate]))
    with pytest.raises(PassportError, match="not that of rack 'stage-left'"):
        load(paths)


def test_another_clusters_passport_with_its_own_pin_is_another_cluster(paths: StatePaths) -> None:
    other = SigningKey(bytes([9]) * 32)
    foreign = dataclasses.replace(PASSPORT, cluster_public=bytes(other.verify_key))
    paths.passport.write_bytes(passport.issue(foreign, other))
    with pytest.raises(PassportError, match="pinned cluster"):
        load(paths)


def test_the_identity_key_is_made_once_and_never_replaced(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    first = state.own_key(paths).private_bytes_raw()
    assert state.own_key(paths).private_bytes_raw() == first
    paths.identity_key.write_bytes(b"damaged")
    with pytest.raises(KeyFileError):
        state.own_key(paths)
    assert paths.identity_key.read_bytes() == b"damaged"


def test_the_passport_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, order = StatePaths(tmp_path), list[str]()

    def noting(path: Path, data: bytes, *, mode: int = 0o600) -> None:
        order.append(path.name)
        files.write_atomic(path, data, mode=mode)

    monkeypatch.setattr(state, "write_atomic", noting)
    state.store(paths, ENROLLED)
    assert order[-1] == "state.flux"
    assert sorted(order) == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("succeed", range(5))
def test_an_enrollment_cut_short_is_no_enrollment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, succeed: int
) -> None:
    paths, written = StatePaths(tmp_path), 0

    def failing(path: Path, data: bytes, *, mode: int = 0o600) -> None:
        nonlocal written
        if written == succeed:
            raise StorageError(f"cannot write {path}")
        written += 1
        files.write_atomic(path, data, mode=mode)

    save_private_key(paths.identity_key, KEY, None)
    with monkeypatch.context() as patch:
        patch.setattr(state, "write_atomic", failing)
        with pytest.raises(StorageError):
            state.store(paths, ENROLLED)
    with pytest.raises(PassportError, match="not enrolled"):
        load(paths)
    state.store(paths, ENROLLED)
    assert load(paths).passport == PASSPORT


def test_a_directory_that_cannot_be_looked_into_is_not_taken_for_not_enrolled(
    paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", refused)
        with pytest.raises(StorageError, match="Permission denied"):
            load(paths)


def test_a_pin_that_is_not_a_key_is_a_passport_error(paths: StatePaths) -> None:
    paths.cluster_public.write_bytes(encode_public(bytes(32))[:-30])
    with pytest.raises(PassportError, match="pinned cluster key is not usable"):
        state.pinned_cluster(paths)


def test_the_server_list_is_versioned_json(paths: StatePaths) -> None:
    assert json.loads(paths.snake.read_text()) == {"v": 1, "servers": ["wss://mixer:4222"]}


def test_the_api_is_where_the_rack_enrolled_or_beside_the_first_snake(paths: StatePaths) -> None:
    assert load(paths).api == ("https://mixer:8443",)
    state.store(paths, dataclasses.replace(ENROLLED, servers=("wss://[::1]:4222",)))
    assert load(paths).api == ("https://[::1]:8443",)
    state.store(paths, dataclasses.replace(ENROLLED, api=("https://other:9443",)))
    assert load(paths).api == ("https://other:9443",)
