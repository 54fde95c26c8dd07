"""``stagebox keys``: make a cluster, client certificates, module vendors; look into what is there. Needs no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stagebox.cli.options import ConfigOption, JsonOption
from stagebox.identity import Role
from stagebox.modules.capabilities import Capability
from stagebox_keys import cli_passphrase
from stagebox_keys.cli_passphrase import NoPassphraseOption, PassphraseFileOption

if TYPE_CHECKING:
    from stagebox_keys.vendor import NewVendor

app = typer.Typer(
    help="Make and inspect a cluster's keys and certificates (works offline).",
    no_args_is_help=True,
    add_completion=False,
)

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
_VENDOR_EXAMPLES = """
[bold]Examples[/bold]

stagebox keys gen-vendor --owner acme --out acme

stagebox keys gen-vendor --owner acme --out acme --module 'acme-*' --capability audio --capability log --days 365
"""
_INSPECT_EXAMPLES = """
[bold]Examples[/bold]

stagebox keys inspect cluster/mixer

stagebox keys inspect acme/vendor.toml

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
    no_passphrase: NoPassphraseOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make every key of a new cluster: root and issuing CA, cluster authority, NATS accounts, storage key."""
    from datetime import UTC, datetime

    from stagebox.identity import check_name
    from stagebox_keys.cluster import generate_cluster, refuse_existing

    # Before anybody is asked for a passphrase.
    check_name("cluster", name)
    refuse_existing(directory)
    secret = cli_passphrase.for_new_keys(ctx, passphrase_file, no_passphrase, config)
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
    from stagebox_keys import layout
    from stagebox_keys.client import generate_client, mixer_directory
    from stagebox_keys.cluster import refuse_existing

    check_name("client", name)
    refuse_existing(out)
    issuing_key = mixer_directory(directory) / layout.ISSUING_KEY
    secret = cli_passphrase.to_open(ctx, issuing_key, passphrase_file, config)
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


@app.command("gen-vendor", epilog=_VENDOR_EXAMPLES)
def gen_vendor(
    ctx: typer.Context,
    owner: Annotated[str, typer.Option("--owner", metavar="NAME", help="Who signs modules with the key.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory to make for the vendor.")],
    days: Annotated[int, typer.Option("--days", metavar="N", help="How long the key is trusted.")] = 730,
    module: Annotated[
        list[str] | None,
        typer.Option(
            "--module", metavar="PATTERN", help="Names it signs, such as 'acme-*'; may be given again."
        ),
    ] = None,
    capability: Annotated[
        list[Capability] | None,
        typer.Option(
            "--capability", help="What its modules may ask for; may be given again. All but clock if none."
        ),
    ] = None,
    passphrase_file: PassphraseFileOption = None,
    no_passphrase: NoPassphraseOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the key that signs a vendor's Wasm modules, and the file a mixer's operator trusts it by."""
    from datetime import UTC, datetime

    from stagebox.identity import check_name
    from stagebox_keys.cluster import refuse_existing
    from stagebox_keys.inspection import vendor_facts
    from stagebox_keys.vendor import ANY_MODULE, USUAL_CAPABILITIES, generate_vendor

    check_name("vendor", owner)
    refuse_existing(out)
    now = datetime.now(UTC)
    made = generate_vendor(
        out,
        owner,
        cli_passphrase.for_new_keys(ctx, passphrase_file, no_passphrase, config),
        now,
        days=days,
        capabilities=capability or USUAL_CAPABILITIES,
        modules=module or ANY_MODULE,
    )
    _say_vendor(made, vendor_facts(made.root, now), as_json=as_json)


def _say_vendor(made: NewVendor, facts: dict[str, object], *, as_json: bool) -> None:
    from stagebox_keys import layout

    if as_json:
        whole = {**facts, "directory": str(made.directory), "encrypted": made.encrypted, "files": made.files}
        typer.echo(json.dumps(whole, indent=2))
        return
    key, root = made.directory / layout.VENDOR_KEY, made.directory / layout.VENDOR_TOML
    _echo_facts(facts)
    protected = "encrypted with your passphrase" if made.encrypted else "NOT encrypted"
    typer.echo(f"{key}   signs modules, {protected}: stagebox wasm sign FILE --key {key}")
    typer.echo(f"{root}  public: a mixer's operator narrows it and puts it into data/wasm/keys")


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

    found = inspect(path, cli_passphrase.given(ctx, passphrase_file, config), datetime.now(UTC))
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
