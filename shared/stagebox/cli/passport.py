"""``stagebox passport``: what a rack's passport says, once its signature has been verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stagebox.cli.options import JsonOption

if TYPE_CHECKING:
    from stagebox.passport import Passport

app = typer.Typer(help="Look into a rack's passport.", no_args_is_help=True, add_completion=False)

_EXAMPLES = """
[bold]Example[/bold]

stagebox passport inspect /var/lib/stagebox/state.flux --pin cluster.pub
"""


@app.callback()
def _group() -> None:
    """Keep ``inspect`` a subcommand although it is the only one."""


@app.command(epilog=_EXAMPLES)
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The passport, usually state.flux.")],
    pin: Annotated[
        Path, typer.Option("--pin", metavar="FILE", help="The cluster's public key, cluster.pub.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Verify a passport against the pinned cluster key and show it; its secret is never shown."""
    from stagebox import passport
    from stagebox.keyfiles import load_public

    fields = _describe(passport.read(path, load_public(pin)))
    if as_json:
        typer.echo(json.dumps(fields, indent=2))
        return
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        typer.echo(f"{name:<{width}}  {value}")


def _describe(found: Passport) -> dict[str, object]:
    from stagebox.logs import printable

    return {
        "verified": True,
        "identity": found.rack_id.uri,
        "cluster": found.cluster_id,
        "name": found.name,
        "tenant": found.tenant,
        "status": found.status.value,
        "serial": found.serial,
        "machine_id": f"{found.machine_id:016x}",
        "issued_at": _utc(found.issued_at),
        "not_after": _utc(found.not_after),
        "cluster_public": found.cluster_public.hex(),
        "rack_public": found.rack_public.hex(),
        "secret": "********",
        "unknown_fields": ", ".join(printable(name) for name in sorted(found.extra)) or "none",
    }


def _utc(time_ns: int) -> str:
    from datetime import UTC, datetime, timedelta

    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    try:
        return (epoch + timedelta(microseconds=time_ns // 1000)).isoformat(timespec="seconds")
    except OverflowError:
        return f"{time_ns} ns since 1970, beyond the calendar"
