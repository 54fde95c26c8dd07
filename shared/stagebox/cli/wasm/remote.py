"""``stagebox wasm {import,list,show,reissue,revoke,vendors}`` and, from its neighbour, ``assign`` and ``unassign``.

They speak to the mixer's API with a client certificate, as ``stagebox admin`` does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stagebox.cli.admin.calls import IdentityOption, MixerOption, ReasonOption, YesOption, confirm
from stagebox.cli.options import ConfigOption, JsonOption
from stagebox.cli.wasm import remote_assign
from stagebox.cli.wasm.remote_calls import ModuleArgument, modules_api, named

if TYPE_CHECKING:
    from stagebox.errors import InputError

app = typer.Typer()
app.add_typer(remote_assign.app)

_IMPORT = """
[bold]Examples[/bold]

stagebox wasm import acme-gain.signed.wasm --identity ops

stagebox wasm import acme-gain.signed.wasm --grant audio --limit memory_bytes=2097152 --reason "ticket 17"
"""
_LIST = """
[bold]Example[/bold]

stagebox wasm list --identity ops
"""
_SHOW = """
[bold]Examples[/bold]

stagebox wasm show acme-gain

stagebox wasm show acme-gain@1.2.0 --json
"""
_REISSUE = """
[bold]Example[/bold]

stagebox wasm reissue acme-gain@1.2.0 --reason "the mixer was restored from a backup"
"""
_REVOKE = """
[bold]Examples[/bold]

stagebox wasm revoke acme-gain@1.2.0 --reason "writes records it should not"

stagebox wasm revoke --vendor acme --reason "their signing key was stolen" --yes
"""
_VENDORS = """
[bold]Example[/bold]

stagebox wasm vendors --identity ops
"""
_LIMITS = ("fuel_per_block", "memory_bytes", "table_elements", "epoch_ms", "records_per_s", "record_bytes")


@app.command("import", epilog=_IMPORT)
def import_module(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A module that its vendor signed.")],
    grant: Annotated[
        list[str] | None,
        typer.Option(
            "--grant", metavar="CAPABILITY", help="Grant only this of what it asks for; repeatable."
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="NAME=NUMBER", help=f"Another limit: {', '.join(_LIMITS)}."),
    ] = None,
    allow_older: Annotated[
        bool, typer.Option("--allow-older", help="Take a version older than the newest imported.")
    ] = False,
    reason: ReasonOption = "",
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a vendor-signed module: the mixer verifies, compiles and countersigns it; it runs nowhere yet."""
    from stagebox.cli.admin.rendering import echo_json, echo_lines
    from stagebox.cli.wasm.reading import read_module
    from stagebox.cli.wasm.remote_view import import_lines

    data, limits = read_module(file), _limits(limit or [])
    with modules_api(ctx, mixer, identity, config) as api, _progress(shown=not as_json) as progress:
        answer = api.import_module(
            data, grant=grant, limits=limits, allow_older=allow_older, reason=reason, progress=progress
        )
    if as_json:
        echo_json(answer)
    else:
        echo_lines(import_lines(answer))


