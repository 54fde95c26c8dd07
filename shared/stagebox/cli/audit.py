"""``stagebox audit``: read the record of who did what, and prove that nobody changed it."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from stagebox.cli.admin.calls import IdentityOption, MixerOption, mixer_api
from stagebox.cli.completion import one_of
from stagebox.cli.lazy import LazyGroup
from stagebox.cli.options import ConfigOption, JsonOption
from stagebox.cli.progress import progress

app = typer.Typer(
    cls=LazyGroup,
    help="Read the audit, and verify that nobody changed it.",
    no_args_is_help=True,
    add_completion=False,
)

_FOLLOW_EVERY_S = 1.0
_LIST_EXAMPLES = """
[bold]Examples[/bold]

stagebox audit list --rack stage-left --since 7d

stagebox audit list --result refused --action connect --limit 20

stagebox audit list --actor '*/client/admin/*' --json
"""
_VERIFY_EXAMPLES = """
[bold]Examples[/bold]

stagebox audit verify --identity ops

stagebox audit verify --expect "$(cat head-of-last-month)"
"""


@app.callback()
def _group() -> None:
    """Take no options of its own."""


@app.command("list", epilog=_LIST_EXAMPLES)
def list_rows(
    ctx: typer.Context,
    rack: Annotated[str, typer.Option("--rack", metavar="NAME", help="Only what a rack did or met.")] = "",
    subject: Annotated[
        str, typer.Option("--subject", metavar="PATTERN", help="Only what was done to this, * and ? allowed.")
    ] = "",
    action: Annotated[
        str, typer.Option("--action", metavar="PATTERN", help="Only this action, * and ? allowed.")
    ] = "",
    actor: Annotated[
        str, typer.Option("--actor", metavar="PATTERN", help="Only what this one did, * and ? allowed.")
    ] = "",
    result: Annotated[
        str,
        typer.Option(
            "--result",
            metavar="RESULT",
            help="Only ok, refused or failed ones.",
            autocompletion=one_of("ok", "refused", "failed"),
        ),
    ] = "",
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="Only from then on: 2h, 7d, or a date with or without time."
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, metavar="N", help="The newest N of them.")
    ] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new rows until Ctrl-C.")] = False,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List rows, oldest first, one a line."""
    from datetime import UTC, datetime

    from stagebox.cli import audit_rows

    wanted = audit_rows.Filter(
        rack=rack,
        subject=subject,
        action=action,
        actor=actor,
        result=result,
        since_ns=audit_rows.since(since, datetime.now(UTC)) if since is not None else 0,
    )
    render = audit_rows.as_json if as_json else audit_rows.as_line
    with mixer_api(ctx, mixer, identity, config) as api:
        rows, seen = audit_rows.newest(api.audit, wanted, limit)
        for row in rows:
            typer.echo(render(row))
        if not rows and not as_json and not follow:
            typer.echo("no such row in the audit", err=True)
        while follow:
            time.sleep(_FOLLOW_EVERY_S)
            rows, seen = audit_rows.behind(api.audit, wanted, seen)
            for row in rows:
                typer.echo(render(row))


@app.command("verify", epilog=_VERIFY_EXAMPLES)
def verify(
    ctx: typer.Context,
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect", metavar="SEQ:HEAD", help="A head noted earlier, which must still be in the audit."
        ),
    ] = None,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute the chain over every row; exit code 77 if one was altered, removed or slipped in."""
    from stagebox.audit_chain import ChainBroken, Head
    from stagebox.cli import audit_rows
    from stagebox.cli.admin.rendering import echo_json, echo_lines

    head = Head.parse(expect) if expect is not None else None
    with mixer_api(ctx, mixer, identity, config) as api, progress("verifying", quiet=as_json) as tell:
        try:
            report = audit_rows.verify(api.audit, head, tell)
        except ChainBroken as error:
            if as_json:
                echo_json({"ok": False, "seq": error.seq, "error": error.message})
            raise
    if as_json:
        echo_json(audit_rows.report_json(report))
    else:
        echo_lines(audit_rows.report_lines(report))
