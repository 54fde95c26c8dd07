"""``stagebox wasm new``: a starter module that builds, runs and can be signed as it is."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from stagebox.cli.options import JsonOption
from stagebox.cli.wasm.scaffold import Starter
from stagebox.modules.manifest import Language

EXAMPLES = """
[bold]Examples[/bold]

stagebox wasm new acme-gain --lang c

stagebox wasm new acme-watch --lang assemblyscript --kind telemetry
"""


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The module's name, such as acme-gain.")],
    lang: Annotated[Language, typer.Option("--lang", help="What to write it in.")],
    kind: Annotated[
        Starter, typer.Option("--kind", help="Is it given audio, or meter frames?")
    ] = Starter.AUDIO,
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Directory to make; NAME if not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a starter module: source, module.toml and the ABI's header or definitions."""
    from stagebox.cli.wasm.scaffold import starter_files, write_starter
    from stagebox.identity import check_name

    target = directory or Path(check_name("module", name))
    contents = starter_files(check_name("module", name), lang, kind)
    write_starter(target, contents)
    if as_json:
        typer.echo(json.dumps({"module": name, "directory": str(target), "files": sorted(contents)}))
        return
    typer.echo(f"module  {name} in {target}")
    typer.echo(f"files   {', '.join(sorted(contents))}")
    first = "npm install && " if lang is Language.ASSEMBLYSCRIPT else ""
    typer.echo(
        f"next    cd {shlex.quote(str(target))} && {first}stagebox wasm build && stagebox wasm test {name}.wasm"
    )
