"""What the ``wasm`` commands that speak to a mixer share."""

from __future__ import annotations

from typing import Annotated

import typer

ModuleArgument = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A module and its version.")]


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
