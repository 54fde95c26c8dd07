"""``stagebox admin racks reset-meters``: loudness is integrated from now on."""

from __future__ import annotations

from typing import Annotated

import typer

from stagebox.cli.admin.calls import IdentityOption, MixerOption, RackArgument, mixer_api
from stagebox.cli.admin.rendering import echo_json, echo_lines
from stagebox.cli.options import ConfigOption, JsonOption

app = typer.Typer()

_EXAMPLES = """
[bold]Examples[/bold]

stagebox admin racks reset-meters stage-left --identity ops

stagebox admin racks reset-meters stage-left --source main --programme vox
"""


@app.command("reset-meters", epilog=_EXAMPLES)
def reset_meters(
    ctx: typer.Context,
    name: RackArgument,
    source: Annotated[str, typer.Option("--source", metavar="SOURCE", help="Only of this source.")] = "",
    programme: Annotated[
        str, typer.Option("--programme", metavar="PROGRAMME", help="Only of this programme.")
    ] = "",
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a rack's integrated loudness, loudness range and maxima again."""
    with mixer_api(ctx, mixer, identity, config) as api:
        answer = api.reset_meters(name, source, programme)
    if as_json:
        echo_json(answer)
        return
    of = " ".join(
        part for part in (programme and f"programme {programme}", source and f"of source {source}") if part
    )
    echo_lines([f"{name} integrates {of or 'everything'} from now on"])
