"""The key-encryption key: made once, never replaced, and clear about what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagebox.errors import KeyFileError, VerificationError
from stagebox_rack.wal.keyring import create_keyring, load_keyring

DEK = bytes(range(32))
NONCE = bytes(12)
JOURNAL = bytes(16)
PUBLIC = bytes(32)


def test_a_wrapped_key_opens_with_the_same_key_file_and_context(tmp_path: Path) -> None:
    ring = create_keyring(tmp_path / "kek.key", JOURNAL, PUBLIC)
    wrapped = ring.wrap(DEK, b"file one", NONCE)
    assert DEK not in wrapped
    assert load_keyring(tmp_path / "kek.key").journal == JOURNAL
    assert load_keyring(tmp_path / "kek.key").unwrap(wrapped, b"file one", version=1, where="one") == DEK


def test_a_wrapped_key_moved_to_another_file_does_not_open(tmp_path: Path) -> None:
    ring = create_keyring(tmp_path / "kek.key", JOURNAL, PUBLIC)
    with pytest.raises(VerificationError, match="two does not open"):
        ring.unwrap(ring.wrap(DEK, b"file one", NONCE), b"file two", version=1, where="two")


def test_another_key_is_a_clear_error_with_a_remedy(tmp_path: Path) -> None:
    wrapped = create_keyring(tmp_path / "a", JOURNAL, PUBLIC).wrap(DEK, b"f", NONCE)
    with pytest.raises(VerificationError) as caught:
        create_keyring(tmp_path / "b", JOURNAL, PUBLIC).unwrap(wrapped, b"f", version=1, where="the file")
    assert caught.value.remedy is not None
    assert "kek.key" in caught.value.remedy


def test_every_truncation_and_every_flipped_bit_of_the_key_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kek.key"
    create_keyring(path, JOURNAL, PUBLIC)
    whole = path.read_bytes()
    damaged = [whole[:cut] for cut in range(len(whole))]
    damaged += [
        whole[:i] + bytes([whole[i] ^ (1 << bit)]) + whole[i + 1 :]
        for i in range(len(whole))
        for bit in range(8)
    ]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(KeyFileError, match="not usable"):
            load_keyring(path)


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    create_keyring(tmp_path / "kek.key", JOURNAL, PUBLIC)
    before = (tmp_path / "kek.key").read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        create_keyring(tmp_path / "kek.key", JOURNAL, PUBLIC)
    assert (tmp_path / "kek.key").read_bytes() == before


def test_a_key_others_may_read_is_refused(tmp_path: Path) -> None:
    create_keyring(tmp_path / "kek.key", JOURNAL, PUBLIC)
    (tmp_path / "kek.key").chmod(0o640)
    with pytest.raises(KeyFileError, match="0640"):
        load_keyring(tmp_path / "kek.key")


def test_the_key_does_not_show_in_repr(tmp_path: Path) -> None:
    ring = create_keyring(tmp_path / "kek.key", JOURNAL, PUBLIC, random=lambda n: b"K" * n)
    assert "K" * 4 not in repr(ring).replace("Keyring", "")
