"""Putting the layers of one section together and remembering where each value came from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Generic, Literal, TypeVar

from pydantic import SecretBytes, SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from stagebox.config import file as config_file
from stagebox.config import registry
from stagebox.config.section import ENV_PREFIX, SectionSettings, is_secret
from stagebox.errors import ConfigError

MASK = "********"
# Variables that are not settings of a section.
_RESERVED = frozenset({config_file.CONFIG_VARIABLE, "STAGEBOX_DEBUG"})

SettingsT = TypeVar("SettingsT", bound=SectionSettings)


@dataclass(frozen=True)
class Origin:
    """Where a value came from; ``name`` is the flag, the variable or the file."""

    kind: Literal["flag", "env", "file", "default"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@dataclass(frozen=True)
class Loaded(Generic[SettingsT]):
    """One section's settings and the origin of every field."""

    settings: SettingsT
    origins: Mapping[str, Origin]

    def shown(self) -> dict[str, object]:
        """Return the values as JSON-ready data with secrets masked."""
        cls = type(self.settings)
        plain = self.settings.model_dump(mode="json")
        return {
            name: MASK if value is not None and is_secret(name, cls.model_fields[name]) else value
            for name, value in plain.items()
        }

    def secrets(self) -> list[str]:
        """Return the secret values themselves, for the log to mask."""
        fields = type(self.settings).model_fields
        values = (getattr(self.settings, name) for name in fields if is_secret(name, fields[name]))
        return [text for value in values if (text := _plain(value))]


def load(
    settings: type[SettingsT], flags: Mapping[str, object] | None = None, *, config: Path | None = None
) -> Loaded[SettingsT]:
    """Return the effective settings of one section.

    ``flags`` maps field names to command-line values; ``None`` means the flag was not given. ``config`` is
    the file named by ``--config``.

    Raises:
        ConfigError: a value is wrong, a name is unknown, or the file cannot be read.
    """
    table = config_file.read(config_file.find(config))
    _refuse_unknown_sections(table, settings)
    _refuse_unknown_variables(settings)
    for section in table.sections:
        _refuse_unknown_keys(table, section, settings)
    return _merge(settings, flags or {}, table)


def _merge(
    settings: type[SettingsT], flags: Mapping[str, object], table: config_file.ConfigFile
) -> Loaded[SettingsT]:
    given = {name: value for name, value in flags.items() if value is not None}
    unknown = given.keys() - settings.model_fields.keys()
    if unknown:
        raise TypeError(f"flags {sorted(unknown)} are no fields of {settings.__name__}")
    values: dict[str, object] = {}
    origins: dict[str, Origin] = dict.fromkeys(settings.model_fields, Origin("default"))
    for name, value in table.sections.get(settings.section, {}).items():
        values[name], origins[name] = value, Origin("file", str(table.path))
    for name, value in _environment(settings).items():
        values[name], origins[name] = value, Origin("env", settings.env_name(name))
    for name, value in given.items():
        values[name], origins[name] = value, Origin("flag", "--" + name.replace("_", "-"))
    try:
        return Loaded(settings(**values), origins)
    except ValidationError as error:
        raise ConfigError(
            "; ".join(_describe(settings, item["loc"], item["msg"], origins) for item in error.errors()),
            remedy="see `stagebox config show` for every setting and where it comes from",
        ) from None


def _environment(settings: type[SectionSettings]) -> dict[str, object]:
    try:
        return dict(EnvSettingsSource(settings, env_prefix=settings.env_prefix())())
    except SettingsError as error:
        raise ConfigError(f"the environment of [{settings.section}] cannot be read: {error}") from None


def _describe(
    settings: type[SectionSettings], where: tuple[int | str, ...], why: str, origins: Mapping[str, Origin]
) -> str:
    name = ".".join(str(part) for part in where)
    origin = origins.get(str(where[0])) if where else None
    source = f" (from {origin})" if origin else ""
    reason = why[:1].lower() + why[1:] if not why.startswith("Value error, ") else why[len("Value error, ") :]
    return f"{settings.section}.{name}: {reason}{source}" if name else f"{settings.section}: {reason}"


def _refuse_unknown_sections(table: config_file.ConfigFile, settings: type[SectionSettings]) -> None:
    known = {settings.section, *registry.KNOWN_ELSEWHERE, *registry.sections()}
    for name in table.sections:
        if name not in known:
            raise ConfigError(f"{table.path}: there is no section [{name}]", remedy=_nearest(name, known))


def _refuse_unknown_keys(
    table: config_file.ConfigFile, section: str, settings: type[SectionSettings]
) -> None:
    if section == settings.section:
        known = settings.model_fields.keys()
    elif section in registry.sections():
        known = registry.settings_class(section).model_fields.keys()
    else:
        return
    for key in table.sections[section]:
        if key not in known:
            raise ConfigError(
                f"{table.path}: [{section}] has no setting {key!r}", remedy=_nearest(key, known)
            )


def _refuse_unknown_variables(settings: type[SectionSettings]) -> None:
    installed = registry.sections().keys() | {settings.section}
    for variable in sorted(os.environ):
        if not variable.upper().startswith(ENV_PREFIX) or variable in _RESERVED:
            continue
        section, _, field = variable[len(ENV_PREFIX) :].lower().partition("_")
        if section in installed:
            cls = settings if section == settings.section else registry.settings_class(section)
            if field in cls.model_fields:
                continue
            known = {cls.env_name(name) for name in cls.model_fields}
        elif section in registry.KNOWN_ELSEWHERE:
            continue
        else:
            known = {f"{ENV_PREFIX}{name.upper()}_…" for name in installed} | _RESERVED
        raise ConfigError(
            f"the environment variable {variable} is no setting of Stagebox", remedy=_nearest(variable, known)
        )


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    return f"known here: {', '.join(names)}" if names else "remove it"


def _plain(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, SecretBytes):
        return value.get_secret_value().decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