@app.command("list", epilog=_LIST)
def list_modules(
    ctx: typer.Context,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the imported modules, and where they are assigned."""
    from stagebox.cli.admin.rendering import echo_json, echo_lines
    from stagebox.cli.wasm.remote_view import assignment_table, module_table, revoked_of

    with modules_api(ctx, mixer, identity, config) as api:
        modules, assignments = api.modules(), api.assignments()
    if as_json:
        echo_json({"modules": modules, "assignments": assignments})
        return
    if not modules:
        echo_lines(["no module is imported; import one with `stagebox wasm import`"])
        return
    echo_lines(module_table(modules))
    table = assignment_table(assignments, revoked_of(modules))
    echo_lines(["", *table] if assignments else ["", "none of them is assigned"])


@app.command("show", epilog=_SHOW)
def show(
    ctx: typer.Context,
    module: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION]", help="A module, all versions if none is given.")
    ],
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is known of a module: vendor, digests, rights, limits, parameters, and where it runs."""
    from stagebox.cli.admin.rendering import echo_json, echo_lines
    from stagebox.cli.wasm.limits import LIMITS
    from stagebox.cli.wasm.remote_view import (
        assignment_table,
        module_lines,
        racks_on,
        revoked_of,
        where_lines,
    )
    from stagebox.identity import check_name

    name, version = named(module) if "@" in module else (check_name("module", module), "")
    with modules_api(ctx, mixer, identity, config) as api:
        versions, assignments = api.module(name), api.assignments(name)
        on = racks_on(assignments)
        racks = {} if as_json else {rack: api.rack(rack) for rack in on[: LIMITS.shown_racks]}
    found = [item for item in versions if version in ("", item.get("version"))]
    if not found:
        raise _missing(name, version)
    if as_json:
        echo_json({"name": name, "versions": found, "assignments": assignments})
        return
    for item in found:
        echo_lines([*module_lines(item), ""])
    table = assignment_table(assignments, revoked_of(versions))
    echo_lines([*table, *where_lines(assignments, racks)] if assignments else ["it is not assigned"])
    if len(on) > len(racks):
        echo_lines([f"and {len(on) - len(racks)} more racks: stagebox admin racks show RACK"])


@app.command("reissue", epilog=_REISSUE)
def reissue(
    ctx: typer.Context,
    module: ModuleArgument,
    reason: ReasonOption = "",
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a version countersigned again, so that racks take it after a later one they had."""
    from stagebox.cli.admin.rendering import echo_json, echo_lines

    name, version = named(module)
    with modules_api(ctx, mixer, identity, config) as api:
        answer = api.reissue(name, version, reason)
    if as_json:
        echo_json(answer)
        return
    made = answer.get("module", {})
    echo_lines([f"{name}@{version} is countersigned again, serial {made.get('serial')}"])


@app.command("revoke", epilog=_REVOKE)
def revoke(
    ctx: typer.Context,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept beside the ban and in the audit.")
    ],
    module: Annotated[
        str | None, typer.Argument(metavar="NAME@VERSION", help="The version to revoke.")
    ] = None,
    vendor: Annotated[
        str | None,
        typer.Option("--vendor", metavar="NAME", help="Revoke all of a vendor's keys; or one, by its id."),
    ] = None,
    yes: YesOption = False,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a version, or all that a vendor signed, on every rack at once. It cannot be taken back."""
    from stagebox.cli.admin.rendering import echo_json, echo_lines
    from stagebox.cli.wasm.remote_view import revoke_lines
    from stagebox.errors import InputError
    from stagebox.identity import check_name

    if (module is None) == (vendor is None):
        raise InputError("name one thing", remedy="a module's NAME@VERSION, or --vendor NAME")
    what = f"{module}" if module is not None else f"everything vendor {vendor} signed"
    name, version = named(module) if module is not None else ("", "")
    if vendor is not None:
        check_name("vendor", vendor)
    with modules_api(ctx, mixer, identity, config) as api:
        confirm(f"Revoke {what}? It stops on every rack at once, for good.", yes=yes)
        answer = (
            api.revoke_vendor(vendor, reason)
            if vendor is not None
            else api.revoke_module(name, version, reason)
        )
    if as_json:
        echo_json(answer)
    else:
        echo_lines(revoke_lines(answer))


@app.command("vendors", epilog=_VENDORS)
def vendors(
    ctx: typer.Context,
    mixer: MixerOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the vendors whose modules the mixer imports, and the files it cannot use."""
    from stagebox.cli.admin.rendering import echo_json, echo_lines
    from stagebox.cli.wasm.remote_view import vendor_table

    with modules_api(ctx, mixer, identity, config) as api:
        found = api.vendors()
    if as_json:
        echo_json(found)
    elif found:
        echo_lines(vendor_table(found))
    else:
        echo_lines(["no vendor is trusted: put a vendor's vendor.toml into wasm/keys of the mixer's data"])


def _limits(pairs: list[str]) -> dict[str, int]:
    from stagebox.errors import InputError

    found = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in _LIMITS or not (text.isascii() and text.isdigit()):
            raise InputError(
                f"--limit {pair!r} is no limit", remedy=f"write NAME=NUMBER with one of {', '.join(_LIMITS)}"
            )
        found[name] = int(text)
    return found


def _missing(name: str, version: str) -> InputError:
    from stagebox.errors import InputError

    return InputError(
        f"there is no version {version} of {name!r}", remedy=f"see all: stagebox wasm show {name}"
    )


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show how much is sent, on a terminal."""
    if not (shown and sys.stderr.isatty()):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sending", total=None)

        def show(done: int, total: int) -> None:
            words = "sending" if done < total else "the mixer verifies and compiles it"
            bar.update(task, completed=done, total=total, description=words)

        yield show
