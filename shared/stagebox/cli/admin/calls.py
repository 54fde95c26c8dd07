"""What every admin command shares: whom to speak to and as whom, what is named, and asking before harm is done."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate

import typer

from stagebox.cli.options import ConfigOption, JsonOption

if TYPE_CHECKING:
    from stagebox.mixer_modules import ModulesApi

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


@dataclass(frozen=True)
class Call:
    """How a command was called: the options of :func:`mixer_command`, and what they are for."""

    ctx: typer.Context
    mixer: MixerOption = None
    identity: IdentityOption = None
    config: ConfigOption = None
    as_json: JsonOption = False

    def api(self) -> AbstractContextManager[ModulesApi]:
        """Open the mixer's API.

        Raises:
            StageboxError: a setting is wrong, or the mixer refuses or cannot be reached.
        """
        return mixer_api(self.ctx, self.mixer, self.identity, self.config)

    def show(self, answer: object, lines: Callable[[], Sequence[str]]) -> None:
        """Write what the mixer answered: as JSON for a program, or as ``lines`` for a person."""
        from stagebox.cli.admin.rendering import echo_json, echo_lines

        if self.as_json:
            echo_json(answer)
        else:
            echo_lines(lines())


def mixer_command(command: Callable[Concatenate[Call, ...], None]) -> Callable[..., None]:
    """Give a command the options by which it speaks to a mixer, after its own; it is handed them as a :class:`Call`."""
    shared = inspect.signature(Call, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        call = Call(**{name: given.pop(name) for name in shared})
        command(call, **given)

    ctx, *options = shared.values()
    # What Typer makes the options of.
    vars(run)["__signature__"] = inspect.Signature([ctx, *own, *options])
    run.__annotations__ = {}
    return run


@contextmanager
def mixer_api(
    ctx: typer.Context, mixer: str | None, identity: Path | None, config: Path | None
) -> Iterator[ModulesApi]:
    """Load the client settings and open the API with them.

    Raises:
        StageboxError: a setting is wrong, or the mixer refuses or cannot be reached.
    """
    from stagebox.cli.options import settings_for
    from stagebox.config.client import ClientSettings
    from stagebox.mixer_modules import ModulesApi

    settings = settings_for(ctx, ClientSettings, {"mixer": mixer, "identity": identity}, config=config)
    with ModulesApi(settings.mixer, settings.identity) as api:
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
