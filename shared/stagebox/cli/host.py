"""The root command: finds every distribution's commands, runs one, turns errors into lines and codes.

Exit codes: 0 done, 2 wrong use, 130 interrupted, else the ``exit_code`` of the :class:`StageboxError`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Annotated

import typer
from typer.main import get_command

from stagebox.cli.lazy import GROUP, LazyGroup
from stagebox.cli.options import ConfigOption, Invocation, LogFormatOption, LogLevelOption
from stagebox.errors import StageboxError

DEBUG_VARIABLE = "STAGEBOX_DEBUG"
DISTRIBUTIONS = ("stagebox", "stagebox-keys", "stagebox-rack", "stagebox-mixer")
_INTERRUPTED = 130

_EXAMPLES = """
[bold]Examples[/bold]

stagebox keys gen-cluster --dir cluster --name flux-prod

stagebox mixer run --dir cluster/mixer

stagebox tail 'rack.*.meter.>' --verify
"""

app = typer.Typer(
    name="stagebox",
    cls=LazyGroup,
    help="A secure fleet of headless audio appliances on one bus.",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_versions(wanted: bool) -> None:
    if wanted:
        for name in DISTRIBUTIONS:
            try:
                typer.echo(f"{name} {version(name)}")
            except PackageNotFoundError:
                typer.echo(f"{name} not installed")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    config: ConfigOption = None,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_versions,
            is_eager=True,
            help="Show the version of every distribution.",
        ),
    ] = False,
) -> None:
    ctx.obj = Invocation(config=config, log_level=log_level, log_format=log_format)


def commands() -> dict[str, EntryPoint]:
    """Return command path → entry point of everything installed."""
    return {point.name: point for point in entry_points(group=GROUP)}


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; nothing escapes as a traceback unless asked for."""
    root = get_command(app)
    if not isinstance(root, LazyGroup):
        raise TypeError("the root command is a LazyGroup")
    root.extend("", commands())
    try:
        root.main(args=list(args), prog_name="stagebox")
    except SystemExit as stop:
        return _exit_code(stop)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BaseException as error:  # an exception group may hold a KeyboardInterrupt
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exception(error)
        return report(error)
    return 0


def report(error: BaseException) -> int:
    """Write an error as one line, and what to do about it as a second; returns the exit code."""
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return report(error.exceptions[0])
    if isinstance(error, StageboxError):
        _complain(error.message, error.remedy)
        return error.exit_code
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            report(inner)
        return 1
    what = " ".join(str(error).split()) or "no further detail"
    _complain(
        f"unexpected {type(error).__name__}: {what}", f"set {DEBUG_VARIABLE}=1 for a traceback, and report it"
    )
    return 1


def _complain(message: str, remedy: str | None) -> None:
    from stagebox.logs import printable

    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(f"error: {printable(message)}\n")
        if remedy:
            sys.stderr.write(f"  try: {printable(remedy)}\n")
        sys.stderr.flush()


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    sys.stderr.write(f"error: {stop.code}\n")
    return 1
