"""A command group whose members are imported when they are used, not when they are listed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from stagebox.cli.catalog import ONE_LINERS
from stagebox.errors import ConfigError

GROUP = "stagebox.commands"
_EPILOG = "__stagebox_epilog__"


class LazyGroup(TyperGroup):
    """A group with extra members from entry points.

    ``path`` is the group's own dotted command path (empty for the root) and ``points`` maps a command path to
    its entry points; direct children of ``path`` become members.
    """

    path: str = ""
    points: dict[str, EntryPoint]
    _listing: bool = False

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.points = {}

    def extend(self, path: str, points: dict[str, EntryPoint]) -> None:
        """Take the entry points below ``path`` as members."""
        self.path, self.points = path, points

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of all members, sorted."""
        return sorted({*super().list_commands(ctx), *self._lazy_names()})

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """Return a member; while listing, a placeholder with its one line stands in."""
        if cmd_name in self.commands or cmd_name not in self._lazy_names():
            return super().get_command(ctx, cmd_name)
        dotted = self._dotted(cmd_name)
        if self._listing:
            return TyperCommand(name=cmd_name, help=self._one_liner(dotted))
        command = load_command(dotted, self.points)
        self.add_command(command, cmd_name)
        return command

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the help page without importing members."""
        with self._only_listing():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: typer.Context, incomplete: str) -> list[Any]:  # type: ignore[override]
        """Complete member names without importing them."""
        with self._only_listing():
            return super().shell_complete(ctx, incomplete)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """Find the member to run; a misspelt name is answered with the nearest ones."""
        missing = [name for name in self._lazy_names() if name not in self.commands]
        if args and args[0] not in missing:
            # The suggestions of the base class look only at loaded members.
            for name in missing:
                self.commands[name] = TyperCommand(name=name)
        try:
            return super().resolve_command(ctx, args)
        finally:
            if args and args[0] not in missing:
                for name in missing:
                    del self.commands[name]

    def _lazy_names(self) -> list[str]:
        prefix = f"{self.path}." if self.path else ""
        below = [name[len(prefix) :] for name in self.points if name.startswith(prefix)]
        return list(dict.fromkeys(name.partition(".")[0] for name in below))

    def _dotted(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _one_liner(self, dotted: str) -> str:
        if dotted in ONE_LINERS:
            return ONE_LINERS[dotted]
        point = self.points.get(dotted)
        return f"(from {point.dist.name})" if point and point.dist else ""

    @contextmanager
    def _only_listing(self) -> Iterator[None]:
        self._listing = True
        try:
            yield
        finally:
            self._listing = False


def epilog(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command that is a bare function the text below its help, such as examples."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        setattr(function, _EPILOG, text)
        return function

    return mark


def load_command(dotted: str, points: dict[str, EntryPoint]) -> Any:
    """Import the command at ``dotted`` and hand it its own lazy members.

    Raises:
        ConfigError: the distribution that offers it cannot be imported.
    """
    name = dotted.rpartition(".")[2]
    point = points.get(dotted)
    has_members = any(other.startswith(f"{dotted}.") for other in points)
    if point is None:
        app = typer.Typer(cls=LazyGroup, name=name, help=ONE_LINERS.get(dotted, ""), no_args_is_help=True)
        app.callback()(_no_options)
    else:
        app = _as_app(name, _import(dotted, point))
    command = get_command(app)
    command.name = name
    if has_members:
        if not isinstance(command, LazyGroup):
            raise TypeError(f"{dotted} must be typer.Typer(cls=LazyGroup): others add commands below it")
        command.extend(dotted, points)
    return command


def _no_options() -> None:
    """Take no options of its own."""


def _import(dotted: str, point: EntryPoint) -> object:
    try:
        return point.load()
    except ModuleNotFoundError as error:
        distribution = point.dist.name if point.dist else point.module
        raise ConfigError(
            f"`stagebox {dotted.replace('.', ' ')}` needs the Python module {error.name!r}, which is missing",
            remedy=f"install {distribution} again",
        ) from error


def _as_app(name: str, loaded: object) -> typer.Typer:
    if isinstance(loaded, typer.Typer):
        loaded._add_completion = False
        return loaded
    if not callable(loaded):
        raise TypeError(f"the entry point of {name} is neither a Typer app nor a function")
    app = typer.Typer(add_completion=False)
    app.command(name, epilog=getattr(loaded, _EPILOG, None))(loaded)
    return app
