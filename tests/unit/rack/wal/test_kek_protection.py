"""The key file at rest: plain, under a credential, sealed by a TPM; and exactly one way to open each."""

from __future__ import annotations

import base64
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import cbor2
import pytest
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from stagebox.errors import DecodeError, KeyFileError
from stagebox_rack.limits import LIMITS
from stagebox_rack.wal import kek_protection
from stagebox_rack.wal.kek_protection import (
    CREDENTIAL,
    Keeper,
    Protection,
    Tpm,
    decrypt,
    encrypt,
    run_program,
)
from stagebox_rack.wal.keyring import Keyring, create_keyring, decode_key_file, load_keyring

JOURNAL, PUBLIC = bytes(range(16)), bytes(range(32))
KEK = bytes(range(0x40, 0x60))
RING = Keyring(2, KEK, JOURNAL, PUBLIC, ((1, bytes(32)),))
KEKS = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=16)


class FakeTpm:
    """Stands in for ``systemd-creds``: what it sealed opens, nothing else does; keeps what it was called with."""

    def __init__(self) -> None:
        self.argv: list[Sequence[str]] = []

    def __call__(self, argv: Sequence[str], data: bytes) -> bytes:
        self.argv.append(argv)
        if argv[1] == "encrypt":
            return base64.b64encode(b"sealed" + bytes(byte ^ 0x5A for byte in data))
        blob = base64.b64decode(data)
        if not blob.startswith(b"sealed"):
            raise KeyFileError("systemd-creds decrypt failed (1): no", remedy="another machine?")
        return bytes(byte ^ 0x5A for byte in blob[6:])


def keeper(directory: Path, *, credential: bytes | None = None, tpm: FakeTpm | None = None) -> Keeper:
    directory.mkdir(exist_ok=True)
    if credential is not None:
        (directory / CREDENTIAL).write_bytes(credential)
    device = directory / "tpmrm0"
    if tpm is not None:
        device.touch()
    return Keeper(directory, Tpm(device, sys.executable, tpm or FakeTpm()))


def test_auto_takes_the_credential_then_the_tpm_then_the_file(tmp_path: Path) -> None:
    both = keeper(tmp_path / "a", credential=KEK, tpm=FakeTpm())
    assert both.choose(Protection.AUTO) is Protection.CREDENTIAL
    assert keeper(tmp_path / "b", tpm=FakeTpm()).choose(Protection.AUTO) is Protection.TPM2
    assert keeper(tmp_path / "c").choose(Protection.AUTO) is Protection.FILE
    assert both.choose(Protection.FILE) is Protection.FILE


@pytest.mark.parametrize("protection", [Protection.FILE, Protection.CREDENTIAL, Protection.TPM2])
def test_a_key_file_opens_again_and_shows_its_key_only_when_it_is_plain(
    tmp_path: Path, protection: Protection
) -> None:
    here = keeper(tmp_path / "creds", credential=b"c" * 40, tpm=FakeTpm())
    ring = create_keyring(
        tmp_path / "kek", JOURNAL, PUBLIC, lambda n: b"K" * n, protection=protection, keeper=here
    )
    data = (tmp_path / "kek").read_bytes()
    assert (b"K" * 32 in data) == (protection is Protection.FILE)
    assert load_keyring(tmp_path / "kek", here) == ring
    assert ring.protection is protection


@given(keks=KEKS, protection=st.sampled_from(["file", "credential", "tpm2"]))
def test_every_keyring_comes_back_whole(
    tmp_path_factory: pytest.TempPathFactory, keks: list[bytes], protection: str
) -> None:
    here = keeper(tmp_path_factory.getbasetemp() / "creds", credential=b"c" * 32, tpm=FakeTpm())
    older = tuple(enumerate(keks[:-1], 1))
    ring = Keyring(len(keks), keks[-1], JOURNAL, PUBLIC, older, Protection(protection))
    assert decode_key_file(ring.encode(here), here) == ring


@given(secret=st.binary(min_size=32, max_size=99), other=st.binary(max_size=99), bound=st.binary(max_size=9))
def test_only_the_same_secret_and_fields_open(secret: bytes, other: bytes, bound: bytes) -> None:
    data = encrypt(secret, b"plain", bound, bytes(12))
    assert decrypt(secret, data, bound) == b"plain"
    for key, fields, hidden in (
        (other, bound, data),
        (secret, bound + b"x", data),
        (secret, bound, data[:7]),
    ):
        if key != secret or fields != bound or hidden != data:
            with pytest.raises(InvalidTag):
                decrypt(key, hidden, fields)


