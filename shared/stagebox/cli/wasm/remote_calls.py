"""What the ``wasm`` commands that speak to a mixer share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stagebox.mixer_modules import ModulesApi

ModuleArgument = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A module and its version.")]


@contextmanager
def modules_api(
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


def named(text: str) -> tuple[str, str]:
    """Return name and version of ``NAME@VERSION``.

    Raises:
        InputError: it is not of that form.
    """
    from stagebox.errors import InputError
    from stagebox.identity import check_name
    from stagebox.modules.statement import check_version

    name, at, version = text.partition("@")
    if not at:
        raise InputError(f"{text!r} names no version", remedy=f"write {text}@1.2.3, see `stagebox wasm list`")
    return check_name("module", name), check_version(version)
