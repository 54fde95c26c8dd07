"""``stagebox wasm {assign,unassign}``: which module runs where, and on how many racks."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from stagebox.cli.admin.calls import Call, ReasonOption, mixer_command
from stagebox.cli.completion import one_of
from stagebox.cli.wasm.remote_calls import ModuleArgument, named

app = typer.Typer()

RackOption = Annotated[
    list[str],
    typer.Option("--rack", metavar="PATTERN", help="A rack, or a pattern such as 'stage-*'; repeatable."),
]
PointOption = Annotated[
    str,
    typer.Option(
        "--point",
        metavar="POINT",
        help="meters, monitor, tap or telemetry.",
        autocompletion=one_of("meters", "monitor", "tap", "telemetry"),
    ),
]
SourceOption = Annotated[
    str, typer.Option("--source", metavar="NAME", help="The source; may be left out for telemetry only.")
]
BusOption = Annotated[str, typer.Option("--bus", metavar="NAME", help="The monitor bus, for monitor only.")]
ParamOption = Annotated[
    list[str] | None,
    typer.Option("--param", metavar="NAME=VALUE", help="A parameter's value; repeatable."),
]
PercentOption = Annotated[
    int, typer.Option("--percent", metavar="N", min=0, max=100, help="Of the racks; the others keep theirs.")
]
IdOption = Annotated[
    str | None, typer.Option("--id", metavar="ID", help="Name it, or change the one of that name.")
]

_ASSIGN = """
The points: [bold]meters[/bold] before the meters of a source, [bold]monitor[/bold] on a monitor bus, [bold]tap[/bold]
beside a source, [bold]telemetry[/bold] beside the publisher. With --id of an assignment that is there already, it is
changed: a new version replaces the one before, and goes back to it by itself where it fails.

[bold]Examples[/bold]

stagebox wasm assign acme-gain@1.2.0 --rack 'stage-*' --point meters --source main --param gain=0.5

stagebox wasm assign acme-gain@1.3.0 --id acme-gain-1f0c9b2a --rack 'stage-*' --point meters --source main --percent 10
"""
_UNASSIGN = """
[bold]Example[/bold]

stagebox wasm unassign acme-gain-1f0c9b2a --reason "the tour is over"
"""


@app.command("assign", epilog=_ASSIGN)
@mixer_command
def assign(
    call: Call,
    module: ModuleArgument,
    rack: RackOption,
    point: PointOption,
    source: SourceOption = "",
    bus: BusOption = "",
    param: ParamOption = None,
    percent: PercentOption = 100,
    assignment: IdOption = None,
    reason: ReasonOption = "",
) -> None:
    """Run a module at one place of some racks; connected ones begin at once."""
    from stagebox.cli.wasm.remote_view import assigned_lines
    from stagebox.mixer_modules import WantedAssignment

    name, version = named(module)
    wanted = WantedAssignment(
        module=name, version=version, racks=rack, point=point, source=source, bus=bus,
        params=values(param or []), percent=percent, id=assignment, reason=reason,
    )  # fmt: skip
    check_place(point, source, bus)
    with call.api() as api:
        made = api.assign(wanted)
    call.show(made, lambda: assigned_lines(made))


@app.command("unassign", epilog=_UNASSIGN)
@mixer_command
def unassign(
    call: Call,
    assignment: Annotated[str, typer.Argument(metavar="ID", help="The assignment, see `wasm list`.")],
    reason: ReasonOption = "",
) -> None:
    """Remove an assignment; racks stop what they ran by it."""
    from stagebox.identity import check_name

    check_name("assignment", assignment)
    with call.api() as api:
        answer = api.unassign(assignment, reason)
    removed = f"{answer.get('id')} is removed; connected racks stop it now, the others when they connect"
    call.show(answer, lambda: [removed])


def check_place(point: str, source: str, bus: str) -> None:
    """Demand what a place cannot do without; the mixer judges the rest.

    Raises:
        InputError: a source or a bus is not named.
    """
    from stagebox.errors import InputError

    for option, value, points in (
        ("--source", source, ("meters", "monitor", "tap")),
        ("--bus", bus, ("monitor",)),
    ):
        if point in points and not value:
            raise InputError(
                f"--point {point} needs {option} NAME",
                remedy="see what a rack has: stagebox admin racks show RACK",
            )


def values(pairs: list[str]) -> dict[str, float]:
    """Return the values that ``NAME=VALUE`` texts give.

    Raises:
        InputError: one is not of that form, is not finite, or names a parameter again.
    """
    from stagebox.errors import InputError

    found: dict[str, float] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not name or not math.isfinite(value):
            raise InputError(
                f"--param {pair!r} is not a name and a finite number",
                remedy="write NAME=VALUE, such as --param gain=-6",
            )
        if name in found:
            raise InputError(f"--param {name} is given twice", remedy="give each parameter one value")
        found[name] = value
    return found
