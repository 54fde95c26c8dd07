"""``stagebox mixer``: run the control plane."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stagebox.cli.options import (
    ConfigOption,
    LogFormatOption,
    LogLevelOption,
    PrintConfigOption,
    invocation,
    settings_for,
)

if TYPE_CHECKING:
    from stagebox_mixer.app import Mixer
    from stagebox_mixer.settings import MixerSettings

app = typer.Typer(help="Run the control plane.", no_args_is_help=True, add_completion=False)

_EXAMPLES = """
[bold]Examples[/bold]

stagebox mixer run --dir cluster/mixer

stagebox mixer run --dir cluster/mixer --public-name mixer.example.org --https-port 9443
"""

_DirOption = Annotated[
    Path | None, typer.Option("--dir", help="The mixer/ directory that keys gen-cluster made.")
]
_PublicNameOption = Annotated[
    list[str] | None,
    typer.Option(help="A host name or address racks reach this mixer by; may be given again."),
]
_ApproveOption = Annotated[
    bool | None, typer.Option("--approve/--no-approve", help="Whether an enrolled rack is active at once.")
]
_PassphraseFileOption = Annotated[Path | None, typer.Option(help="File with the passphrase of the keys.")]


@app.callback()
def _group() -> None:
    """Keep ``run`` a subcommand although it is the only one."""


@app.command(epilog=_EXAMPLES)
def run(
    ctx: typer.Context,
    directory: _DirOption = None,
    data_dir: Annotated[Path | None, typer.Option(help="Registry, streams and lake.")] = None,
    name: Annotated[str | None, typer.Option(help="This mixer's name.")] = None,
    public_name: _PublicNameOption = None,
    https_host: Annotated[str | None, typer.Option(help="Address the API listens on.")] = None,
    https_port: Annotated[int | None, typer.Option(help="Port of the API (8443).")] = None,
    snake_host: Annotated[str | None, typer.Option(help="Address the snake listens on.")] = None,
    snake_port: Annotated[int | None, typer.Option(help="Port of the snake (4222).")] = None,
    auto_approve: _ApproveOption = None,
    passphrase_file: _PassphraseFileOption = None,
    config: ConfigOption = None,
    print_config: PrintConfigOption = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Run the mixer with its embedded NATS until SIGTERM or Ctrl-C."""
    from stagebox_mixer.cli_keys import key_passphrase
    from stagebox_mixer.settings import MixerSettings

    settings = settings_for(
        ctx,
        MixerSettings,
        {
            "dir": directory,
            "data_dir": data_dir,
            "name": name,
            "public_names": tuple(public_name) if public_name else None,
            "https_host": https_host,
            "https_port": https_port,
            "snake_host": snake_host,
            "snake_port": snake_port,
            "auto_approve": auto_approve,
        },
        config=config,
        print_config=print_config,
        log_level=log_level,
        log_format=log_format,
    )
    _serve(settings, key_passphrase(settings, passphrase_file, config or invocation(ctx).config))


def _serve(settings: MixerSettings, passphrase: bytes | None) -> None:
    """Open the keys with ``passphrase`` (None: they have none) and run until the end."""
    import asyncio
    import datetime

    from stagebox_keys.mixer_keys import load_mixer_keys

    keys = load_mixer_keys(settings.dir, passphrase, now=datetime.datetime.now(datetime.UTC))
    from stagebox_mixer import app as mixer_app  # heavy, and of no use to whoever has the wrong passphrase

    asyncio.run(mixer_app.run(settings, keys, on_ready=_announce))


def _announce(mixer: Mixer) -> None:
    # The one line on standard output: scripts wait for it and read the ports when they asked for 0.
    typer.echo(f"mixer ready: https port {mixer.https_port}, snake port {mixer.snake_port}")
