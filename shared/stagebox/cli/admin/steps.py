"""``stagebox admin racks {approve,suspend,activate,rotate-secret,remove}``: what changes a rack's standing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from stagebox.cli.admin.calls import Call, RackArgument, ReasonOption, YesOption, confirm, mixer_command
from stagebox.cli.admin.rendering import rack_lines

if TYPE_CHECKING:
    from stagebox.mixer_api import MixerApi

app = typer.Typer()

_EXAMPLES = """
[bold]Example[/bold]

stagebox admin racks {command} --identity ops
"""


def _step(
    command: str, example: str, text: str, take: Callable[[MixerApi, str, str], dict[str, Any]]
) -> None:
    """Add one command that changes a rack's standing and shows the rack as it is then."""

    @app.command(command, help=text, epilog=_EXAMPLES.format(command=f"{command} {example}"))
    @mixer_command
    def step(
        call: Call,
        name: RackArgument,
        reason: ReasonOption = "",
    ) -> None:
        with call.api() as api:
            rack = take(api, name, reason)
        call.show(rack, lambda: rack_lines(rack))


_step(
    "approve",
    "stage-left",
    "Let a pending rack in; it begins to capture by itself.",
    lambda api, name, reason: api.approve(name, reason),
)
_step(
    "suspend",
    'stage-left --reason "moved to the store"',
    "Let a rack stay connected and do nothing: it stops capturing at once and takes commands only.",
    lambda api, name, reason: api.suspend(name, reason),
)
_step(
    "activate",
    'stage-left --reason "back on stage"',
    "End a rack's suspension.",
    lambda api, name, reason: api.activate(name, reason),
)
_step(
    "rotate-secret",
    "stage-left",
    "Give a rack a new passport secret; the old one holds until the rack has connected with the new one.",
    lambda api, name, reason: api.rotate_secret(name, reason),
)


@app.command("remove", epilog=_EXAMPLES.format(command='remove stage-left --reason "sold"'))
@mixer_command
def remove(
    call: Call,
    name: RackArgument,
    reason: ReasonOption = "",
    yes: YesOption = False,
) -> None:
    """Take a rack out of the registry (it may enroll again; to shut it out, deny it)."""
    with call.api() as api:
        confirm(
            f"Remove rack {name}? Its key, certificate and passport are worth nothing from then on.", yes=yes
        )
        removed = api.remove(name, reason)
    call.show(removed, lambda: [f"rack {name} is removed; with a new token it can enroll again"])
