"""``stagebox tail``: follow what racks publish, and say of each record whether it is proved."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from stagebox.cli.lazy import epilog
from stagebox.cli.options import ConfigOption, IdentityOption, JsonOption, ServersOption, settings_for

if TYPE_CHECKING:
    from stagebox.subscriber import Counters, Subscriber

_EXAMPLES = """
[bold]Examples[/bold]

stagebox tail 'rack.*.meter.>' --verify --identity ops

stagebox tail 'rack.stage-left.>' --server wss://mixer:4222 --json --count 100
"""


class OnBad(enum.StrEnum):
    """What to do about a record or checkpoint that is not the rack's."""

    STOP = "stop"
    COUNT = "count"


@epilog(_EXAMPLES)
def tail(
    ctx: typer.Context,
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Subjects to follow, with * and > as wildcards.")
    ] = "rack.>",
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Prove each record by its rack's checkpoints (about 1 s behind live)."),
    ] = False,
    on_bad: Annotated[
        OnBad, typer.Option("--on-bad", help="With --verify: stop at a forged record, or drop and count it.")
    ] = OnBad.STOP,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, metavar="N", help="Stop after N records.")
    ] = None,
    server: ServersOption = None,
    identity: IdentityOption = None,
    connect_within: Annotated[
        str, typer.Option("--connect-within", metavar="DURATION", help="Give up if not connected by then.")
    ] = "10s",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Follow what racks publish, one line a record, until Ctrl-C."""
    import asyncio
    import dataclasses

    from stagebox import subscriber
    from stagebox.cli.durations import seconds
    from stagebox.config.client import ClientSettings

    settings = settings_for(
        ctx,
        ClientSettings,
        {"servers": tuple(server) if server else None, "identity": identity},
        config=config,
    )
    limits = dataclasses.replace(
        subscriber.SUBSCRIBER_LIMITS, connect_within=float(seconds(connect_within, "--connect-within"))
    )
    session = subscriber.connect(settings.servers, settings.identity, name="stagebox-tail", limits=limits)
    asyncio.run(_follow(session, pattern, verify=verify, on_bad=on_bad, count=count, as_json=as_json))


async def _follow(
    session: Subscriber, pattern: str, *, verify: bool, on_bad: OnBad, count: int | None, as_json: bool
) -> None:
    from stagebox.cli import rendering

    render = rendering.as_json if as_json else rendering.as_line
    async with (
        session as bus,
        bus.open_records(
            pattern, verify=verify, on_bad="raise" if on_bad is OnBad.STOP else "count"
        ) as stream,
    ):
        shown = 0
        try:
            async for record in stream:
                typer.echo(render(record))
                shown += 1
                if shown == count:
                    break
        finally:
            # Before the subscription ends: what waits for its checkpoint now is pending, not unverifiable.
            typer.echo(_summary(session.counters, verify), err=True)


def _summary(counters: Counters, verify: bool) -> str:
    parts = [f"received {counters.received}", f"lost {counters.lost}"]
    if verify:
        parts[1:1] = [
            f"verified {counters.verified}",
            f"pending {counters.pending}",
            f"unverifiable {counters.unverifiable}",
            f"bad {counters.bad + counters.bad_checkpoints}",
        ]
    if counters.skipped:
        parts.append(f"skipped {counters.skipped} of kinds this version does not know")
    if counters.overruns:
        parts.append(f"missed because the output was too slow {counters.overruns}")
    return ", ".join(parts)
