from __future__ import annotations

import os
import shutil
import stat
from datetime import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stagebox import envelope
from stagebox.errors import InputError, KeyFileError, StorageError
from stagebox.keyfiles import load_public, save_private_key
from stagebox_keys import cluster
from stagebox_keys.cluster import generate_cluster
from stagebox_keys.mixer_keys import MixerKeys, load_mixer_keys

PASSPHRASE = b"correct horse"

PRIVATE_FILES = {
    "mixer/authority.key",
    "mixer/issuing-ca.key",
    "mixer/nats/auth-signing.key",
    "mixer/nats/callout.key",
    "mixer/nats/stagebox-signing.key",
    "mixer/nats/store-signing.key",
    "mixer/nats/sys-signing.key",
    "mixer/storage.key",
    "offline/nats-operator.key",
    "offline/root-ca.key",
}


@pytest.fixture
def mixer_dir(cluster_dir: Path, tmp_path: Path) -> Path:
    """A copy of the mixer directory that a test may damage."""
    return Path(shutil.copytree(cluster_dir / "mixer", tmp_path / "mixer"))


def modes(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): stat.S_IMODE(path.stat().st_mode) for path in top.rglob("*")}


def test_private_keys_are_0600_in_0700_directories(cluster_dir: Path) -> None:
    found = modes(cluster_dir)
    assert {name for name in found if name.endswith(".key")} == PRIVATE_FILES
    assert {found[name] for name in PRIVATE_FILES} == {0o600}
    assert {found[name] for name in ("mixer", "mixer/nats", "offline")} == {0o700}
    assert stat.S_IMODE(cluster_dir.stat().st_mode) == 0o700


def test_modes_do_not_depend_on_the_umask(tmp_path: Path, now: datetime) -> None:
    before = os.umask(0)
    try:
        generate_cluster(tmp_path / "open", "venue", None, now)
    finally:
        os.umask(before)
    found = modes(tmp_path / "open")
    assert {found[name] for name in PRIVATE_FILES} == {0o600}
    assert {mode for name, mode in found.items() if (tmp_path / "open" / name).is_dir()} == {0o700}


def test_every_private_key_is_encrypted_when_a_passphrase_is_given(cluster_dir: Path) -> None:
    for name in PRIVATE_FILES:
        assert (cluster_dir / name).read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----"), name


def test_without_a_passphrase_the_keys_load_without_one(tmp_path: Path, now: datetime) -> None:
    generate_cluster(tmp_path / "c", "venue", None, now)
    assert load_mixer_keys(tmp_path / "c" / "mixer", None, now=now).cluster.name == "venue"


def test_an_existing_cluster_is_never_overwritten(tmp_path: Path, now: datetime) -> None:
    directory = tmp_path / "c"
    generate_cluster(directory, "venue", None, now)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(KeyFileError, match="never overwritten"):
        generate_cluster(directory, "other", None, now)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_single_foreign_file_is_enough_to_refuse(tmp_path: Path, now: datetime) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").write_text("mine")
    with pytest.raises(KeyFileError, match=r"notes\.txt"):
        generate_cluster(tmp_path / "c", "venue", None, now)
    assert (tmp_path / "c" / "notes.txt").read_text() == "mine"


def test_an_empty_directory_is_filled(tmp_path: Path, now: datetime) -> None:
    (tmp_path / "c").mkdir()
    generate_cluster(tmp_path / "c", "venue", None, now)
    assert (tmp_path / "c" / "mixer" / "cluster.toml").is_file()


def test_a_failure_leaves_nothing_half_made(
    tmp_path: Path, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def full_disk(path: Path, data: bytes, *, mode: int = 0o600) -> None:
        written.append(path)
        if len(written) > 3:
            raise StorageError("cannot write: No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(cluster, "write_new", full_disk)
    with pytest.raises(StorageError, match="No space"):
        generate_cluster(tmp_path / "c", "venue", None, now)
    assert len(written) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "Venue", "a b", "-a", "a/b", "a\n", "x" * 64])
def test_an_illegal_cluster_name_is_refused(tmp_path: Path, now: datetime, name: str) -> None:
    with pytest.raises(InputError):
        generate_cluster(tmp_path / "c", name, None, now)
    assert list(tmp_path.iterdir()) == []


def test_the_loaded_authority_signs_what_cluster_pub_verifies(
    cluster_dir: Path, mixer_keys: MixerKeys
) -> None:
    sealed = mixer_keys.authority.seal(envelope.DOMAIN_PASSPORT, b"payload")
    public = load_public(cluster_dir / "cluster.pub")
    assert envelope.open_envelope(envelope.DOMAIN_PASSPORT, sealed, public) == b"payload"


def test_storage_keys_differ_by_label_and_stay_the_same(
    cluster_dir: Path, mixer_keys: MixerKeys, now: datetime
) -> None:
    again = load_mixer_keys(cluster_dir / "mixer", PASSPHRASE, now=now)
    jetstream = mixer_keys.storage_key("stagebox.jetstream.v1")
    assert len(jetstream) == 32
    assert jetstream == again.storage_key("stagebox.jetstream.v1")
    assert jetstream != mixer_keys.storage_key("stagebox.ledger.v1")


def test_no_secret_shows_in_the_repr_of_loaded_keys(mixer_keys: MixerKeys) -> None:
    shown = repr(mixer_keys)
    assert mixer_keys.nats.callout.seed() not in shown
    assert mixer_keys.nats.stagebox.signing.seed() not in shown
    assert mixer_keys._storage.private_bytes_raw().hex() not in shown
    assert "PrivateKey" not in shown


