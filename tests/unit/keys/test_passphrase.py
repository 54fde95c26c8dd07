from __future__ import annotations

import os
from pathlib import Path

import pytest

from stagebox.errors import ConfigError, KeyFileError
from stagebox_keys import passphrase


def secret_file(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "data", [b"correct horse", b"correct horse\n", b"correct horse\r\n", b"correct horse\nnote\n"]
)
def test_the_first_line_of_the_file_is_the_passphrase(tmp_path: Path, data: bytes) -> None:
    assert passphrase.read_file(secret_file(tmp_path / "p", data)) == b"correct horse"


def test_spaces_belong_to_the_passphrase(tmp_path: Path) -> None:
    assert passphrase.read_file(secret_file(tmp_path / "p", b"  a b \n")) == b"  a b "


@pytest.mark.parametrize("data", [b"", b"\n", b"\nsecond line\n", b"x" * 1025])
def test_an_empty_or_endless_passphrase_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ConfigError):
        passphrase.read_file(secret_file(tmp_path / "p", data))


def test_a_passphrase_file_open_to_everybody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="open to every user"):
        passphrase.read_file(secret_file(tmp_path / "p", b"correct horse", 0o644))


def test_a_credential_with_a_group_bit_is_accepted(tmp_path: Path) -> None:
    assert passphrase.read_file(secret_file(tmp_path / "p", b"correct horse", 0o440)) == b"correct horse"


def test_a_pipe_is_a_passphrase_file() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"correct horse\n")
    os.close(writing)
    try:
        assert passphrase.read_file(Path(f"/dev/fd/{reading}")) == b"correct horse"
    finally:
        os.close(reading)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="absent"):
        passphrase.read_file(tmp_path / "absent")


def test_a_file_named_by_a_flag_wins_over_the_environment(tmp_path: Path) -> None:
    file = secret_file(tmp_path / "p", b"from the file")
    assert passphrase.given(file, "from the environment", file_first=True) == b"from the file"
    assert passphrase.given(file, "from the environment", file_first=False) == b"from the environment"
    assert passphrase.given(None, "from the environment", file_first=True) == b"from the environment"
    assert passphrase.given(file, None, file_first=False) == b"from the file"
    assert passphrase.given(None, None, file_first=False) is None


def test_an_unencrypted_key_asks_for_nothing(tmp_path: Path) -> None:
    key = secret_file(tmp_path / "k", b"-----BEGIN PRIVATE KEY-----\n")
    assert passphrase.to_open(key, None, None, file_first=False) is None


def test_an_encrypted_key_without_passphrase_and_terminal_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = secret_file(tmp_path / "k", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        with pytest.raises(ConfigError, match="no terminal"):
            passphrase.to_open(key, None, None, file_first=False)


class Terminal:
    """A person at a terminal who types the given answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
        left = list(answers)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("getpass.getpass", lambda prompt: left.pop(0))
        self.left = left


def test_a_new_passphrase_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch, "correct horse", "correct horse")
    assert passphrase.ask_new() == b"correct horse"
    assert terminal.left == []


def test_two_different_answers_are_refused_without_showing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    Terminal(monkeypatch, "correct horse", "correct house")
    with pytest.raises(ConfigError, match="differ") as refused:
        passphrase.ask_new()
    assert "horse" not in str(refused.value)


def test_a_short_new_passphrase_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Terminal(monkeypatch, "short", "short")
    with pytest.raises(ConfigError, match="shorter than 8 characters"):
        passphrase.ask_new()
    with pytest.raises(ConfigError, match="shorter than 8 characters"):
        passphrase.for_new_keys(b"short")
