"""Options that every run command shares, and how a command gets its settings and its log."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from stagebox.cli.completion import one_of

if TYPE_CHECKING:
    from stagebox.config import SectionSettings

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file to read settings from (also STAGEBOX_CONFIG)."),
]
PrintConfigOption = Annotated[
    bool, typer.Option("--print-config", help="Show the effective settings and their origin, then stop.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON for programs instead of text.")]
ServersOption = Annotated[
    list[str] | None,
    typer.Option("--server", metavar="URL", help="A snake's wss:// URL; may be given again."),
]
IdentityOption = Annotated[
    Path | None,
    typer.Option("--identity", metavar="DIR", help="Directory of `keys gen-client` to connect as."),
]
LogLevelOption = Annotated[
    str | None,
    typer.Option(
        "--log-level",
        metavar="LEVEL",
        help="debug, info, warning or error.",
        autocompletion=one_of("debug", "info", "warning", "error"),
    ),
]
LogFormatOption = Annotated[
    str | None,
    typer.Option(
        "--log-format",
        metavar="FORMAT",
        help="auto, console or json.",
        autocompletion=one_of("auto", "console", "json"),
    ),
]

SettingsT = TypeVar("SettingsT", bound="SectionSettings")


@dataclass(frozen=True)
class Invocation:
    """What was said before the command's name: ``stagebox --config FILE --log-format json …``."""

    config: Path | None = None
    log_level: str | None = None
    log_format: str | None = None


def invocation(ctx: typer.Context) -> Invocation:
    """Return the root options of the running command line."""
    found = ctx.find_root().obj
    return found if isinstance(found, Invocation) else Invocation()


def settings_for(
    ctx: typer.Context,
    settings: type[SettingsT],
    flags: Mapping[str, object] | None = None,
    *,
    config: Path | None = None,
    print_config: bool = False,
    log_level: str | None = None,
    log_format: str | None = None,
) -> SettingsT:
    """Load one section for a command, set up the log, and mask its secrets there.

    With ``print_config`` the effective settings are shown and the command ends. Options given after the
    command win over the same ones before it.

    Raises:
        ConfigError: a setting is wrong or unknown.
    """
    from stagebox import logs
    from stagebox.config import load
    from stagebox.config.log import LogSettings

    root = invocation(ctx)
    named = config or root.config
    loaded = load(settings, flags, config=named)
    log = load(
        LogSettings,
        {"level": log_level or root.log_level, "format": log_format or root.log_format},
        config=named,
    ).settings
    logs.setup(log.level, log.format)
    for secret in loaded.secrets():
        logs.register_secret(secret)
    if print_config:
        from stagebox.cli.settings_view import show_sections

        show_sections({settings.section: loaded}, as_json=False, out=sys.stdout)
        raise typer.Exit
    return loaded.settings
