"""``stagebox admin racks {list,show,check}``: what changes nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from stagebox.cli.admin.calls import IdentityOption, MixerOption, RackArgument, mixer_api
from stagebox.cli.admin.heartbeat import heartbeat_lines, presence_text
from stagebox.cli.admin.rendering import (
    echo_json,
    echo_lines,
    rack_lines,
    rack_notes,
    table_lines,
    time_of,
)
from stagebox.cli.options import ConfigOption, JsonOption

app = typer.Typer()

_LIST_EXAMPLES = """
[bold]Examples[/bold]

stagebox admin racks list --identity ops

stagebox admin racks list --status suspended --json
"""
_SHOW_EXAMPLES = """
[bold]Example[/bold]

stagebox admin racks show stage-left --identity ops
"""
_CHECK_EXAMPLES = """
[bold]Example[/bold]

stagebox admin racks check stage-left --identity ops
"""


@app.command("list", epilog=_LIST_EXAMPLES)
def list_racks(
    ctx: typer.Context,
    status: Annotated[
        str | None,
        typer.Option(
            "--status", metavar="STATUS", help="Only pending, active, suspended, denied or removed ones."
        ),
    ] = None,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the registered racks."""
    with mixer_api(ctx, mixer, identity, config) as api:
        racks = api.racks(status)
    if as_json:
        echo_json(racks)
        return
    if not racks:
        what = "registered; make a token with `stagebox admin token create`" if status is None else status
        echo_lines([f"no rack is {what}"])
        return
    rows = [
        (
            *(str(rack.get(field, "")) for field in ("name", "tenant", "status")),
            presence_text(rack.get("presence")),
            str(rack.get("machine_id", "")),
            time_of(rack, "certificate_not_after"),
            rack_notes(rack),
        )
        for rack in racks
    ]
    echo_lines(
        table_lines(("NAME", "TENANT", "STATUS", "PRESENCE", "MACHINE", "CERTIFICATE UNTIL", "NOTE"), rows)
    )


@app.command("show", epilog=_SHOW_EXAMPLES)
def show(
    ctx: typer.Context,
    name: RackArgument,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one rack: its identity, its journals, whether it is there, and what it said last of itself."""
    with mixer_api(ctx, mixer, identity, config) as api:
        rack = api.rack(name)
    if as_json:
        echo_json(rack)
        return
    heartbeat, presence = rack.pop("heartbeat", None), rack.pop("presence", None)
    lines = rack_lines(rack)
    if presence is not None:
        lines.append(f"presence  {presence_text(presence)}")
    echo_lines(lines + (heartbeat_lines(heartbeat) if isinstance(heartbeat, dict) else []))


@app.command("check", epilog=_CHECK_EXAMPLES)
def check(
    ctx: typer.Context,
    name: RackArgument,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a rack a signed command and verify its signed answer: proof of which box is talking."""
    with mixer_api(ctx, mixer, identity, config) as api:
        ack = api.check(name)
    done = ack.get("result") == "done"
    if as_json:
        echo_json(ack)
    else:
        outcome = "" if done else f", but {ack.get('result')}: {ack.get('reason')}"
        echo_lines(
            [
                f"{ack.get('rack')} has answered command {ack.get('seq')} after {ack.get('round_trip_ms')} ms, "
                f"signed by its identity key{outcome}"
            ]
        )
    if not done:
        raise typer.Exit(1)
