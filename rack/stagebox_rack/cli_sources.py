"""``stagebox rack devices`` and ``test-source``: what there is to capture, and whether it captures well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stagebox.cli.options import ConfigOption, JsonOption, settings_for

if TYPE_CHECKING:
    from stagebox_rack.source_test import SourceTest

DEVICE_EXAMPLES = """
[bold]Examples[/bold]

stagebox rack devices

stagebox rack devices --json
"""
TEST_EXAMPLES = """
[bold]Examples[/bold]

stagebox rack test-source device:default

stagebox rack test-source 'device:usb:1235:8211:Y8RT0/0?channels=8&format=s24' --seconds 60

stagebox rack test-source    # the sources of the configuration, with their channel maps
"""


def devices(as_json: JsonOption = False) -> None:
    """List the capture devices PortAudio offers, and how to name each so that it is found again."""
    import json

    from stagebox_rack.audio.portaudio import accepted_rates, list_devices
    from stagebox_rack.audio.source_uri import DeviceSource

    found = list_devices()
    rates = [accepted_rates(DeviceSource("main", one.name), one, min(2, one.channels)) for one in found]
    if as_json:
        rows: list[dict[str, Any]] = [
            {
                "source": one.spec,
                "name": one.name,
                "identity": one.identity,
                "host_api": one.host_api,
                "channels": one.channels,
                "rates": list(accepted),
                "default": one.is_default,
            }
            for one, accepted in zip(found, rates, strict=True)
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    if not found:
        typer.echo("no capture device: check `arecord -l` and the sound server")
        raise typer.Exit(1)
    for one, accepted in zip(found, rates, strict=True):
        default = "  (default)" if one.is_default else ""
        takes = ", ".join(f"{rate / 1000:g}" for rate in accepted) or "no supported rate"
        typer.echo(f"{one.spec}{default}")
        typer.echo(f"    {one.name}, {one.host_api}, {one.channels} channels, {takes} kHz")


def test_source(
    ctx: typer.Context,
    source: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOURCE]...", help="device:…, file:… or tone:…; those configured if none."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", "-s", min=0.5, metavar="S", help="How long to capture.")
    ] = 5.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Capture for a while without a mixer: levels, gaps, cadence, clock. Exit code 1 if anything was lost."""
    import json
    import sys

    from stagebox_rack.audio_plans import source_plans
    from stagebox_rack.settings import RackSettings
    from stagebox_rack.source_test import SourceTest, summary_lines

    settings = settings_for(ctx, RackSettings, {"sources": tuple(source) if source else None}, config=config)
    test = SourceTest(source_plans(settings))
    interactive = sys.stderr.isatty() and not as_json
    try:
        test.run(seconds, on_tick=_level_line(test) if interactive else None)
    except KeyboardInterrupt:
        test.interrupted = True
    finally:
        test.stop()
    if interactive:
        typer.echo("", err=True)
    report = test.report()
    if as_json:
        typer.echo(json.dumps(report))
    else:
        for line in summary_lines(report):
            typer.echo(line)
    if not report["clean"]:
        raise typer.Exit(1)


def _level_line(test: SourceTest) -> Any:
    from stagebox.bridge.bars import bar, glyphs_for

    glyphs = glyphs_for(typer.get_text_stream("stderr").encoding or "ascii")

    def show() -> None:
        parts = []
        for name, frame in test.latest().items():
            loudest = int(frame.peak.argmax())
            drawn = bar(float(frame.rms[loudest]), float(frame.peak[loudest]), -150.0, glyphs, 24).plain
            parts.append(f"{name} {drawn} {float(frame.peak[loudest]):6.1f} dBFS")
        typer.echo("\r" + "  ".join(parts) + "\x1b[K", nl=False, err=True)

    return show


def registered_in(app: typer.Typer) -> None:
    """Add both commands to ``app``."""
    app.command("devices", epilog=DEVICE_EXAMPLES)(devices)
    app.command("test-source", epilog=TEST_EXAMPLES)(test_source)
