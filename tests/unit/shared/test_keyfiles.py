from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from stagebox import envelope, keyfiles
from stagebox.errors import KeyFileError
from stagebox.limits import LIMITS

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
P256 = ec.derive_private_key(7, ec.SECP256R1())
PASSPHRASE = b"correct horse battery"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "identity.key"


def raw(key: keyfiles.PrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("key", [KEY, P256], ids=["ed25519", "p256"])
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_a_saved_key_loads_as_itself(path: Path, key: keyfiles.PrivateKey, passphrase: bytes | None) -> None:
    keyfiles.save_private_key(path, key, passphrase)
    assert raw(keyfiles.load_private_key(path, passphrase)) == raw(key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in path.read_bytes()) is (passphrase is not None)


def test_an_existing_key_is_never_overwritten(path: Path) -> None:
    keyfiles.save_private_key(path, KEY, None)
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        keyfiles.save_private_key(path, P256, None)
    assert path.read_bytes() == before


def test_a_link_in_the_way_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="never overwritten"):
        keyfiles.save_private_key(path, KEY, None)
    assert not (tmp_path / "elsewhere").exists()


def test_an_empty_passphrase_never_means_an_open_key(path: Path) -> None:
    with pytest.raises(KeyFileError, match="empty"):
        keyfiles.save_private_key(path, KEY, b"")
    assert not path.exists()


@pytest.mark.parametrize("wrong", [b"hunter22", PASSPHRASE + b"\n", PASSPHRASE.upper()])
def test_a_wrong_passphrase_is_told_apart_and_not_shown(path: Path, wrong: bytes) -> None:
    keyfiles.save_private_key(path, KEY, PASSPHRASE)
    with pytest.raises(KeyFileError, match="does not open with this passphrase") as caught:
        keyfiles.load_private_key(path, wrong)
    assert wrong.decode().strip() not in caught.value.message + (caught.value.remedy or "")


def test_a_missing_passphrase_says_how_to_give_it(path: Path) -> None:
    keyfiles.save_private_key(path, KEY, PASSPHRASE)
    with pytest.raises(KeyFileError, match="no passphrase was given") as caught:
        keyfiles.load_private_key(path, None)
    assert "--passphrase-file" in (caught.value.remedy or "")


def test_a_passphrase_for_an_open_key_does_no_harm(path: Path) -> None:
    keyfiles.save_private_key(path, KEY, None)
    assert raw(keyfiles.load_private_key(path, PASSPHRASE)) == raw(KEY)


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_a_truncated_key_is_an_error_and_stays_as_it_is(path: Path, passphrase: bytes | None) -> None:
    keyfiles.save_private_key(path, KEY, passphrase)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 5):
        path.write_bytes(whole[:length])
        with pytest.raises(KeyFileError, match=str(path)):
            keyfiles.load_private_key(path, passphrase)
        assert path.read_bytes() == whole[:length]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601, 0o777])
def test_a_key_that_others_can_touch_is_refused_with_the_command_that_mends_it(path: Path, mode: int) -> None:
    keyfiles.save_private_key(path, KEY, None)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"{mode:04o}") as caught:
        keyfiles.load_private_key(path, None)
    assert caught.value.remedy == f"chmod 600 {path}"


def test_a_missing_key_and_a_directory_are_key_file_errors(path: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="there is no key"):
        keyfiles.load_private_key(path, None)
    path.mkdir(mode=0o700)
    with pytest.raises(KeyFileError, match="Is a directory"):
        keyfiles.load_private_key(path, None)


def test_an_oversized_file_is_not_read(path: Path) -> None:
    path.write_bytes(bytes(LIMITS.max_key_file_bytes + 1))
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="too large"):
        keyfiles.load_private_key(path, None)


def test_another_kind_of_key_is_refused(path: Path) -> None:
    other = rsa.generate_private_key(65537, 1024)
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="neither Ed25519"):
        keyfiles.load_private_key(path, None)


def test_an_identity_key_is_ed25519(tmp_path: Path) -> None:
    keyfiles.save_private_key(tmp_path / "p256.key", P256, None)
    with pytest.raises(KeyFileError, match="not an Ed25519 key"):
        keyfiles.load_ed25519(tmp_path / "p256.key")


def test_one_key_signs_envelopes_and_certificates() -> None:
    public = KEY.public_key().public_bytes_raw()
    sealed = envelope.seal(envelope.DOMAIN_WAL, b"x", keyfiles.signing_key(KEY))
    assert envelope.open_envelope(envelope.DOMAIN_WAL, sealed, public) == b"x"


def test_a_public_key_survives_its_file(tmp_path: Path) -> None:
    public = KEY.public_key().public_bytes_raw()
    path = tmp_path / "cluster.pub"
    path.write_bytes(keyfiles.encode_public(public))
    assert keyfiles.load_public(path) == public


@pytest.mark.parametrize("data", [b"", b"nonsense", keyfiles.encode_public(bytes(32))[:-30]])
def test_a_damaged_public_key_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "cluster.pub"
    path.write_bytes(data)
    with pytest.raises(KeyFileError, match="not a PEM public key"):
        keyfiles.load_public(path)
    with pytest.raises(KeyFileError, match="cannot read"):
        keyfiles.load_public(tmp_path / "missing.pub")
