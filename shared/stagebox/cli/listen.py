"""``stagebox listen``: hear a rack now, record what is heard, or only watch its level."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stagebox.cli.lazy import epilog
from stagebox.cli.options import ConfigOption, IdentityOption, JsonOption, ServersOption, settings_for

if TYPE_CHECKING:
    from stagebox.listening.listener import Listener
    from stagebox.listening.outputs import Output
    from stagebox.subscriber import Subscriber

_EXAMPLES = """
[bold]Examples[/bold]

stagebox listen stage-left --play --identity ops

stagebox listen stage-left --bus foh --wav foh.wav --seconds 60

stagebox listen stage-left --latency 200 --json
"""


@epilog(_EXAMPLES)
def listen(
    ctx: typer.Context,
    rack: Annotated[str, typer.Argument(metavar="RACK", help="The rack's name.")],
    bus: Annotated[str, typer.Option("--bus", metavar="BUS", help="Which monitor bus.")] = "main",
    wav: Annotated[
        Path | None, typer.Option("--wav", metavar="FILE", help="Write a WAV file (24 bit, 48 kHz).")
    ] = None,
    play: Annotated[bool, typer.Option("--play", help="Play through this machine's sound device.")] = False,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Play through this one; implies --play.")
    ] = None,
    latency: Annotated[
        float | None, typer.Option("--latency", metavar="MS", help="Jitter buffer, ms (60).")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", "-s", min=0.1, metavar="S", help="Stop after S seconds.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Stop if a packet turns out not to be the rack's.")
    ] = True,
    mixer: Annotated[
        str | None, typer.Option("--mixer", metavar="URL", help="Base URL of the mixer's API.")
    ] = None,
    server: ServersOption = None,
    identity: IdentityOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Listen to a rack until Ctrl-C; it sends audio only while somebody does."""
    import asyncio

    from stagebox import subscriber
    from stagebox.config.client import ClientSettings

    settings = settings_for(
        ctx,
        ClientSettings,
        {"servers": tuple(server) if server else None, "identity": identity, "mixer": mixer},
        config=config,
    )
    session = subscriber.connect(
        settings.servers, settings.identity, name="stagebox-listen", mixer=settings.mixer
    )
    outputs = _outputs(wav, play or device is not None, device)
    asyncio.run(
        _listen(session, rack, bus, outputs, latency=latency, seconds=seconds, verify=verify, as_json=as_json)
    )


def _outputs(wav: Path | None, play: bool, device: str | None) -> list[Output]:
    if wav is None and not play:
        return []
    from stagebox.listening.outputs import SpeakerOutput, WavOutput

    made: list[Output] = []
    if play:
        made.append(SpeakerOutput(device))
    if wav is not None:
        made.append(WavOutput(wav))
    return made


async def _listen(
    session: Subscriber,
    rack: str,
    bus: str,
    outputs: list[Output],
    *,
    latency: float | None,
    seconds: float | None,
    verify: bool,
    as_json: bool,
) -> None:
    from stagebox.cli.listen_view import LevelLine

    line = LevelLine(f"{rack}/{bus}", quiet=as_json)
    listener: Listener | None = None
    try:
        async with (
            session as connection,
            connection.listen(rack, bus=bus, latency_ms=latency, verify=verify) as listener,
        ):
            frames = None if seconds is None else round(seconds * listener.rate)
            async for block in listener:
                for output in outputs:
                    output.write(block)
                line.show(block, listener)
                if frames is not None and listener.stats.frames + listener.stats.gap_frames >= frames:
                    break
    finally:
        line.end()
        closed = [output.close() for output in outputs]
        if listener is not None:
            _report(listener, closed, as_json)


def _report(listener: Listener, closed: list[dict[str, Any]], as_json: bool) -> None:
    import json
    from dataclasses import asdict

    stats = listener.stats
    if as_json:
        document: dict[str, Any] = {**asdict(stats), "seconds": stats.frames / listener.rate}
        for entry in closed:
            document |= entry
        typer.echo(json.dumps(document))
        return
    packets = stats.packets
    parts = [
        f"heard {stats.frames / listener.rate:.1f} s",
        f"received {packets.received}",
        f"lost {packets.lost} (concealed {stats.concealed_frames / listener.rate * 1000:.0f} ms)",
        f"late {packets.late}",
        f"gaps {packets.gaps} ({stats.gap_frames / listener.rate:.2f} s)",
    ]
    parts += [f"{name} {value}" for entry in closed for name, value in entry.items() if name != "gaps_at"]
    typer.echo(", ".join(parts), err=True)
