"""``stagebox lake``: what the lake holds, questions to it, its records as files, and whether it proves itself whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stagebox.cli.admin.calls import IdentityOption, MixerOption, mixer_api
from stagebox.cli.completion import one_of
from stagebox.cli.options import ConfigOption, JsonOption, invocation, settings_for
from stagebox.cli.progress import progress

if TYPE_CHECKING:
    from stagebox_mixer.lake.reading import LakeReader, Span

app = typer.Typer(help="Ask the lake of committed records.", no_args_is_help=True, add_completion=False)

DirOption = Annotated[
    Path | None, typer.Option("--dir", help="The mixer/ directory that keys gen-cluster made.")
]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="The mixer's data directory.")]
LakeOption = Annotated[
    str | None, typer.Option("--lake", metavar="PLACE", help="The lake: a directory or s3://bucket/prefix.")
]
PassphraseOption = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File with the passphrase of the keys.")
]
RackOption = Annotated[str, typer.Option("--rack", metavar="NAME", help="Only this rack.")]
FirstOption = Annotated[
    str, typer.Option("--from", metavar="DATE", help="From this UTC date on, YYYY-MM-DD.")
]
LastOption = Annotated[str, typer.Option("--to", metavar="DATE", help="Up to this UTC date.")]

_LS = """
[bold]Examples[/bold]

stagebox lake ls --dir cluster/mixer --rack stage-left --from 2026-11-01
"""
_QUERY = """
Each kind of record is a table: meter, event, alert, status, module, ack, checkpoint, seal. Levels are in dB.

[bold]Examples[/bold]

stagebox lake query "SELECT rack, date, max(list_max(true_peak)) FROM meter GROUP BY ALL ORDER BY ALL"

stagebox lake query --json "SELECT time, name, detail->>'source' AS source FROM alert ORDER BY time DESC LIMIT 20"
"""
_EXPORT = """
[bold]Examples[/bold]

stagebox lake export meter --rack stage-left --from 2026-11-01 --out november.parquet

stagebox lake export --sql "SELECT * FROM event WHERE name = 'clip'" --out clips.csv
"""
_VERIFY = """
[bold]Examples[/bold]

stagebox lake verify --dir cluster/mixer

stagebox lake verify --rack stage-left --from 2026-11-01 --to 2026-11-30 --json
"""
_HOLD = """
[bold]Examples[/bold]

stagebox lake hold case-17 --rack stage-left --from 2026-11-01 --to 2026-11-03 --reason "noise complaint"
"""


@app.command("ls", epilog=_LS)
def list_command(
    ctx: typer.Context,
    rack: RackOption = "",
    first: FirstOption = "",
    last: LastOption = "",
    directory: DirOption = None,
    data_dir: DataDirOption = None,
    lake: LakeOption = None,
    passphrase_file: PassphraseOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what the lake holds, by date, rack and kind. Works beside a running mixer."""
    span = _span(rack, first, last)
    lines = _reader(ctx, directory, data_dir, lake, passphrase_file, config).listing(span)
    if as_json:
        typer.echo(json.dumps([asdict(line) for line in lines]))
        return
    if not lines:
        typer.echo("nothing was committed yet" if span == _span("", "", "") else "there is nothing of that")
        return
    typer.echo(f"{'date':<12}{'rack':<20}{'kind':<14}{'rows':>12}{'files':>7}{'MiB':>10}  ")
    for line in lines:
        notes = ["held"] if line.held else []
        notes += [f"{line.waiting} just arrived"] if line.waiting else []
        typer.echo(
            f"{line.date:<12}{line.rack:<20}{line.kind:<14}{line.rows:>12}{line.files:>7}"
            f"{line.bytes / (1 << 20):>10.2f}  {', '.join(notes)}".rstrip()
        )


@app.command("query", epilog=_QUERY)
def query_command(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(help="A question in SQL.")],
    rack: RackOption = "",
    first: FirstOption = "",
    last: LastOption = "",
    limit: Annotated[int, typer.Option(min=1, help="Rows to show; all with --json.")] = 100,
    directory: DirOption = None,
    data_dir: DataDirOption = None,
    lake: LakeOption = None,
    passphrase_file: PassphraseOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask in SQL; --rack, --from and --to keep it from reading more than it must."""
    from stagebox_mixer.lake import query
    from stagebox_mixer.lake.export import as_text

    with _spinner("reading the lake", quiet=as_json):
        reader = _reader(ctx, directory, data_dir, lake, passphrase_file, config)
        answer = query.run(query.connect(reader, _span(rack, first, last)), sql)
        rows = answer.read_all()
    if as_json:
        for row in rows.to_pylist():
            typer.echo(json.dumps(row, default=as_text))
        return
    _show(rows, limit)


@app.command("export", epilog=_EXPORT)
def export_command(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="New file to write; its ending names the format.")],
    kind: Annotated[str, typer.Argument(help="A kind of record; or give --sql.")] = "",
    sql: Annotated[str, typer.Option(help="Write the answer to this instead of a whole kind.")] = "",
    rack: RackOption = "",
    first: FirstOption = "",
    last: LastOption = "",
    fmt: Annotated[
        str,
        typer.Option(
            "--format",
            help="parquet, arrow, csv or jsonl; by default from the ending.",
            autocompletion=one_of("parquet", "arrow", "csv", "jsonl"),
        ),
    ] = "",
    directory: DirOption = None,
    data_dir: DataDirOption = None,
    lake: LakeOption = None,
    passphrase_file: PassphraseOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write records, or the answer to a question, to a plain file that any tool reads."""
    from stagebox.errors import InputError
    from stagebox_mixer.lake import query
    from stagebox_mixer.lake.export import export

    if bool(kind) == bool(sql):
        raise InputError(
            "name a kind of record or give --sql", remedy="stagebox lake ls shows the kinds there are"
        )
    asked = sql or query.all_of(kind)
    reader = _reader(ctx, directory, data_dir, lake, passphrase_file, config)
    answer = query.run(query.connect(reader, _span(rack, first, last)), asked)
    with progress("rows written", quiet=as_json) as tell:
        rows = export(answer, out, fmt or out.suffix.lstrip("."), lambda done: tell(done, 0))
    typer.echo(json.dumps({"rows": rows, "out": str(out)}) if as_json else f"{rows} rows written to {out}")


