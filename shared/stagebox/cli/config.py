"""``stagebox config``: the effective settings of every installed section and the origin of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

import typer

from stagebox.cli.options import ConfigOption, JsonOption, invocation

if TYPE_CHECKING:
    from stagebox.config import Loaded

app = typer.Typer(
    help="Show the effective configuration and where it comes from.",
    no_args_is_help=True,
    add_completion=False,
)

_EXAMPLES = """
[bold]Examples[/bold]

stagebox config show

STAGEBOX_CLIENT_MIXER=https://mixer:8443 stagebox config show --json
"""


@app.callback()
def _group() -> None:
    """Keep ``show`` a subcommand although it is the only one."""


@app.command(epilog=_EXAMPLES)
def show(ctx: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show every setting with its value and origin; secrets are masked."""
    import sys

    from stagebox.config import load
    from stagebox.config.registry import sections, settings_class

    named = config or invocation(ctx).config
    root = invocation(ctx)
    flags = {"log": {"level": root.log_level, "format": root.log_format}}
    loaded = {name: load(settings_class(name), flags.get(name), config=named) for name in sections()}
    show_sections(loaded, as_json=as_json, out=sys.stdout)


def show_sections(loaded: Mapping[str, Loaded[Any]], *, as_json: bool, out: TextIO) -> None:
    """Write sections as TOML with the origin of each value in a comment, or as JSON."""
    if as_json:
        document = {
            name: {
                field: {"value": value, "origin": str(section.origins[field])}
                for field, value in section.shown().items()
            }
            for name, section in loaded.items()
        }
        out.write(json.dumps(document, indent=2) + "\n")
        return
    for name, section in loaded.items():
        lines = {
            field: f"{field} = {_toml(value)}" if value is not None else f"# {field} is not set"
            for field, value in section.shown().items()
        }
        width = min(max((len(line) for line in lines.values()), default=0), 60)
        out.write(f"[{name}]\n")
        for field, line in lines.items():
            out.write(f"{line:<{width}}  # {section.origins[field]}\n")
        out.write("\n")


def _toml(value: object) -> str:
    # JSON's texts, numbers, booleans and flat lists are TOML as they stand.
    return json.dumps(value, ensure_ascii=False)
