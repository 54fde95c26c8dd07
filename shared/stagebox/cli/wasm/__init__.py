"""``stagebox wasm``: write, build, sign and try modules on a desk; import and assign them through the mixer's API."""

from __future__ import annotations

import typer

from stagebox.cli.lazy import LazyGroup
from stagebox.cli.wasm import build, inspect, new, remote, verify

app = typer.Typer(
    cls=LazyGroup,
    help="Wasm modules: write, build, sign, verify and try them; import and assign them.",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def _group() -> None:
    """Take no options of its own."""


app.command("new", epilog=new.EXAMPLES)(new.new)
app.command("build", epilog=build.EXAMPLES)(build.build)
app.command("verify", epilog=verify.EXAMPLES)(verify.verify)
app.command("inspect", epilog=inspect.EXAMPLES)(inspect.inspect)
app.add_typer(remote.app)
