"""``stagebox wasm {import,list,show,reissue,revoke,vendors}`` and, from its neighbour, ``assign`` and ``unassign``.

They speak to the mixer's API with a client certificate, as ``stagebox admin`` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stagebox.cli.admin.calls import Call, ReasonOption, YesOption, confirm, mixer_command
from stagebox.cli.completion import one_of
from stagebox.cli.progress import progress
from stagebox.cli.wasm import remote_assign
from stagebox.cli.wasm.remote_calls import ModuleArgument, named
from stagebox.modules.capabilities import Capability

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
@mixer_command
def import_module(
    call: Call,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A module that its vendor signed.")],
    grant: Annotated[
        list[Capability] | None,
        typer.Option("--grant", help="Grant only this of what it asks for; repeatable."),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="NAME=NUMBER",
            help=f"Another limit: {', '.join(_LIMITS)}.",
            autocompletion=one_of(*(f"{name}=" for name in _LIMITS)),
        ),
    ] = None,
    allow_older: Annotated[
        bool, typer.Option("--allow-older", help="Take a version older than the newest imported.")
    ] = False,
    reason: ReasonOption = "",
) -> None:
    """Import a vendor-signed module: the mixer verifies, compiles and countersigns it; it runs nowhere yet."""
    from stagebox.cli.wasm.reading import read_module
    from stagebox.cli.wasm.remote_view import import_lines

    data, limits = read_module(file), _limits(limit or [])
    sending = progress("sending", quiet=call.as_json, then="the mixer verifies and compiles it")
    with call.api() as api, sending as tell:
        answer = api.import_module(
            data, grant=grant, limits=limits, allow_older=allow_older, reason=reason, progress=tell
        )
    call.show(answer, lambda: import_lines(answer))


@app.command("list", epilog=_LIST)
@mixer_command
def list_modules(call: Call) -> None:
    """List the imported modules, and where they are assigned."""
    from stagebox.cli.wasm.remote_view import list_lines

    with call.api() as api:
        modules, assignments = api.modules(), api.assignments()
    unreadable = [*modules.unreadable, *assignments.unreadable]
    call.show(
        {"modules": modules.found, "assignments": assignments.found, "unreadable": unreadable},
        lambda: list_lines(modules.found, assignments.found, unreadable),
    )


@app.command("show", epilog=_SHOW)
@mixer_command
def show(
    call: Call,
    module: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION]", help="A module, all versions if none is given.")
    ],
) -> None:
    """Show what is known of a module: vendor, digests, rights, limits, parameters, and where it runs."""
    from stagebox.cli.wasm.limits import LIMITS
    from stagebox.cli.wasm.remote_view import racks_on, revoked_of, show_lines
    from stagebox.identity import check_name

    name, version = named(module) if "@" in module else (check_name("module", module), "")
    with call.api() as api:
        module_found, assigned = api.module(name), api.assignments(name)
        versions, assignments = module_found.found, assigned.found
        on = racks_on(assignments)
        racks = {} if call.as_json else {rack: api.rack(rack) for rack in on[: LIMITS.shown_racks]}
    found = [item for item in versions if version in ("", item.get("version"))]
    odd = [item for item in module_found.unreadable if version in ("", item.get("version"))]
    if not found and not odd:
        raise _missing(name, version)
    call.show(
        {"name": name, "versions": found, "assignments": assignments, "unreadable": odd},
        lambda: show_lines(found, assignments, racks, revoked_of(versions), odd),
    )


@app.command("reissue", epilog=_REISSUE)
@mixer_command
def reissue(
    call: Call,
    module: ModuleArgument,
    reason: ReasonOption = "",
) -> None:
    """Have a version countersigned again, so that racks take it after a later one they had."""

    name, version = named(module)
    with call.api() as api:
        answer = api.reissue(name, version, reason)
    serial = answer.get("module", {}).get("serial")
    call.show(answer, lambda: [f"{name}@{version} is countersigned again, serial {serial}"])


@app.command("revoke", epilog=_REVOKE)
@mixer_command
def revoke(
    call: Call,
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
) -> None:
    """Revoke a version, or all that a vendor signed, on every rack at once. It cannot be taken back."""
    from stagebox.cli.wasm.remote_view import revoke_lines
    from stagebox.errors import InputError
    from stagebox.identity import check_name

    if (module is None) == (vendor is None):
        raise InputError("name one thing", remedy="a module's NAME@VERSION, or --vendor NAME")
    what = f"{module}" if module is not None else f"everything vendor {vendor} signed"
    name, version = named(module) if module is not None else ("", "")
    if vendor is not None:
        check_name("vendor", vendor)
    with call.api() as api:
        confirm(f"Revoke {what}? It stops on every rack at once, for good.", yes=yes)
        answer = (
            api.revoke_vendor(vendor, reason)
            if vendor is not None
            else api.revoke_module(name, version, reason)
        )
    call.show(answer, lambda: revoke_lines(answer))


@app.command("vendors", epilog=_VENDORS)
@mixer_command
def vendors(call: Call) -> None:
    """List the vendors whose modules the mixer imports, and the files it cannot use."""
    from stagebox.cli.wasm.remote_view import vendor_table

    with call.api() as api:
        found = api.vendors()
    call.show(found, lambda: vendor_table(found))


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
