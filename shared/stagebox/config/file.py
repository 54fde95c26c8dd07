"""Finding and reading the one TOML file that configuration may come from.

The first that exists is the only one read: ``--config``, ``STAGEBOX_CONFIG``, ``./stagebox.toml``,
``~/.config/stagebox/stagebox.toml``, ``/etc/stagebox/stagebox.toml``. One that was named must exist.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from stagebox.errors import ConfigError

CONFIG_VARIABLE = "STAGEBOX_CONFIG"
FILE_NAME = "stagebox.toml"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class ConfigFile:
    """A TOML file of ``[section]`` tables; no file at all is an empty one without a path."""

    path: Path | None = None
    sections: dict[str, dict[str, object]] = field(default_factory=dict)


def find(named: Path | None) -> Path | None:
    """Return the file to read, if any; ``named`` comes from ``--config``.

    Raises:
        ConfigError: a file that was named does not exist.
    """
    variable = os.environ.get(CONFIG_VARIABLE)
    for path, origin in ((named, "--config"), (Path(variable) if variable else None, CONFIG_VARIABLE)):
        if path is not None:
            if not path.is_file():
                raise ConfigError(f"there is no configuration file {path}, which {origin} names")
            return path
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    places = (Path(FILE_NAME), home / "stagebox" / FILE_NAME, Path("/etc/stagebox") / FILE_NAME)
    return next((path for path in places if path.is_file()), None)


def read(path: Path | None) -> ConfigFile:
    """Read a configuration file.

    Raises:
        ConfigError: unreadable, not TOML, or not made of tables.
    """
    if path is None:
        return ConfigFile()
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"the configuration file {path} is larger than {_MAX_BYTES} bytes")
        tables = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} is not TOML: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(
                f"{path}: {name!r} stands outside a section",
                remedy="put it under its section, for example [client]",
            )
    return ConfigFile(path, tables)
