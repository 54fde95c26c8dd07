"""``stagebox wasm inspect``: everything a module file says, none of it verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stagebox.cli.options import JsonOption

EXAMPLES = """
[bold]Examples[/bold]

stagebox wasm inspect acme-gain.signed.wasm

stagebox wasm inspect acme-gain.signed.wasm --json
"""


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A module, signed or not.")],
    as_json: JsonOption = False,
) -> None:
    """Show a module's sections, interface, parameters and signatures. Verifies nothing: see `wasm verify`."""
    from stagebox.cli.wasm.describing import describe, echo_rows, rows
    from stagebox.cli.wasm.reading import coded, read_module
    from stagebox.logs import printable

    with coded(str(file)):
        facts = describe(read_module(file))
    if as_json:
        typer.echo(json.dumps({"file": str(file), "verified": False, **facts}))
        return
    parts = {name: facts.pop(name) for name in ("sections", "vendor", "cluster")}
    echo_rows(rows({"file": str(file), **facts}))
    typer.echo("")
    typer.echo("sections")
    for section in parts["sections"]:
        kind = "custom " if section["custom"] else ""
        typer.echo(
            f"    {section['offset']:>8} {section['bytes']:>8} bytes  {kind}{printable(section['name'])}"
        )
    for who, title in (("vendor", "vendor's signature"), ("cluster", "countersignature")):
        typer.echo("")
        if parts[who] is None:
            typer.echo(f"{title}: none")
            continue
        typer.echo(f"{title} (UNVERIFIED)")
        echo_rows([(f"    {name}", text) for name, text in rows(parts[who])])
