"""How commands of the mixer open its keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stagebox_mixer.settings import MixerSettings


def key_passphrase(settings: MixerSettings, flag: Path | None, config: Path | None) -> bytes | None:
    """Return the passphrase of the keys in ``settings.dir``, None if they have none.

    Raises:
        KeyFileError: it is no mixer directory, or the passphrase is missing.
    """
    from stagebox.config import load
    from stagebox.errors import KeyFileError
    from stagebox_keys import layout, passphrase
    from stagebox_keys.settings import KeysSettings

    if not settings.dir.is_dir():
        raise KeyFileError(
            f"there is no mixer directory {settings.dir}",
            remedy="make one with `stagebox keys gen-cluster`, or name it with --dir",
        )
    if not (settings.dir / layout.CLUSTER_TOML).exists():
        inside = settings.dir / layout.MIXER
        raise KeyFileError(
            f"{settings.dir} is not the mixer/ directory of a cluster: it has no {layout.CLUSTER_TOML}",
            remedy=f"use --dir {inside}" if inside.is_dir() else "name the directory that gen-cluster made",
        )
    keys = load(KeysSettings, {"passphrase_file": flag}, config=config).settings
    value = keys.passphrase.get_secret_value() if keys.passphrase is not None else None
    return passphrase.to_open(
        settings.dir / layout.AUTHORITY_KEY, keys.passphrase_file, value, file_first=flag is not None
    )
