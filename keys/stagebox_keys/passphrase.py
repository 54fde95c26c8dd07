"""Where the passphrase of private keys comes from: a file, the environment or a person at a terminal.

A flag wins over the environment. Without any of them, and without a terminal, it is an error: a key is never
written in the clear because nobody was there to be asked.
"""

from __future__ import annotations

import getpass
import stat
import sys
from pathlib import Path

from stagebox.errors import ConfigError, KeyFileError
from stagebox_keys.limits import LIMITS

VARIABLE = "STAGEBOX_KEYS_PASSPHRASE"
_REMEDY = f"give --passphrase-file FILE or {VARIABLE}, or run it on a terminal"


def given(file: Path | None, value: str | None, *, file_first: bool) -> bytes | None:
    """Return the passphrase that a file or a setting gives, or None if neither does.

    ``file_first`` is for a file that was named by a flag; otherwise ``value`` wins.

    Raises:
        KeyFileError: the file cannot be used.
        ConfigError: the passphrase is empty or too long.
    """
    if value is not None and not (file_first and file is not None):
        return _checked(value.encode("utf-8"), VARIABLE)
    return None if file is None else read_file(file)


def to_open(key: Path, file: Path | None, value: str | None, *, file_first: bool) -> bytes | None:
    """Return the passphrase that opens the private key file ``key``: None if it is not encrypted.

    ``file``, ``value`` and ``file_first`` are as for :func:`given`; if neither is given, a person is asked.

    Raises:
        KeyFileError: the key or the passphrase file cannot be read.
        ConfigError: there is no passphrase and no terminal.
    """
    if not is_encrypted(key):
        return None
    return given(file, value, file_first=file_first) or ask_existing(str(key))


def read_file(path: Path) -> bytes:
    """Return the first line of a passphrase file.

    Raises:
        KeyFileError: missing, unreadable, or readable by every user.
        ConfigError: the passphrase is empty or too long.
    """
    try:
        with path.open("rb") as stream:
            info = path.stat()
            # Group access stays allowed: systemd's credentials carry an ACL, which shows as a group bit.
            if stat.S_ISREG(info.st_mode) and stat.S_IMODE(info.st_mode) & 0o007:
                raise KeyFileError(
                    f"the passphrase file {path} is open to every user "
                    f"(mode {stat.S_IMODE(info.st_mode):04o})",
                    remedy=f"chmod 600 {path}",
                )
            line = stream.readline(LIMITS.passphrase_bytes + 2)
    except OSError as error:
        raise KeyFileError(f"cannot read the passphrase file {path}: {error.strerror}") from None
    return _checked(line.rstrip(b"\r\n"), str(path))


def for_new_keys(passphrase: bytes) -> bytes:
    """Return ``passphrase`` if it is long enough to protect new keys.

    Raises:
        ConfigError: it is too short.
    """
    if len(passphrase.decode("utf-8", "replace")) < LIMITS.passphrase_min_chars:
        raise ConfigError(
            f"the passphrase is shorter than {LIMITS.passphrase_min_chars} characters",
            remedy="choose a longer one, or say --no-passphrase if the disk protects the keys",
        )
    return passphrase


def ask_new() -> bytes:
    """Ask twice at the terminal for the passphrase of new keys.

    Raises:
        ConfigError: there is no terminal, the two differ, or it is too short.
    """
    first = _ask("Passphrase for the new keys: ")
    checked = for_new_keys(first.encode("utf-8"))
    if _ask("The same again: ") != first:
        raise ConfigError("the two passphrases differ", remedy="run the command again")
    return _checked(checked, "the terminal")


def ask_existing(what: str) -> bytes:
    """Ask once at the terminal for the passphrase of existing keys.

    Raises:
        ConfigError: there is no terminal.
    """
    return _checked(_ask(f"Passphrase of {what}: ").encode("utf-8"), "the terminal")


def is_encrypted(path: Path) -> bool:
    """Tell whether a private key file asks for a passphrase.

    Raises:
        KeyFileError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return b"BEGIN ENCRYPTED PRIVATE KEY" in stream.read(LIMITS.pem_bytes)
    except OSError as error:
        raise KeyFileError(f"cannot read the key {path}: {error.strerror}") from None


def _ask(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError("no passphrase was given and there is no terminal to ask on", remedy=_REMEDY)
    try:
        return getpass.getpass(prompt)
    except EOFError:
        raise ConfigError("no passphrase was typed", remedy=_REMEDY) from None


def _checked(passphrase: bytes, origin: str) -> bytes:
    if not passphrase:
        raise ConfigError(f"the passphrase from {origin} is empty", remedy=_REMEDY)
    if len(passphrase) > LIMITS.passphrase_bytes:
        raise ConfigError(f"the passphrase from {origin} is longer than {LIMITS.passphrase_bytes} bytes")
    return passphrase