def test_the_wrong_passphrase_is_named_as_such(cluster_dir: Path, now: datetime) -> None:
    with pytest.raises(KeyFileError, match="does not open with this passphrase"):
        load_mixer_keys(cluster_dir / "mixer", b"wrong horse", now=now)


def test_a_missing_passphrase_is_named_as_such(cluster_dir: Path, now: datetime) -> None:
    with pytest.raises(KeyFileError, match="no passphrase was given"):
        load_mixer_keys(cluster_dir / "mixer", None, now=now)


@pytest.mark.parametrize("name", sorted(n.removeprefix("mixer/") for n in PRIVATE_FILES if n[0] == "m"))
def test_a_truncated_key_stops_the_mixer_and_is_left_alone(mixer_dir: Path, now: datetime, name: str) -> None:
    path = mixer_dir / name
    path.write_bytes(path.read_bytes()[:-40])
    truncated = path.read_bytes()
    with pytest.raises(KeyFileError, match=path.name):
        load_mixer_keys(mixer_dir, PASSPHRASE, now=now)
    assert path.read_bytes() == truncated


@pytest.mark.parametrize("name", ["authority.key", "storage.key", "nats/callout.key"])
def test_a_key_open_to_others_stops_the_mixer(mixer_dir: Path, now: datetime, name: str) -> None:
    (mixer_dir / name).chmod(0o640)
    with pytest.raises(KeyFileError, match="readable by other users") as refused:
        load_mixer_keys(mixer_dir, PASSPHRASE, now=now)
    assert refused.value.remedy == f"chmod 600 {mixer_dir / name}"


@pytest.mark.parametrize(
    "name",
    [
        "cluster.toml",
        "ca.pem",
        "issuing-ca.pem",
        "cluster.pub",
        "nats/operator.jwt",
        "nats/auth.jwt",
        "authority.key",
    ],
)
def test_a_missing_file_stops_the_mixer(mixer_dir: Path, now: datetime, name: str) -> None:
    (mixer_dir / name).unlink()
    with pytest.raises(KeyFileError, match=Path(name).name):
        load_mixer_keys(mixer_dir, PASSPHRASE, now=now)


def test_an_authority_of_another_cluster_stops_the_mixer(mixer_dir: Path, now: datetime) -> None:
    (mixer_dir / "authority.key").unlink()
    save_private_key(mixer_dir / "authority.key", Ed25519PrivateKey.generate(), PASSPHRASE)
    with pytest.raises(KeyFileError, match=r"authority\.key is not the key of"):
        load_mixer_keys(mixer_dir, PASSPHRASE, now=now)


@pytest.mark.parametrize("account", ["sys", "auth", "stagebox", "store"])
def test_a_signing_key_of_another_account_stops_the_mixer(
    mixer_dir: Path, now: datetime, account: str
) -> None:
    path = mixer_dir / "nats" / f"{account}-signing.key"
    path.unlink()
    save_private_key(path, Ed25519PrivateKey.generate(), PASSPHRASE)
    with pytest.raises(KeyFileError, match="not a signing key of"):
        load_mixer_keys(mixer_dir, PASSPHRASE, now=now)


def test_a_callout_key_that_auth_does_not_name_stops_the_mixer(mixer_dir: Path, now: datetime) -> None:
    (mixer_dir / "nats" / "callout.key").unlink()
    save_private_key(mixer_dir / "nats" / "callout.key", Ed25519PrivateKey.generate(), PASSPHRASE)
    with pytest.raises(KeyFileError, match="not an auth user"):
        load_mixer_keys(mixer_dir, PASSPHRASE, now=now)


def test_swapped_account_tokens_stop_the_mixer(mixer_dir: Path, now: datetime) -> None:
    sys, auth = mixer_dir / "nats" / "sys.jwt", mixer_dir / "nats" / "auth.jwt"
    swapped = sys.read_bytes(), auth.read_bytes()
    auth.write_bytes(swapped[0])
    sys.write_bytes(swapped[1])
    with pytest.raises(KeyFileError, match=r"cluster\.toml names"):
        load_mixer_keys(mixer_dir, PASSPHRASE, now=now)


def test_an_issuing_ca_of_another_root_stops_the_mixer(
    mixer_dir: Path, tmp_path: Path, now: datetime
) -> None:
    generate_cluster(tmp_path / "other", "venue", PASSPHRASE, now)
    for name in ("issuing-ca.pem", "issuing-ca.key"):
        (mixer_dir / name).write_bytes((tmp_path / "other" / "mixer" / name).read_bytes())
    with pytest.raises(KeyFileError, match="not issued by the root"):
        load_mixer_keys(mixer_dir, PASSPHRASE, now=now)


def test_a_mixer_directory_others_can_write_is_refused(mixer_dir: Path, now: datetime) -> None:
    mixer_dir.chmod(0o770)
    with pytest.raises(KeyFileError, match="can be written by other users"):
        load_mixer_keys(mixer_dir, PASSPHRASE, now=now)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("format = 1", "format = 2"), "format 2"),
        (('name = "venue"', 'name = "Venue!"'), "not a legal cluster name"),
        (("[nats]", "[nats"), "damaged"),
        (('operator = "O', 'operator = "P'), "damaged"),
        (("created", "made"), "'created' is missing"),
    ],
)
def test_a_damaged_cluster_toml_is_named(
    mixer_dir: Path, now: datetime, change: tuple[str, str], complaint: str
) -> None:
    path = mixer_dir / "cluster.toml"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(KeyFileError, match=complaint):
        load_mixer_keys(mixer_dir, PASSPHRASE, now=now)
