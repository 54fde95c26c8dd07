"""``stagebox admin racks {approve,suspend,activate,rotate-secret,remove}``: what changes a rack's standing."""

from __future__ import annotations

from typing import Any

import typer

from stagebox.cli.admin.calls import (
    IdentityOption,
    MixerOption,
    RackArgument,
    ReasonOption,
    YesOption,
    confirm,
    mixer_api,
)
from stagebox.cli.admin.rendering import echo_json, echo_lines, rack_lines
from stagebox.cli.options import ConfigOption, JsonOption

app = typer.Typer()

_EXAMPLES = """
[bold]Example[/bold]

stagebox admin racks {command} --identity ops
"""


@app.command("approve", epilog=_EXAMPLES.format(command="approve stage-left"))
def approve(
    ctx: typer.Context,
    name: RackArgument,
    reason: ReasonOption = "",
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a pending rack in; it begins to capture by itself."""
    with mixer_api(ctx, mixer, identity, config) as api:
        _echo(api.approve(name, reason), as_json)


@app.command("suspend", epilog=_EXAMPLES.format(command='suspend stage-left --reason "moved to the store"'))
def suspend(
    ctx: typer.Context,
    name: RackArgument,
    reason: ReasonOption = "",
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a rack stay connected and do nothing: it stops capturing at once and takes commands only."""
    with mixer_api(ctx, mixer, identity, config) as api:
        _echo(api.suspend(name, reason), as_json)


@app.command("activate", epilog=_EXAMPLES.format(command='activate stage-left --reason "back on stage"'))
def activate(
    ctx: typer.Context,
    name: RackArgument,
    reason: ReasonOption = "",
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a rack's suspension."""
    with mixer_api(ctx, mixer, identity, config) as api:
        _echo(api.activate(name, reason), as_json)


@app.command("rotate-secret", epilog=_EXAMPLES.format(command="rotate-secret stage-left"))
def rotate_secret(
    ctx: typer.Context,
    name: RackArgument,
    reason: ReasonOption = "",
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a rack a new passport secret; the old one holds until the rack has connected with the new one."""
    with mixer_api(ctx, mixer, identity, config) as api:
        _echo(api.rotate_secret(name, reason), as_json)


@app.command("remove", epilog=_EXAMPLES.format(command='remove stage-left --reason "sold"'))
def remove(
    ctx: typer.Context,
    name: RackArgument,
    reason: ReasonOption = "",
    yes: YesOption = False,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a rack out of the registry (it may enroll again; to shut it out, deny it)."""
    with mixer_api(ctx, mixer, identity, config) as api:
        confirm(
            f"Remove rack {name}? Its key, certificate and passport are worth nothing from then on.", yes=yes
        )
        removed = api.remove(name, reason)
    if as_json:
        echo_json(removed)
        return
    echo_lines([f"rack {name} is removed; with a new token it can enroll again"])


def _echo(rack: dict[str, Any], as_json: bool) -> None:
    if as_json:
        echo_json(rack)
    else:
        echo_lines(rack_lines(rack))
