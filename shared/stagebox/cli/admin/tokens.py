"""``stagebox admin token``: one-time enrollment tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from stagebox.cli.admin.calls import Call, machine_id, mixer_command
from stagebox.cli.admin.rendering import table_lines, time_of

app = typer.Typer(help="One-time enrollment tokens.", no_args_is_help=True)

_CREATE_EXAMPLES = """
[bold]Examples[/bold]

stagebox admin token create --rack stage-left --identity ops

stagebox admin token create --rack stage-left --ttl 2h --json
"""
_LIST_EXAMPLES = """
[bold]Example[/bold]

stagebox admin token list --identity ops
"""
_REVOKE_EXAMPLES = """
[bold]Example[/bold]

stagebox admin token revoke 3f9c0a51d2e47b68 --identity ops
"""


@app.callback()
def _group() -> None:
    """Take no options of its own."""


@app.command("create", epilog=_CREATE_EXAMPLES)
@mixer_command
def create(
    call: Call,
    rack: Annotated[str, typer.Option("--rack", metavar="NAME", help="The rack the token is for.")],
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="DURATION", help="How long it can be used, at most 24h.")
    ] = "15m",
    machine: Annotated[
        str | None,
        typer.Option("--machine-id", metavar="HEX", help="Accept only the machine with this id."),
    ] = None,
) -> None:
    """Make a one-time token with which one rack can enroll; it is shown this once."""
    from stagebox.cli.durations import seconds
    from stagebox.identity import check_name

    check_name("rack", rack)
    ttl_s = seconds(ttl, "--ttl")
    bound = machine_id(machine) if machine is not None else None
    with call.api() as api:
        made = api.create_token(rack, ttl_s, bound)
    call.show(
        made,
        lambda: [
            f"token    {made.get('token')}",
            f"rack     {made.get('rack')}",
            f"expires  {time_of(made, 'expires_at')}",
            f"CA pin   {made.get('ca_pin')}",
            "",
            "The token is not shown again. On the rack:",
            f"  stagebox admin enroll --mixer {made.get('mixer')} --token {made.get('token')} "
            f"--ca-pin {made.get('ca_pin')} --state-dir /var/lib/stagebox",
        ],
    )


@app.command("list", epilog=_LIST_EXAMPLES)
@mixer_command
def list_tokens(call: Call) -> None:
    """List the tokens that were made; the tokens themselves are known to nobody."""
    with call.api() as api:
        tokens = api.tokens()
    call.show(tokens, lambda: _table(tokens))


def _table(tokens: Sequence[Mapping[str, object]]) -> list[str]:
    if not tokens:
        return ["there is no token; make one with `stagebox admin token create`"]
    rows = [
        (
            *(str(token.get(field) or "any") for field in ("id", "rack", "state", "machine_id")),
            time_of(token, "expires_at"),
            str(token.get("created_by", "")),
        )
        for token in tokens
    ]
    return table_lines(("ID", "RACK", "STATE", "MACHINE", "EXPIRES", "MADE BY"), rows)


@app.command("revoke", epilog=_REVOKE_EXAMPLES)
@mixer_command
def revoke(
    call: Call,
    token_id: Annotated[
        str, typer.Argument(metavar="ID", help="The token's id, from `token list`; not the token.")
    ],
) -> None:
    """Revoke a token that was not used yet."""
    with call.api() as api:
        revoked = api.revoke_token(token_id)
    call.show(revoked, lambda: [f"the token {revoked.get('id')} for rack {revoked.get('rack')} is revoked"])
