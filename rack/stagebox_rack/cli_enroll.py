"""``stagebox admin enroll``: give this machine an identity, with physical access and a one-time token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stagebox.cli.lazy import epilog
from stagebox.cli.options import ConfigOption, JsonOption, settings_for

_EXAMPLES = """
[bold]Example[/bold]

stagebox admin enroll --mixer https://mixer:8443 --token sbt-… --ca-pin sha256:… --state-dir /var/lib/stagebox
"""


@epilog(_EXAMPLES)
def enroll(
    ctx: typer.Context,
    mixer: Annotated[str, typer.Option(help="Base URL of the mixer's API, https://<host>:8443.")],
    ca_pin: Annotated[str, typer.Option(help="CA pin that `admin token create` printed.")],
    token: Annotated[
        str | None,
        typer.Option(
            help="One-time token; better by --token-file, since other users may see a command line."
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File that holds the token; - reads standard input.")
    ] = None,
    rack: Annotated[
        str | None,
        typer.Option(
            help="Refuse a token that is for another rack; with a shared token, the rack to become."
        ),
    ] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Where the identity is stored.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Enroll this machine as a rack. Run it on the rack itself."""
    from stagebox.errors import ConfigError
    from stagebox.identity import machine_id
    from stagebox_rack.enrollment import check_pin, parse_mixer_url
    from stagebox_rack.enrollment import enroll as run_enrollment
    from stagebox_rack.settings import RackSettings
    from stagebox_rack.state import StatePaths

    settings = settings_for(ctx, RackSettings, {"state_dir": state_dir}, config=config)
    if (token is None) == (token_file is None):
        raise ConfigError("give the one-time token by --token or --token-file, one of the two")
    passport = run_enrollment(
        StatePaths(settings.state_dir),
        mixer=parse_mixer_url(mixer),
        token=token if token is not None else _read_token(token_file),
        pin=check_pin(ca_pin),
        machine_id=settings.machine_id if settings.machine_id is not None else machine_id(),
        rack=rack,
    )
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "rack": passport.name,
                    "cluster": passport.cluster_id,
                    "status": passport.status.value,
                    "serial": passport.serial,
                    "state_dir": str(settings.state_dir),
                }
            )
        )
        return
    typer.echo(f"enrolled as rack {passport.name} of cluster {passport.cluster_id} ({passport.status.value})")
    if passport.status.value == "pending":
        typer.echo(f"it captures once an operator approves it: stagebox admin racks approve {passport.name}")
    typer.echo(f"start it: stagebox rack run --state-dir {settings.state_dir}")


def _read_token(path: Path | None) -> str:
    import sys

    from stagebox.errors import InputError

    if path is None or str(path) == "-":
        return sys.stdin.readline().strip()
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"cannot read the token file {path}") from None
