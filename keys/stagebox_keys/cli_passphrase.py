"""The passphrase options that every command with a private key has, and where a passphrase is taken from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stagebox.cli.options import settings_for

PassphraseFileOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="File whose first line is the passphrase (also STAGEBOX_KEYS_PASSPHRASE).",
    ),
]
NoPassphraseOption = Annotated[
    bool, typer.Option("--no-passphrase", help="Write the private keys unencrypted.")
]


def for_new_keys(
    ctx: typer.Context, file: Path | None, no_passphrase: bool, config: Path | None
) -> bytes | None:
    """Return the passphrase of keys to make, asking a person if nothing gives one; None means unencrypted.

    Raises:
        ConfigError: two answers contradict each other, it is too short, or nobody can be asked.
        KeyFileError: the file cannot be used.
    """
    from stagebox_keys import passphrase

    refuse_contradiction(file, no_passphrase)
    if no_passphrase:
        return None
    said = given(ctx, file, config)
    return passphrase.ask_new() if said is None else passphrase.for_new_keys(said)


def refuse_contradiction(file: Path | None, no_passphrase: bool) -> None:
    """Refuse ``--no-passphrase`` beside ``--passphrase-file``.

    Raises:
        ConfigError: both were given.
    """
    from stagebox.errors import ConfigError

    if no_passphrase and file is not None:
        raise ConfigError("--no-passphrase and --passphrase-file contradict each other", remedy="say one")


def given(ctx: typer.Context, file: Path | None, config: Path | None) -> bytes | None:
    """Return the passphrase that a flag, the environment or the configuration gives, or None.

    Raises:
        ConfigError, KeyFileError: as :func:`stagebox_keys.passphrase.given`.
    """
    from stagebox_keys import passphrase

    named, value = _sources(ctx, file, config)
    return passphrase.given(named, value, file_first=file is not None)


def to_open(ctx: typer.Context, key: Path, file: Path | None, config: Path | None) -> bytes | None:
    """Return the passphrase that opens the key file ``key``, asking a person if it has one and nothing gives it.

    Raises:
        ConfigError, KeyFileError: as :func:`stagebox_keys.passphrase.to_open`.
    """
    from stagebox_keys import passphrase

    named, value = _sources(ctx, file, config)
    return passphrase.to_open(key, named, value, file_first=file is not None)


def _sources(ctx: typer.Context, file: Path | None, config: Path | None) -> tuple[Path | None, str | None]:
    from stagebox_keys.settings import KeysSettings

    settings = settings_for(ctx, KeysSettings, {"passphrase_file": file}, config=config)
    return settings.passphrase_file, settings.passphrase.get_secret_value() if settings.passphrase else None
