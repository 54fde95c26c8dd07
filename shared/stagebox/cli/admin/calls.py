"""What every admin command shares: whom to speak to and as whom, what is named, and asking before harm is done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stagebox.mixer_api import MixerApi

MixerOption = Annotated[
    str | None, typer.Option("--mixer", metavar="URL", help="Base URL of the mixer's API.")
]
IdentityOption = Annotated[
    Path | None,
    typer.Option("--identity", metavar="DIR", help="Directory of `keys gen-client` to speak as."),
]
RackArgument = Annotated[str, typer.Argument(metavar="NAME", help="The rack's name.")]
ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept in the audit.", show_default=False)
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


@contextmanager
def mixer_api(
    ctx: typer.Context, mixer: str | None, identity: Path | None, config: Path | None
) -> Iterator[MixerApi]:
    """Load the client settings and open the API with them.

    Raises:
        StageboxError: a setting is wrong, or the mixer refuses or cannot be reached.
    """
    from stagebox.cli.options import settings_for
    from stagebox.config.client import ClientSettings
    from stagebox.mixer_api import MixerApi

    settings = settings_for(ctx, ClientSettings, {"mixer": mixer, "identity": identity}, config=config)
    with MixerApi(settings.mixer, settings.identity) as api:
        yield api


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal; a script, which has none, must say ``--yes``.

    Raises:
        InputError: there is nobody to ask. typer.Exit: the answer was no.
    """
    from stagebox.errors import InputError

    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError("this needs a confirmation, and there is no terminal to ask on", remedy="say --yes")
    # Standard output is for the answer alone.
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        typer.echo("nothing was changed", err=True)
        raise typer.Exit(1)


def machine_id(text: str) -> int:
    """Return the machine id that ``text`` spells in hexadecimal.

    Raises:
        InputError: it is none.
    """
    from stagebox.errors import InputError

    try:
        value = int(text, 16)
    except ValueError:
        value = 0
    if not 0 < value < 1 << 64:
        raise InputError(
            f"--machine-id {text!r} is not a machine id",
            remedy="write the 16 hexadecimal digits that `stagebox rack machine-id` prints on that machine, "
            "or `stagebox admin racks show` of a registered rack",
        )
    return value
