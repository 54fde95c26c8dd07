"""``stagebox meters``: the meter bridge of any number of racks."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stagebox.cli.lazy import epilog
from stagebox.cli.options import ConfigOption, IdentityOption, JsonOption, ServersOption, settings_for

if TYPE_CHECKING:
    from stagebox.bridge.state import BridgeState
    from stagebox.subscriber import Subscriber

_EXAMPLES = """
[bold]Examples[/bold]

stagebox meters --identity ops

stagebox meters stage-left stage-right --scale ppm2

stagebox meters --once --json
"""

_REDRAWS_PER_S = 10
_ONCE_S = 2.0
_JSON_EVERY_S = 1.0


class ScaleName(enum.StrEnum):
    """What the bars show."""

    PEAK = "peak"
    PPM1 = "ppm1"
    PPM2 = "ppm2"
    VU = "vu"
    TRUE_PEAK = "true-peak"


@epilog(_EXAMPLES)
def meters(
    ctx: typer.Context,
    racks: Annotated[
        list[str] | None, typer.Argument(metavar="[RACK]...", help="Which racks; all that are heard if none.")
    ] = None,
    scale: Annotated[
        ScaleName, typer.Option("--scale", help="peak: RMS, peak and held peak; or one ballistic meter.")
    ] = ScaleName.PEAK,
    verify: Annotated[
        bool, typer.Option("--verify", help="Count frames that turn out not to be the rack's.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Print what is heard within two seconds, and end.")
    ] = False,
    server: ServersOption = None,
    identity: IdentityOption = None,
    mixer: Annotated[str | None, typer.Option("--mixer", metavar="URL", hidden=True)] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show levels and loudness live, until Ctrl-C; with --json one object a second."""
    import asyncio

    from stagebox import subscriber
    from stagebox.config.client import ClientSettings
    from stagebox.identity import check_name

    wanted = tuple(check_name("rack", name) for name in racks or ())
    settings = settings_for(
        ctx,
        ClientSettings,
        {"servers": tuple(server) if server else None, "identity": identity, "mixer": mixer},
        config=config,
    )
    session = subscriber.connect(settings.servers, settings.identity, name="stagebox-meters")
    asyncio.run(_run(session, wanted, scale.value, verify=verify, once=once, as_json=as_json))


async def _run(
    session: Subscriber, wanted: tuple[str, ...], scale: str, *, verify: bool, once: bool, as_json: bool
) -> None:
    import asyncio
    import contextlib

    from stagebox.bridge.state import BridgeState
    from stagebox.tasks import end_tasks

    state, loop = BridgeState(wanted, verify=verify), asyncio.get_running_loop()

    async def follow(pattern: str, bus: Subscriber) -> None:
        async with bus.open_records(pattern, verify="live" if verify else False, on_bad="count") as stream:
            async for record in stream:
                state.take(record, loop.time())

    names = wanted or ("*",)
    async with session as bus, contextlib.AsyncExitStack() as stack:
        tasks = [
            asyncio.create_task(follow(f"rack.{name}.{leaf}", bus), name=f"meters-{name}-{leaf}")
            for name in names
            for leaf in ("meter.>", "status")
        ]
        stack.push_async_callback(end_tasks, tasks)
        if once:
            await asyncio.sleep(_ONCE_S)
            _somebody(state, wanted)
        if as_json:
            await _print_json(state, once)
        else:
            await _show(state, bus, scale, once)


def _somebody(state: BridgeState, wanted: tuple[str, ...]) -> None:
    from stagebox.errors import BusError

    if not any(rack.sources for rack in state.racks.values()):
        who = " or ".join(wanted) if wanted else "any rack"
        raise BusError(
            f"nothing was heard of {who} within {_ONCE_S:g} s",
            remedy="see who is there with `stagebox admin racks list`",
        )


async def _show(state: BridgeState, bus: Subscriber, scale: str, once: bool) -> None:
    import asyncio

    from rich.console import Console
    from rich.live import Live

    from stagebox.bridge.bars import glyphs_for
    from stagebox.bridge.drawing import Scale, View, draw

    console = Console(highlight=False)
    glyphs, loop = glyphs_for(console.encoding), asyncio.get_running_loop()

    def view() -> View:
        state.sweep()
        size = console.size
        height = size.height if console.is_terminal and not once else 10_000
        live = console.is_terminal and not once
        connected = bus.bus_stats().connected
        return View(state, loop.time(), size.width, height, Scale(scale), glyphs, connected, live)

    if not once and not console.is_terminal:
        await asyncio.sleep(_ONCE_S)
    if once or not console.is_terminal:
        console.print(draw(view()))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(draw(view()), refresh=True)
            await asyncio.sleep(1 / _REDRAWS_PER_S)


async def _print_json(state: BridgeState, once: bool) -> None:
    import asyncio
    import json

    loop = asyncio.get_running_loop()
    while True:
        if not once:
            await asyncio.sleep(_JSON_EVERY_S)
        state.sweep()
        typer.echo(json.dumps(_document(state, loop.time())))
        if once:
            return


def _document(state: BridgeState, now: float) -> dict[str, Any]:
    """Racks → sources → the newest frame by channel and programme names; null where there is no value."""
    import dataclasses
    import math

    def number(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 2)

    found: dict[str, Any] = {}
    for rack in state.racks.values():
        sources: dict[str, Any] = {}
        for source in rack.sources.values():
            frame = source.frame
            if frame is None:
                continue
            fields = ("peak", "peak_hold", "true_peak", "rms", "ppm1", "ppm2", "vu", "momentary")
            sources[source.name] = {
                "age_s": round(source.age(now), 3),
                "stale": source.stale(now),
                "lost": source.lost,
                "seq": frame.seq,
                "start": frame.start,
                "rate": frame.rate,
                "time_ns": frame.time_ns,
                "channels": {
                    source.channel(n): {
                        **{
                            name: number(getattr(frame, name)[n])
                            for name in fields
                            if len(getattr(frame, name))
                        },
                        "flags": frame.flags[n] if n < len(frame.flags) else 0,
                    }
                    for n in range(frame.channels)
                },
                "programmes": {
                    source.programme(n): {
                        name: number(value) for name, value in dataclasses.asdict(levels).items()
                    }
                    for n, levels in enumerate(frame.programmes)
                },
                "correlation": [number(value) for value in frame.correlation],
            }
        found[rack.name] = {"state": rack.state or None, "sources": sources}
    return {"racks": found}