@app.command("verify", epilog=_VERIFY)
def verify_command(
    ctx: typer.Context,
    rack: RackOption = "",
    first: FirstOption = "",
    last: LastOption = "",
    directory: DirOption = None,
    data_dir: DataDirOption = None,
    lake: LakeOption = None,
    passphrase_file: PassphraseOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every hash, signature and chain again, from the racks' seals to the rows; says exactly what was covered."""
    from stagebox_mixer.lake.verify import LakeDamageError, verify

    reader = _reader(ctx, directory, data_dir, lake, passphrase_file, config)
    try:
        with progress("verifying", quiet=as_json) as tell:
            report = verify(reader, _span(rack, first, last), tell)
    except LakeDamageError as error:
        if as_json:
            typer.echo(json.dumps({"verified": False, **asdict(error.report)}))
        raise
    if as_json:
        typer.echo(json.dumps({"verified": True, **asdict(report)}))
        return
    typer.echo(f"verified: {report.covered}")
    for gap in report.gaps:
        typer.echo(f"gap: {gap}")


@app.command("hold", epilog=_HOLD)
def hold_command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A name for the hold.")],
    reason: Annotated[str, typer.Option(help="Why; it goes to the audit.")],
    rack: RackOption = "",
    first: FirstOption = "",
    last: LastOption = "",
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep records from being removed for their age, at a running mixer."""
    with mixer_api(ctx, mixer, identity, config) as api:
        held = api.lake_hold(name, reason, rack=rack, first=first, last=last)
    typer.echo(
        json.dumps(held)
        if as_json
        else f"held: {held['rack'] or 'every rack'}, {held['first']} to {held['last']}"
    )


@app.command("holds")
def holds_command(
    ctx: typer.Context,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the legal holds of a running mixer."""
    with mixer_api(ctx, mixer, identity, config) as api:
        holds = api.lake_holds()
    if as_json:
        typer.echo(json.dumps(holds))
        return
    for held in holds:
        where = held["rack"] or "every rack"
        typer.echo(f"{held['name']:<20}{where:<20}{held['first']} to {held['last']}  {held['reason']}")
    if not holds:
        typer.echo("no legal hold is in place")


@app.command("release")
def release_command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The hold's name.")],
    reason: Annotated[str, typer.Option(help="Why; it goes to the audit.")] = "",
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
) -> None:
    """Lift a legal hold at a running mixer."""
    with mixer_api(ctx, mixer, identity, config) as api:
        api.lake_release(name, reason)
    typer.echo(f"released: {name}")


def _span(rack: str, first: str, last: str) -> Span:
    import datetime

    from stagebox.errors import InputError
    from stagebox_mixer.lake.reading import Span

    for option, date in (("--from", first), ("--to", last)):
        try:
            if date and len(date) == 10:
                datetime.date.fromisoformat(date)
            elif date:
                raise ValueError
        except ValueError:
            raise InputError(f"{option} {date!r} is no date", remedy="write it as 2026-11-27 (UTC)") from None
    return Span(rack, first, last)


def _reader(
    ctx: typer.Context,
    directory: Path | None,
    data_dir: Path | None,
    lake: str | None,
    passphrase_file: Path | None,
    config: Path | None,
) -> LakeReader:
    import datetime

    from stagebox_keys.mixer_keys import load_mixer_keys
    from stagebox_keys.storage import LAKE_LABEL
    from stagebox_mixer.cli_keys import key_passphrase
    from stagebox_mixer.lake.reading import open_reader
    from stagebox_mixer.lake.storage import open_storage
    from stagebox_mixer.settings import MixerSettings

    flags = {"dir": directory, "data_dir": data_dir, "lake": lake}
    settings = settings_for(ctx, MixerSettings, flags, config=config)
    secret = key_passphrase(settings, passphrase_file, config or invocation(ctx).config)
    keys = load_mixer_keys(settings.dir, secret, now=datetime.datetime.now(datetime.UTC))
    storage = open_storage(settings.lake_place)
    return open_reader(storage, keys.storage_key(LAKE_LABEL), cluster=keys.cluster.name)


def _show(rows: Any, limit: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from stagebox_mixer.lake.export import as_text

    table = Table(box=None, header_style="bold")
    for name in rows.column_names:
        table.add_column(name)
    for row in rows.slice(0, limit).to_pylist():
        table.add_row(*(_cell(value, as_text) for value in row.values()))
    Console().print(table)
    if rows.num_rows > limit:
        typer.echo(
            f"{rows.num_rows - limit} more rows: --limit shows them, `stagebox lake export --sql` writes them"
        )


def _cell(value: Any, as_text: Callable[[Any], str]) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list):
        return ", ".join(_cell(item, as_text) for item in value)
    return "" if value is None else as_text(value)


@contextmanager
def _spinner(what: str, *, quiet: bool) -> Iterator[None]:
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
