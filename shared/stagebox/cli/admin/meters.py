"""``stagebox admin racks reset-meters``: loudness is integrated from now on."""

from __future__ import annotations

from typing import Annotated

import typer

from stagebox.cli.admin.calls import Call, RackArgument, mixer_command

app = typer.Typer()

_EXAMPLES = """
[bold]Examples[/bold]

stagebox admin racks reset-meters stage-left --identity ops

stagebox admin racks reset-meters stage-left --source main --programme vox
"""


@app.command("reset-meters", epilog=_EXAMPLES)
@mixer_command
def reset_meters(
    call: Call,
    name: RackArgument,
    source: Annotated[str, typer.Option("--source", metavar="SOURCE", help="Only of this source.")] = "",
    programme: Annotated[
        str, typer.Option("--programme", metavar="PROGRAMME", help="Only of this programme.")
    ] = "",
) -> None:
    """Start a rack's integrated loudness, loudness range and maxima again."""
    with call.api() as api:
        answer = api.reset_meters(name, source, programme)
    of = " ".join(
        part for part in (programme and f"programme {programme}", source and f"of source {source}") if part
    )
    call.show(answer, lambda: [f"{name} integrates {of or 'everything'} from now on"])
