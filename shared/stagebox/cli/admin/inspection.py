"""``stagebox admin racks {list,show,check}``: what changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from stagebox.cli.admin.calls import Call, RackArgument, mixer_command
from stagebox.cli.admin.heartbeat import heartbeat_lines, presence_text
from stagebox.cli.admin.rendering import rack_lines, rack_notes, table_lines, time_of
from stagebox.cli.completion import one_of

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
@mixer_command
def list_racks(
    call: Call,
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            metavar="STATUS",
            help="Only pending, active, suspended, denied or removed ones.",
            autocompletion=one_of("pending", "active", "suspended", "denied", "removed"),
        ),
    ] = None,
) -> None:
    """List the registered racks."""
    with call.api() as api:
        racks = api.racks(status)
    call.show(racks, lambda: _table(racks, status))


def _table(racks: Sequence[Mapping[str, object]], status: str | None) -> list[str]:
    if not racks:
        what = "registered; make a token with `stagebox admin token create`" if status is None else status
        return [f"no rack is {what}"]
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
    return table_lines(("NAME", "TENANT", "STATUS", "PRESENCE", "MACHINE", "CERTIFICATE UNTIL", "NOTE"), rows)


@app.command("show", epilog=_SHOW_EXAMPLES)
@mixer_command
def show(
    call: Call,
    name: RackArgument,
) -> None:
    """Show one rack: its identity, its journals, whether it is there, and what it said last of itself."""
    with call.api() as api:
        rack = api.rack(name)
    call.show(rack, lambda: _everything(rack))


def _everything(rack: dict[str, object]) -> list[str]:
    heartbeat, presence = rack.pop("heartbeat", None), rack.pop("presence", None)
    lines = rack_lines(rack)
    if presence is not None:
        lines.append(f"presence  {presence_text(presence)}")
    return lines + (heartbeat_lines(heartbeat) if isinstance(heartbeat, dict) else [])


@app.command("check", epilog=_CHECK_EXAMPLES)
@mixer_command
def check(
    call: Call,
    name: RackArgument,
) -> None:
    """Send a rack a signed command and verify its signed answer: proof of which box is talking."""
    with call.api() as api:
        ack = api.check(name)
    done = ack.get("result") == "done"
    outcome = "" if done else f", but {ack.get('result')}: {ack.get('reason')}"
    answered = (
        f"{ack.get('rack')} has answered command {ack.get('seq')} after {ack.get('round_trip_ms')} ms, "
        f"signed by its identity key{outcome}"
    )
    call.show(ack, lambda: [answered])
    if not done:
        raise typer.Exit(1)
