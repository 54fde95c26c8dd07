"""``stagebox keys``: make a cluster, make client certificates, look into what is there. Needs no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stagebox.cli.options import ConfigOption, JsonOption, settings_for
from stagebox.identity import Role

app = typer.Typer(
    help="Make and inspect a cluster's keys and certificates (works offline).",
    no_args_is_help=True,
    add_completion=False,
)

PassphraseFileOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="File whose first line is the passphrase (also STAGEBOX_KEYS_PASSPHRASE).",
    ),
]

_CLUSTER_EXAMPLES = """
[bold]Examples[/bold]

stagebox keys gen-cluster --dir cluster --name flux-prod

stagebox keys gen-cluster --dir cluster --name bench --no-passphrase --json
"""
_CLIENT_EXAMPLES = """
[bold]Examples[/bold]

stagebox keys gen-client --dir cluster --role admin --name ops --out ops

stagebox keys gen-client --dir cluster --role viewer --name wall --out wall --days 90
"""
_INSPECT_EXAMPLES = """
[bold]Examples[/bold]

stagebox keys inspect cluster/mixer

stagebox keys inspect ops/client.crt --json
"""


@app.command("gen-cluster", epilog=_CLUSTER_EXAMPLES)
def gen_cluster(
    ctx: typer.Context,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Directory to make; nothing in it is overwritten.")
    ],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the cluster is called.")],
    passphrase_file: PassphraseFileOption = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Write the private keys unencrypted.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make every key of a new cluster: root and issuing CA, cluster authority, NATS accounts, storage key."""
    from datetime import UTC, datetime

    from stagebox.errors import ConfigError
    from stagebox.identity import check_name
    from stagebox_keys import passphrase
    from stagebox_keys.cluster import generate_cluster, refuse_existing

    # Before anybody is asked for a passphrase.
    check_name("cluster", name)
    refuse_existing(directory)
    if no_passphrase and passphrase_file is not None:
        raise ConfigError("--no-passphrase and --passphrase-file contradict each other", remedy="say one")
    secret: bytes | None = None
    if not no_passphrase:
        said = _given(ctx, passphrase_file, config)
        secret = passphrase.ask_new() if said is None else passphrase.for_new_keys(said)
    made = generate_cluster(directory, name, secret, datetime.now(UTC))
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "cluster": made.info.name,
                    "directory": str(made.directory),
                    "ca_pin": made.ca_pin,
                    "encrypted": made.encrypted,
                    "files": made.files,
                },
                indent=2,
            )
        )
        return
    typer.echo(f"cluster  {made.info.name} in {made.directory}")
    typer.echo(f"CA pin   {made.ca_pin}")
    typer.echo(f"keys     {'encrypted with your passphrase' if made.encrypted else 'NOT encrypted'}")
    typer.echo("")
    typer.echo(f"{directory / 'offline'}/  root CA and NATS operator: take it off this machine, keep it safe")
    typer.echo(f"{directory / 'mixer'}/    all a mixer needs: stagebox mixer run --dir {directory / 'mixer'}")
    typer.echo(f"{directory / 'ca.pem'}, {directory / 'cluster.pub'}  public: what racks and clients trust")


@app.command("gen-client", epilog=_CLIENT_EXAMPLES)
def gen_client(
    ctx: typer.Context,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="The cluster directory, or its mixer directory.")
    ],
    role: Annotated[Role, typer.Option("--role", help="What the client may do.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Who it is for.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory to make for the client.")],
    days: Annotated[int, typer.Option("--days", metavar="N", help="Validity of the certificate.")] = 365,
    passphrase_file: PassphraseFileOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Issue an mTLS client certificate for a person or tool."""
    from datetime import UTC, datetime

    from stagebox.identity import check_name
    from stagebox_keys import layout, passphrase
    from stagebox_keys.client import generate_client, mixer_directory
    from stagebox_keys.cluster import refuse_existing

    check_name("client", name)
    refuse_existing(out)
    issuing_key = mixer_directory(directory) / layout.ISSUING_KEY
    file, value = _sources(ctx, passphrase_file, config)
    secret = passphrase.to_open(issuing_key, file, value, file_first=passphrase_file is not None)
    made = generate_client(directory, role, name, out, secret, datetime.now(UTC), days)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "identity": made.identity.uri,
                    "directory": str(made.directory),
                    "fingerprint": made.fingerprint,
                    "not_after": made.not_after.isoformat(),
                    "files": made.files,
                },
                indent=2,
            )
        )
        return
    typer.echo(f"identity     {made.identity.uri}")
    typer.echo(f"valid until  {made.not_after:%Y-%m-%d}")
    typer.echo(f"fingerprint  {made.fingerprint}")
    typer.echo(f"files        {', '.join(made.files)} in {made.directory}")
    typer.echo("The key is not encrypted: whoever reads the directory is this client.")


@app.command("inspect", epilog=_INSPECT_EXAMPLES)
def inspect_path(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or a directory of them.")],
    passphrase_file: PassphraseFileOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Describe keys, certificates and NATS tokens; secrets are never shown."""
    from datetime import UTC, datetime

    from stagebox_keys.inspection import inspect

    found = inspect(path, _given(ctx, passphrase_file, config), datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for facts in found:
            _echo_facts(facts)
    if any("error" in facts for facts in found):
        raise typer.Exit(1)


def _echo_facts(facts: dict[str, object]) -> None:
    from stagebox.logs import printable

    width = max(len(name) for name in facts)
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        typer.echo(f"{name:<{width}}  {printable(shown)}")
    typer.echo("")


def _given(ctx: typer.Context, flag: Path | None, config: Path | None) -> bytes | None:
    from stagebox_keys.passphrase import given

    file, value = _sources(ctx, flag, config)
    return given(file, value, file_first=flag is not None)


def _sources(ctx: typer.Context, flag: Path | None, config: Path | None) -> tuple[Path | None, str | None]:
    from stagebox_keys.settings import KeysSettings

    settings = settings_for(ctx, KeysSettings, {"passphrase_file": flag}, config=config)
    return settings.passphrase_file, settings.passphrase.get_secret_value() if settings.passphrase else None
