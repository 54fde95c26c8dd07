"""The meter bridge: what is known now, drawn for a terminal of 80 × 24. Pure: a view in, a renderable out.

A solid bar is RMS, a light one reaches the sample peak, a mark holds it; `stagebox meters` draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.limits import LIMITS
from demo.telemetry import RackTelemetry
from stagebox import MeterFrame
from stagebox.bridge.bars import UNICODE, WIDTH, Glyphs, bar, db, level_style
from stagebox.subjects import Kind

_PANEL_LINES = 2 + LIMITS.shown_channels + 5  # border; channels; loudness, snake, meter, audio, journal


@dataclass(frozen=True)
class RackView:
    """One rack on the screen. ``committed`` is the mixer's count of its records, None if not yet known."""

    rack: RackTelemetry
    source: str
    committed: int | None


@dataclass(frozen=True)
class View:
    """The whole screen."""

    racks: Sequence[RackView]
    mixer: str
    batches: int | None
    elapsed: float
    remaining: float | None
    connected: bool
    glyphs: Glyphs = UNICODE


def draw(view: View) -> RenderableType:
    """Return the bridge."""
    return Group(_headline(view), *(_rack(rack, view.glyphs) for rack in view.racks), _footline(view))


def plain_line(view: RackView) -> str:
    """One line a rack for a log or a pipe."""
    frame, kinds = view.rack.frame, view.rack.kinds
    level = "no frame yet"
    if frame is not None:
        level = f"peak {max(frame.peak):.1f} dBFS, {frame.programme_momentary:.1f} LUFS-M"
    meter, audio = kinds[Kind.METER], kinds[Kind.AUDIO]
    return (
        f"{view.rack.name}: {level}; meter {meter.received} received {meter.verified} verified "
        f"{len(meter.pending)} pending {meter.unproved} bad; audio {audio.received} received "
        f"{audio.verified} verified; journal {_journal(view.rack, 'records')} records at its last status, "
        f"mixer committed {_known(view.committed)}"
    )


def _headline(view: View) -> Text:
    text = Text("Stagebox demo", style="bold")
    text.append(f"  {view.mixer}, {_known(view.batches)} batches committed", style="not bold")
    if not view.connected:
        text.append("  SCREEN DISCONNECTED", style="bold red")
    text.truncate(80)
    return text


def _footline(view: View) -> Text:
    when = f"{view.elapsed:5.0f} s"
    if view.remaining is not None:
        when += f", {view.remaining:.0f} s to go"
    return Text(f"{when}   Ctrl-C ends it and prints the account", style="dim")


def _rack(view: RackView, glyphs: Glyphs) -> Panel:
    rack = view.rack
    table = Table.grid(padding=(0, 1))
    table.add_column(width=8, no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    frame = rack.frame
    if frame is None:
        table.add_row("level", Text("no frame yet", style="yellow"))
    else:
        for channel in range(min(frame.channels, LIMITS.shown_channels)):
            table.add_row(_channel_name(frame.channels, channel), _channel(frame, channel, glyphs))
        table.add_row("loudness", _loudness(frame, glyphs))
    table.add_row("snake", _snake(rack))
    table.add_row("meter", _live(rack, Kind.METER))
    table.add_row("audio", _live(rack, Kind.AUDIO))
    table.add_row("journal", _wal(view))
    unproved = sum(tally.unproved for tally in rack.kinds.values())
    title = Text(f" {rack.name}: {view.source} ", style="bold")
    return Panel(
        table,
        title=title,
        title_align="left",
        box=box.ROUNDED,
        height=_PANEL_LINES,
        border_style="red" if unproved else "default",
    )


def _channel_name(channels: int, channel: int) -> str:
    return ("left", "right")[channel] if channels == 2 else f"ch {channel + 1}"


def _channel(frame: MeterFrame, channel: int, glyphs: Glyphs) -> Text:
    rms, peak, true_peak = frame.rms[channel], frame.peak[channel], frame.true_peak[channel]
    text = bar(rms, peak, frame.peak_hold[channel], glyphs, WIDTH)
    text.append(f" {db(rms, glyphs)} rms", level_style(rms))
    text.append(f"{db(peak, glyphs)} pk", level_style(peak))
    text.append(f"{db(true_peak, glyphs)} tp", level_style(true_peak))
    return text


def _loudness(frame: MeterFrame, glyphs: Glyphs) -> Text:
    text = Text(f"{db(frame.programme_momentary, glyphs).strip()} LUFS-M programme")
    shown = [db(value, glyphs).strip() for value in frame.momentary[: LIMITS.shown_channels]]
    text.append(f"   channels {' '.join(shown)} LUFS-M", style="dim")
    return text


def _snake(rack: RackTelemetry) -> Text:
    facts = _body(rack).get("transport")
    if not facts:
        return Text("no verified status yet", style="yellow")
    certificate = "client certificate" if facts["client_certificate"] else "NO CLIENT CERTIFICATE"
    good = facts["client_certificate"] is True and facts["tls"] == "TLSv1.3"
    return Text(f"{facts['tls']} {facts['cipher']}, {certificate}", style="green" if good else "bold red")


def _live(rack: RackTelemetry, kind: Kind) -> Text:
    tally = rack.kinds[kind]
    text = Text(f"{tally.received} received, ")
    text.append(f"{tally.verified} verified", style="green")
    text.append(f", {len(tally.pending)} pending, ")
    text.append(f"{tally.unproved} bad", style="bold red" if tally.unproved else "")
    return text


def _wal(view: RackView) -> Text:
    return Text(
        f"{_journal(view.rack, 'records')} records, {_journal(view.rack, 'acknowledged')} acked, "
        f"{_known(view.committed)} committed, {_journal(view.rack, 'segments')} segments"
    )


def _journal(rack: RackTelemetry, name: str) -> str:
    return _known(_body(rack).get("wal", {}).get(name))


def _body(rack: RackTelemetry) -> dict[str, Any]:
    return rack.status.body if rack.status is not None else {}


def _known(value: int | None) -> str:
    return "?" if value is None else str(value)