def test_the_credential_form_is_what_the_reference_says(tmp_path: Path) -> None:
    here = keeper(tmp_path / "creds", credential=b"c" * 40)
    ring = dataclasses.replace(RING, protection=Protection.CREDENTIAL)
    fields = cbor2.loads(ring.encode(here))
    check = fields.pop("Check")
    assert check == blake3(b"stagebox.wal.kek.v2\0" + cbor2.dumps(fields, canonical=True)).digest()[:8]
    hidden = fields.pop("Keks")
    assert fields == {"Version": 2, "Protection": "credential", "Journal": JOURNAL, "RackPublic": PUBLIC}
    key = blake3(b"c" * 40, derive_key_context="stagebox.wal.kek-secret.v2").digest()
    bound = b"stagebox.wal.keks.v2\0" + cbor2.dumps(fields, canonical=True)
    assert cbor2.loads(AESGCM(key).decrypt(hidden[:12], hidden[12:], bound)) == [[1, bytes(32)], [2, KEK]]


def test_a_wrong_missing_or_short_credential_is_a_clear_error(tmp_path: Path) -> None:
    right = keeper(tmp_path / "right", credential=b"c" * 32)
    create_keyring(tmp_path / "kek", JOURNAL, PUBLIC, keeper=right)
    wrong = keeper(tmp_path / "wrong", credential=b"d" * 32)
    short = keeper(tmp_path / "short", credential=b"c" * 31)
    for here, message in (
        (wrong, "not the one they were protected with"),
        (short, "has 31 bytes"),
        (keeper(tmp_path / "none"), "cannot read the credential"),
        (Keeper(None), "CREDENTIALS_DIRECTORY is not set"),
    ):
        with pytest.raises(KeyFileError, match=message) as caught:
            load_keyring(tmp_path / "kek", here)
        assert caught.value.remedy is not None
        assert "credential" in caught.value.remedy.lower()


def test_the_credential_of_this_process_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper(tmp_path, credential=b"c" * 32)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert create_keyring(tmp_path / "kek", JOURNAL, PUBLIC) == load_keyring(tmp_path / "kek")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(KeyFileError):
        load_keyring(tmp_path / "kek")


def test_a_protected_file_that_others_may_read_is_refused_too(tmp_path: Path) -> None:
    here = keeper(tmp_path / "creds", credential=b"c" * 32)
    create_keyring(tmp_path / "kek", JOURNAL, PUBLIC, keeper=here)
    (tmp_path / "kek").chmod(0o644)
    with pytest.raises(KeyFileError, match="0644"):
        load_keyring(tmp_path / "kek", here)


@pytest.mark.parametrize("protection", [Protection.CREDENTIAL, Protection.TPM2])
def test_damage_is_never_taken_for_a_wrong_secret(tmp_path: Path, protection: Protection) -> None:
    here = keeper(tmp_path / "creds", credential=b"c" * 32, tpm=FakeTpm())
    whole = dataclasses.replace(RING, protection=protection).encode(here)
    for position in range(len(whole)):
        for broken in (
            whole[:position],
            whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :],
        ):
            with pytest.raises(DecodeError):
                decode_key_file(broken, here)


def test_the_secret_reaches_the_tpm_program_by_stdin_alone(tmp_path: Path) -> None:
    tpm = FakeTpm()
    here = keeper(tmp_path / "creds", tpm=tpm)
    create_keyring(tmp_path / "kek", JOURNAL, PUBLIC, lambda n: b"K" * n, keeper=here)
    assert [argv[1] for argv in tpm.argv] == ["encrypt", "decrypt"]
    assert "--with-key=tpm2" in tpm.argv[0]
    assert all("KKK" not in argument for argv in tpm.argv for argument in argv)


def test_no_tpm_or_one_that_fails_makes_no_key_file(tmp_path: Path) -> None:
    forgetful = Tpm(tmp_path / "tpmrm0", sys.executable, lambda _argv, _data: b"other")
    for here, message in (
        (keeper(tmp_path / "none"), "no TPM can be used"),
        (Keeper(None, forgetful), "does not give back"),
    ):
        (tmp_path / "tpmrm0").touch()
        with pytest.raises(KeyFileError, match=message) as caught:
            create_keyring(tmp_path / "kek", JOURNAL, PUBLIC, protection=Protection.TPM2, keeper=here)
        assert caught.value.remedy
        assert not (tmp_path / "kek").exists()


def test_a_program_that_fails_hangs_or_is_missing_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_program(("cat", "-"), b"in") == b"in"
    monkeypatch.setattr(kek_protection, "LIMITS", dataclasses.replace(LIMITS, wal_tpm_timeout=0.1))
    for argv, message in (
        (("sh", "-c", "cat; echo no luck >&2; exit 3"), r"failed \(3\): no luck"),
        (("sh", "-c", "cat; exec sleep 9"), "did not end within"),
        (("no-such-program-here", "-"), "cannot run"),
    ):
        with pytest.raises(KeyFileError, match=message) as caught:
            run_program(argv, b"the secret")
        assert caught.value.remedy
        assert "the secret" not in str(caught.value)
        assert caught.value.__cause__ is None
