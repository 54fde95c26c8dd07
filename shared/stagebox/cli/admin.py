"""``stagebox admin``: enrollment tokens and racks, through the mixer's API with a client certificate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stagebox.cli.lazy import LazyGroup
from stagebox.cli.options import ConfigOption, JsonOption, settings_for

if TYPE_CHECKING:
    from stagebox.cli.mixer_api import MixerApi

app = typer.Typer(
    cls=LazyGroup,
    help="Administer racks: tokens, approval, enrollment.",
    no_args_is_help=True,
    add_completion=False,
)
token_app = typer.Typer(help="One-time enrollment tokens.", no_args_is_help=True)
racks_app = typer.Typer(help="Racks in the registry.", no_args_is_help=True)
app.add_typer(token_app, name="token")
app.add_typer(racks_app, name="racks")

MixerOption = Annotated[
    str | None, typer.Option("--mixer", metavar="URL", help="Base URL of the mixer's API.")
]
IdentityOption = Annotated[
    Path | None,
    typer.Option("--identity", metavar="DIR", help="Directory of `keys gen-client` to speak as."),
]
RackArgument = Annotated[str, typer.Argument(metavar="NAME", help="The rack's name.")]

_CREATE_EXAMPLES = """
[bold]Examples[/bold]

stagebox admin token create --rack stage-left --identity ops

stagebox admin token create --rack stage-left --ttl 2h --json
"""
_RACKS_EXAMPLES = """
[bold]Example[/bold]

stagebox admin racks {command} --identity ops
"""


@app.callback()
def _group() -> None:
    """Take no options of its own."""


@token_app.callback()
def _token_group() -> None:
    """Keep ``create`` a subcommand although it is the only one."""


@token_app.command("create", epilog=_CREATE_EXAMPLES)
def token_create(
    ctx: typer.Context,
    rack: Annotated[str, typer.Option("--rack", metavar="NAME", help="The rack the token is for.")],
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="DURATION", help="How long it can be used, at most 24h.")
    ] = "15m",
    machine_id: Annotated[
        str | None,
        typer.Option("--machine-id", metavar="HEX", help="Accept only the machine with this id."),
    ] = None,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a one-time token with which one rack can enroll; it is shown this once."""
    from stagebox.cli.durations import seconds
    from stagebox.identity import check_name

    check_name("rack", rack)
    ttl_s, machine = seconds(ttl, "--ttl"), _machine_id(machine_id)
    with _api(ctx, mixer, identity, config) as api:
        made = api.create_token(rack, ttl_s, machine)
    if as_json:
        _echo_json(made)
        return
    typer.echo(f"token    {made.get('token')}")
    typer.echo(f"rack     {made.get('rack')}")
    typer.echo(f"expires  {_utc(made.get('expires_at'))}")
    typer.echo(f"CA pin   {made.get('ca_pin')}")
    typer.echo("")
    typer.echo("The token is not shown again. On the rack:")
    typer.echo(
        f"  stagebox admin enroll --mixer {made.get('mixer')} --token {made.get('token')} "
        f"--ca-pin {made.get('ca_pin')} --state-dir /var/lib/stagebox"
    )


@racks_app.command("list", epilog=_RACKS_EXAMPLES.format(command="list"))
def racks_list(
    ctx: typer.Context,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every registered rack."""
    with _api(ctx, mixer, identity, config) as api:
        racks = api.racks()
    if as_json:
        _echo_json(racks)
        return
    if not racks:
        typer.echo("no rack is registered; make a token with `stagebox admin token create`")
        return
    _echo_table(
        ("NAME", "TENANT", "STATUS", "MACHINE", "CERTIFICATE UNTIL"),
        [
            (
                *(str(rack.get(field, "")) for field in ("name", "tenant", "status", "machine_id")),
                _utc(rack.get("certificate_not_after")),
            )
            for rack in racks
        ],
    )


@racks_app.command("show", epilog=_RACKS_EXAMPLES.format(command="show stage-left"))
def racks_show(
    ctx: typer.Context,
    name: RackArgument,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one rack."""
    with _api(ctx, mixer, identity, config) as api:
        rack = api.rack(name)
    _echo_rack(rack, as_json)


@racks_app.command("approve", epilog=_RACKS_EXAMPLES.format(command="approve stage-left"))
def racks_approve(
    ctx: typer.Context,
    name: RackArgument,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a pending rack onto the bus."""
    with _api(ctx, mixer, identity, config) as api:
        rack = api.approve(name)
    _echo_rack(rack, as_json)


@contextmanager
def _api(
    ctx: typer.Context, mixer: str | None, identity: Path | None, config: Path | None
) -> Iterator[MixerApi]:
    from stagebox.cli.mixer_api import MixerApi
    from stagebox.config.client import ClientSettings

    settings = settings_for(ctx, ClientSettings, {"mixer": mixer, "identity": identity}, config=config)
    with MixerApi(settings.mixer, settings.identity) as api:
        yield api


def _machine_id(text: str | None) -> int | None:
    from stagebox.errors import InputError

    if text is None:
        return None
    try:
        value = int(text, 16)
    except ValueError:
        value = 0
    if not 0 < value < 1 << 64:
        raise InputError(
            f"--machine-id {text!r} is not a machine id",
            remedy="write the 16 hexadecimal digits that `stagebox admin enroll` shows",
        )
    return value


def _echo_rack(rack: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _echo_json(rack)
        return
    width = max((len(field) for field in rack), default=0)
    for field, value in rack.items():
        if field == "wal" and isinstance(value, list):
            for journal in value:
                _echo_rack({f"wal.{key}": item for key, item in journal.items()}, as_json=False)
        elif field != "v":
            shown = _utc(value) if field.endswith(("_at", "_after")) else str(value)
            _echo_line(f"{field:<{width}}  {shown}")


def _echo_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        _echo_line("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _echo_line(text: str) -> None:
    from stagebox.logs import printable

    typer.echo(printable(text))


def _echo_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


def _utc(time_ns: object) -> str:
    from datetime import UTC, datetime

    if not isinstance(time_ns, int):
        return str(time_ns)
    try:
        return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).isoformat(timespec="seconds")
    except (OverflowError, OSError, ValueError):
        return f"{time_ns} ns since 1970"
