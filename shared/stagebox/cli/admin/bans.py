"""``stagebox admin racks {deny,clear,denied}``: who is banned, by rack name, machine or certificate."""

from __future__ import annotations

from typing import Annotated

import typer

from stagebox.cli.admin.calls import Call, ReasonOption, YesOption, confirm, machine_id, mixer_command
from stagebox.cli.admin.rendering import table_lines, utc

app = typer.Typer()

NameArgument = Annotated[str | None, typer.Argument(metavar="NAME", help="A rack's name.")]
MachineOption = Annotated[
    str | None, typer.Option("--machine-id", metavar="HEX", help="A machine, see `racks show`.")
]
CertificateOption = Annotated[
    str | None,
    typer.Option("--certificate", metavar="sha256:HEX", help="A certificate of a rack or of a person."),
]

_DENY_EXAMPLES = """
[bold]Examples[/bold]

stagebox admin racks deny stage-left --reason "stolen from the van"

stagebox admin racks deny --machine-id 00000000deadbeef --reason "stolen from the van" --yes

stagebox admin racks deny --certificate sha256:… --reason "laptop lost"
"""
_CLEAR_EXAMPLES = """
[bold]Examples[/bold]

stagebox admin racks clear stage-left --reason "it was in the other van"

stagebox admin racks clear --machine-id 00000000deadbeef
"""
_DENIED_EXAMPLES = """
[bold]Example[/bold]

stagebox admin racks denied --identity ops
"""


@app.command("deny", epilog=_DENY_EXAMPLES)
@mixer_command
def deny(
    call: Call,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept beside the ban and in the audit.")
    ],
    name: NameArgument = None,
    machine: MachineOption = None,
    certificate: CertificateOption = None,
    yes: YesOption = False,
) -> None:
    """Ban a rack, a machine or a certificate everywhere at once, until it is cleared."""
    kind, value = banned(name, machine, certificate)
    with call.api() as api:
        confirm(f"Deny {kind} {value}? What it has connected is dropped at once.", yes=yes)
        answer = api.deny(kind, value, reason)
    call.show(answer, lambda: deny_lines(answer))


@app.command("clear", epilog=_CLEAR_EXAMPLES)
@mixer_command
def clear(
    call: Call,
    name: NameArgument = None,
    machine: MachineOption = None,
    certificate: CertificateOption = None,
    reason: ReasonOption = "",
) -> None:
    """Lift a ban."""
    kind, value = banned(name, machine, certificate)
    with call.api() as api:
        answer = api.clear(kind, value, reason)
    epoch = answer.get("epoch")
    call.show(answer, lambda: [f"cleared: {kind} {value} is no longer denied (deny list {epoch})"])


@app.command("denied", epilog=_DENIED_EXAMPLES)
@mixer_command
def denied(call: Call) -> None:
    """List who is banned, since when, by whom and why."""
    with call.api() as api:
        answer = api.denied()
    call.show(answer, lambda: denied_lines(answer))


def banned(name: str | None, machine: str | None, certificate: str | None) -> tuple[str, str]:
    """Return kind and value of the one thing that was named.

    Raises:
        InputError: nothing or more than one thing was named, or not a value of its kind.
    """
    from stagebox.control import denylist
    from stagebox.errors import InputError

    hex_id = f"{machine_id(machine):016x}" if machine is not None else None
    named = [
        (kind, value)
        for kind, value in (
            ("rack", name),
            ("machine", hex_id),
            ("certificate", certificate and certificate.strip().lower()),
        )
        if value is not None
    ]
    if len(named) != 1:
        raise InputError(
            "name one thing", remedy="a rack's NAME, --machine-id HEX or --certificate sha256:HEX"
        )
    denylist.denied(*named[0])
    return named[0]


def denied_lines(answer: dict[str, object]) -> list[str]:
    """Return one line a ban."""
    found = answer.get("denied")
    bans = [ban for ban in found if isinstance(ban, dict)] if isinstance(found, list) else []
    if not bans:
        return [f"nobody is denied (deny list {answer.get('epoch')})"]
    rows = [
        (
            utc(ban.get("since_ns")),
            *(str(ban.get(field, "")) for field in ("kind", "value", "actor", "reason")),
        )
        for ban in bans
    ]
    return table_lines(("SINCE", "KIND", "VALUE", "BY", "REASON"), rows)


def deny_lines(answer: dict[str, object]) -> list[str]:
    """Return what a ban did."""
    kicked, racks = answer.get("kicked"), answer.get("racks")
    lines = [f"denied: {answer.get('kind')} {answer.get('value')} (deny list {answer.get('epoch')})"]
    if kicked is None:
        lines.append(
            f"its connections could not be dropped yet, the mixer goes on trying: {answer.get('problem')}"
        )
    else:
        lines.append(f"{kicked} connection{'' if kicked == 1 else 's'} dropped")
    if isinstance(racks, list):
        hit = ", ".join(str(rack) for rack in racks)
        lines.append(
            f"racks it hits: {hit}" if hit else "no registered rack is hit by it: check what you named"
        )
    return lines
