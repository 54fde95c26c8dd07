"""``stagebox rack renew``: renew this rack's certificate and passport now, or when it is due; for a timer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stagebox.cli.options import ConfigOption, JsonOption, settings_for

RENEW_EXAMPLES = """
[bold]Examples[/bold]

stagebox rack renew --state-dir /var/lib/stagebox

stagebox rack renew --state-dir /var/lib/stagebox --force --rekey --json
"""


def renew(
    ctx: typer.Context,
    force: Annotated[bool, typer.Option("--force", help="Renew now, due or not.")] = False,
    rekey: Annotated[bool, typer.Option("--rekey", help="Make a new identity key for it.")] = False,
    state_dir: Annotated[Path | None, typer.Option(help="Where the identity is stored.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Renew the certificate and passport if they are due, beside a running rack or without one."""
    from dataclasses import asdict
    from datetime import UTC, datetime

    from stagebox.errors import ConfigError
    from stagebox_rack.identity.store import identity_store
    from stagebox_rack.renewal.once import renew_once
    from stagebox_rack.renewal.service import RenewalPolicy
    from stagebox_rack.settings import RackSettings

    settings = settings_for(ctx, RackSettings, {"state_dir": state_dir}, config=config)
    if rekey and settings.renew_command:
        raise ConfigError(
            "--rekey does not go with rack.renew_command: the mixer has to certify a new key",
            remedy="rekey by a configuration without rack.renew_command: stagebox rack renew --config …",
        )
    outcome = renew_once(identity_store(settings), RenewalPolicy.of(settings), force=force, rekey=rekey)
    if as_json:
        typer.echo(json.dumps(asdict(outcome)))
        return
    ends, due = (
        datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        for at in (outcome.not_after, outcome.due)
    )
    if not outcome.renewed:
        typer.echo(f"rack {outcome.rack}: not due before {due}; the certificate ends {ends}")
        return
    typer.echo(f"rack {outcome.rack} renewed: passport {outcome.serial}, certificate until {ends}")
    typer.echo("staged; the running rack takes it over within seconds, or the next one that starts")
