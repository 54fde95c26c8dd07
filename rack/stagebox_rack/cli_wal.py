"""``stagebox rack wal``: what the rack's journal holds, whether it proves itself whole, its records, its key."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stagebox.cli.completion import one_of
from stagebox.cli.options import ConfigOption, JsonOption, settings_for
from stagebox.cli.progress import progress

if TYPE_CHECKING:
    from nacl.signing import SigningKey

    from stagebox_rack.state import StatePaths

app = typer.Typer(help="Look into the write-ahead log.", no_args_is_help=True, add_completion=False)

StateDirOption = Annotated[Path | None, typer.Option("--state-dir", help="The rack's state directory.")]

_EXAMPLES = """
[bold]Examples[/bold]

stagebox rack wal ls --state-dir /var/lib/stagebox

stagebox rack wal verify --state-dir /var/lib/stagebox --json

stagebox rack wal export --state-dir /var/lib/stagebox --out records.parquet

stagebox rack wal repair --state-dir /var/lib/stagebox --dry-run

stagebox rack wal rekey --state-dir /var/lib/stagebox
"""


@app.command("ls", epilog=_EXAMPLES)
def list_command(
    ctx: typer.Context,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the journal's files. Works beside a running rack."""
    from stagebox_rack.wal.inspect import list_files

    entries = list_files(_paths(ctx, state_dir, config).wal)
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries]))
        return
    if not entries:
        typer.echo("the journal is empty")
        return
    typer.echo(f"{'kind':<11}{'first':>10}{'last':>10}{'bytes':>12}  file")
    for entry in entries:
        first, last = (str(n) if n else "-" for n in (entry.first, entry.last))
        typer.echo(f"{entry.kind:<11}{first:>10}{last:>10}{entry.size:>12}  {entry.name}")


@app.command("verify", epilog=_EXAMPLES)
def verify_command(
    ctx: typer.Context,
    state_dir: StateDirOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every seal, hash, frame and chain link; says exactly what was covered."""
    from stagebox_rack.wal.inspect import JournalDamageError, verify

    paths = _paths(ctx, state_dir, config)
    try:
        with progress("verifying", quiet=as_json) as tell:
            public, earlier = _rack_keys(paths)
            report = verify(paths.wal, public, earlier=earlier, progress=tell)
    except JournalDamageError as error:
        if as_json:
            typer.echo(json.dumps({"verified": False, **asdict(error.report)}))
        raise
    if as_json:
        typer.echo(json.dumps({"verified": True, **asdict(report)}))
    else:
        typer.echo(f"verified: {report.covered}")


@app.command("export", epilog=_EXAMPLES)
def export_command(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="New file to write; its ending names the format.")],
    state_dir: StateDirOption = None,
    fmt: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="parquet, jsonl or csv; by default from the ending.",
            autocompletion=one_of("parquet", "jsonl", "csv"),
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write every record that verifies to a plain file that any tool reads."""
    from stagebox_rack.wal.export import export

    paths = _paths(ctx, state_dir, config)
    with progress("exporting", quiet=as_json) as tell:
        public, earlier = _rack_keys(paths)
        report = export(paths.wal, out, fmt or out.suffix.lstrip("."), public, earlier=earlier, progress=tell)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        typer.echo(f"{report.records} records ({report.first}-{report.last}) written to {out}")
        for problem in report.problems:
            typer.echo(f"left out: {problem}", err=True)


@app.command("repair", epilog=_EXAMPLES)
def repair_command(
    ctx: typer.Context,
    state_dir: StateDirOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; say what would be done.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set damaged files aside, keep what verifies in them, put back what fits, verify. The rack must not run."""
    from stagebox_rack.wal.repair import repair

    paths = _paths(ctx, state_dir, config)
    with progress("repairing", quiet=as_json) as tell:
        rack, key, earlier = _rack_identity(paths)
        report = repair(paths.wal, key, earlier, rack=rack, dry_run=dry_run, progress=tell)
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        for action in report.actions:
            typer.echo(f"would {action}" if dry_run else str(action))
        if not report.actions:
            typer.echo("there is nothing to repair")
        for first, last in report.missing:
            typer.echo(f"still missing: records {first}-{last}", err=True)
        if report.verified is not None:
            typer.echo(f"what verifies: {report.verified.covered}")
    report.require_whole()


@app.command("rekey", epilog=_EXAMPLES)
def rekey_command(
    ctx: typer.Context,
    state_dir: StateDirOption = None,
    protection: Annotated[
        Literal["auto", "file", "credential", "tpm2"],
        typer.Option(help="What protects the keys; auto: a credential, else a TPM, else the file's mode."),
    ] = "auto",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give the journal a new key, or finish that; its records stay as they are. The rack must not run."""
    from stagebox_rack.wal.kek_protection import Protection
    from stagebox_rack.wal.rotation import rotate

    paths = _paths(ctx, state_dir, config)
    public, earlier = _rack_keys(paths)
    done = rotate(paths.wal, public, earlier, protection=Protection(protection))
    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    what = "new journal key" if done.created else "journal key"
    dropped = f", dropped {', '.join(map(str, done.dropped))}" if done.dropped else ""
    typer.echo(
        f"{what} version {done.version} ({done.protection}): {done.rewrapped} segments rewrapped{dropped}"
    )
    for version, names in done.held.items():
        typer.echo(
            f"version {version} is still needed by {len(names)} files ({names[0]} …): run the rack until its hot "
            "files are sealed, then call this again; what is in quarantine keeps it until moved away",
            err=True,
        )


def _paths(ctx: typer.Context, state_dir: Path | None, config: Path | None) -> StatePaths:
    from stagebox.errors import StorageError
    from stagebox_rack.settings import RackSettings
    from stagebox_rack.state import StatePaths

    paths = StatePaths(settings_for(ctx, RackSettings, {"state_dir": state_dir}, config=config).state_dir)
    if not paths.wal.is_dir():
        raise StorageError(f"there is no journal in {paths.directory}", remedy="name the rack's --state-dir")
    return paths


def _rack_keys(paths: StatePaths) -> tuple[bytes, tuple[bytes, ...]]:
    """Return the rack's key and those it had before."""
    from stagebox import passport
    from stagebox_rack.identity.succession import earlier_keys
    from stagebox_rack.state import pinned_cluster

    held = passport.read(paths.passport, pinned_cluster(paths))
    return held.rack_public, earlier_keys(paths, held.name, held.rack_public)


def _rack_identity(paths: StatePaths) -> tuple[str, SigningKey, tuple[bytes, ...]]:
    """Return the rack's name, the key it signs with and the public keys it had before."""
    from stagebox import passport
    from stagebox.errors import KeyFileError
    from stagebox.keyfiles import load_ed25519, signing_key
    from stagebox_rack.state import pinned_cluster

    public, earlier = _rack_keys(paths)
    key = signing_key(load_ed25519(paths.identity_key))
    if bytes(key.verify_key) != public:
        raise KeyFileError(
            f"{paths.identity_key} is not the key that the passport beside it names",
            remedy="restore the state directory from one backup",
        )
    return passport.read(paths.passport, pinned_cluster(paths)).name, key, earlier
