"""``stagebox config``: the effective settings of every installed section and the origin of each."""

from __future__ import annotations

import typer

from stagebox.cli.options import ConfigOption, JsonOption, invocation

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

    from stagebox.cli.settings_view import show_sections
    from stagebox.config import load
    from stagebox.config.registry import sections, settings_class

    named = config or invocation(ctx).config
    root = invocation(ctx)
    flags = {"log": {"level": root.log_level, "format": root.log_format}}
    loaded = {name: load(settings_class(name), flags.get(name), config=named) for name in sections()}
    show_sections(loaded, as_json=as_json, out=sys.stdout)
