"""``stagebox rack``: run the appliance and look into it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stagebox.cli.options import (
    ConfigOption,
    LogFormatOption,
    LogLevelOption,
    PrintConfigOption,
    settings_for,
)
from stagebox_rack.cli_renew import RENEW_EXAMPLES, renew
from stagebox_rack.cli_sources import registered_in
from stagebox_rack.cli_wal import app as wal_app

app = typer.Typer(help="Run a rack and look into it.", no_args_is_help=True, add_completion=False)
app.add_typer(wal_app, name="wal")
app.command("renew", epilog=RENEW_EXAMPLES)(renew)
registered_in(app)

_EXAMPLES = """
[bold]Examples[/bold]

stagebox rack run --state-dir /var/lib/stagebox --source device:default

stagebox rack run --state-dir /var/lib/stagebox --source 'file:/srv/programme.wav?loop=1'

stagebox rack run --state-dir state --source tone:997@-23 --wait-for-enrollment
"""


@app.command(epilog=_EXAMPLES)
def run(
    ctx: typer.Context,
    state_dir: Annotated[Path | None, typer.Option(help="Identity and write-ahead log.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="device:<name>, file:<path>[?loop=1] or tone:<Hz>@<dBFS>; may be given again."),
    ] = None,
    wait_for_enrollment: Annotated[
        bool | None,
        typer.Option("--wait-for-enrollment", help="Wait for `admin enroll` instead of stopping."),
    ] = None,
    checkpoint_interval: Annotated[
        float | None, typer.Option(help="Seconds between signed checkpoints (1).")
    ] = None,
    monitor_kbit: Annotated[int | None, typer.Option(help="Opus bit rate in kbit/s (96).")] = None,
    config: ConfigOption = None,
    print_config: PrintConfigOption = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Capture, measure, publish and journal until SIGTERM or Ctrl-C."""
    import asyncio

    from stagebox_rack.settings import RackSettings

    settings = settings_for(
        ctx,
        RackSettings,
        {
            "state_dir": state_dir,
            "sources": tuple(source) if source else None,
            "wait_for_enrollment": wait_for_enrollment,
            "checkpoint_interval": checkpoint_interval,
            "monitor_kbit": monitor_kbit,
        },
        config=config,
        print_config=print_config,
        log_level=log_level,
        log_format=log_format,
    )
    from stagebox_rack.process import run as run_rack

    asyncio.run(run_rack(settings, on_ready=lambda name: typer.echo(f"rack ready: {name}")))


@app.command("machine-id")
def show_machine_id(ctx: typer.Context, config: ConfigOption = None) -> None:
    """Print this machine's id: what `admin token create --machine-id` binds a token to."""
    from stagebox.identity import machine_id
    from stagebox_rack.settings import RackSettings

    settings = settings_for(ctx, RackSettings, config=config)
    found = settings.machine_id if settings.machine_id is not None else machine_id()
    typer.echo(f"{found:016x}")
