"""The base class of one section of settings, and field types that read well on every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

ENV_PREFIX = "STAGEBOX_"
_SECRET_WORDS = frozenset({"token", "secret", "passphrase", "password", "seed"})


class SectionSettings(BaseSettings):
    """Settings of one ``[section]``; subclasses set ``section`` and declare flat, described fields.

    The layers are put together by :func:`stagebox.config.load`; constructing a class directly uses only the
    arguments given and the defaults.
    """

    section: ClassVar[str]

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_ignore_empty=True, hide_input_in_errors=True, validate_default=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing implicitly: ``load`` merges the layers itself to know where each value came from."""
        return (init_settings,)

    @classmethod
    def env_prefix(cls) -> str:
        """Prefix of this section's environment variables, e.g. ``STAGEBOX_MIXER_``."""
        return f"{ENV_PREFIX}{cls.section.upper()}_"

    @classmethod
    def env_name(cls, field: str) -> str:
        """Environment variable of one field."""
        return cls.env_prefix() + field.upper()


def is_secret(name: str, field: FieldInfo) -> bool:
    """Tell whether a setting must never be shown: by its type, or by a name such as ``…_token``."""
    if _has_secret_type(field.annotation):
        return True
    if field.annotation is bool:
        return False
    # Where a secret is, and whom it is for, is not the secret.
    words = name.split("_")
    return words[-1] not in {"file", "dir", "path", "racks"} and not _SECRET_WORDS.isdisjoint(words)


def _has_secret_type(annotation: object) -> bool:
    if annotation in (SecretStr, SecretBytes):
        return True
    return any(_has_secret_type(part) for part in getattr(annotation, "__args__", ()))


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A list of texts; in the environment and in flags it is written with commas."""

UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
"""A path in which a leading ``~`` is the user's home."""
