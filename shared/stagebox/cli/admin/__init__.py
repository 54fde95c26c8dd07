"""``stagebox admin``: tokens, racks and bans, through the mixer's API with a client certificate."""

from __future__ import annotations

import typer

from stagebox.cli.admin import bans, inspection, meters, steps, tokens
from stagebox.cli.lazy import LazyGroup

app = typer.Typer(
    cls=LazyGroup,
    help="Administer racks: tokens, approval, bans, enrollment.",
    no_args_is_help=True,
    add_completion=False,
)
racks_app = typer.Typer(help="Racks in the registry, and who is banned.", no_args_is_help=True)
for part in (inspection, steps, meters, bans):
    racks_app.add_typer(part.app)
app.add_typer(tokens.app, name="token")
app.add_typer(racks_app, name="racks")


@app.callback()
def _group() -> None:
    """Take no options of its own."""
