"""Draws the bridge for a terminal of any size. Pure: state in, a renderable out.

With room, every channel has a bar. Where there is less, each source has one line with its loudest channel; where
there is still less, the first ones that fit and how many there are. What is not alive is dim and says since when.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from stagebox.bridge.bars import UNICODE, Glyphs, bar, db, level_style
from stagebox.bridge.state import BridgeState, RackMeters, SourceMeters
from stagebox.logs import printable
from stagebox.records.meter import Condition, MeterFrame

_NAME_WIDTH = 10
_BAR_MIN = 8
_FLAG_ROOM = 8  # so that bars do not jump with every short word


class Scale(enum.StrEnum):
    """What a bar shows."""

    PEAK = "peak"
    PPM1 = "ppm1"
    PPM2 = "ppm2"
    VU = "vu"
    TRUE_PEAK = "true-peak"


_FIELDS = {Scale.PPM1: "ppm1", Scale.PPM2: "ppm2", Scale.VU: "vu", Scale.TRUE_PEAK: "true_peak"}
_WORDS = (
    (Condition.CLIP, "CLIP", "bold red"),
    (Condition.NONFINITE, "NAN", "bold red"),
    (Condition.FLATLINE, "FLAT", "bold magenta"),
    (Condition.SILENCE, "SILENT", "magenta"),
    (Condition.DC, "DC", "yellow"),
    (Condition.HUM, "HUM", "yellow"),
)


@dataclass(frozen=True)
class View:
    """Everything a drawing depends on."""

    state: BridgeState
    now: float
    width: int
    height: int
    scale: Scale = Scale.PEAK
    glyphs: Glyphs = UNICODE
    connected: bool = True
    live: bool = True


def draw(view: View) -> RenderableType:
    """Return the bridge, at most ``view.height`` lines of at most ``view.width`` characters."""
    lines = list(_full(view))
    room = view.height - 1
    if len(lines) > room:
        lines = list(_compact(view))
    hidden = max(0, len(lines) - room)
    lines = lines[:room]
    for line in lines:
        line.truncate(view.width)
    foot = _foot(view, hidden)
    foot.truncate(view.width)
    return Group(*lines, foot)


def _full(view: View) -> Iterator[Text]:
    for rack in _racks(view.state):
        yield _head(view, rack)
        for source in rack.sources.values():
            yield from _source(view, source)


def _compact(view: View) -> Iterator[Text]:
    for rack in _racks(view.state):
        if not rack.sources:
            yield _head(view, rack)
        for source in rack.sources.values():
            yield _one_line(view, rack, source)


def _racks(state: BridgeState) -> Sequence[RackMeters]:
    return [state.racks[name] for name in sorted(state.racks)]


def _head(view: View, rack: RackMeters) -> Text:
    text = Text(printable(rack.name), "bold")
    if not any(source.frame is not None for source in rack.sources.values()):
        text.append("  nothing heard yet", "yellow")
    if rack.state and rack.state != "running":
        text.append(f"  {printable(rack.state)}", "yellow")
    lost = sum(source.lost for source in rack.sources.values())
    if lost:
        text.append(f"  {lost} frames missed", "yellow")
    unproved = sum(source.unproved for source in rack.sources.values())
    if unproved:
        text.append(f"  {unproved} NOT PROVED", "bold red")
    return text


def _source(view: View, source: SourceMeters) -> Iterator[Text]:
    frame = source.frame
    if frame is None:
        return
    dead = source.stale(view.now)
    title = Text(f" {printable(source.name)}", "" if not dead else "dim")
    if dead:
        title.append(f"  no data for {source.age(view.now):.1f} s", "bold yellow")
    if len(view.state.racks[_rack_of(view, source)].sources) > 1 or dead:
        yield title
    for channel in range(frame.channels):
        yield _channel(view, source, frame, channel, dead)
    for number in range(len(frame.programmes)):
        yield _programme(view, source, frame, number, dead)


def _rack_of(view: View, source: SourceMeters) -> str:
    return next(name for name, rack in view.state.racks.items() if source in rack.sources.values())


def _channel(view: View, source: SourceMeters, frame: MeterFrame, channel: int, dead: bool) -> Text:
    name_width = min(_NAME_WIDTH, max(4, view.width // 8))
    text = Text(f"  {printable(source.channel(channel)):<{name_width}.{name_width}} ")
    solid, light, hold = _values(frame, channel, view.scale)
    values = [(light, view.scale.value if view.scale is not Scale.PEAK else "pk")]
    if view.width >= 72 and view.scale is Scale.PEAK:
        values.append((solid, "rms"))
    if view.width >= 84:
        values.append((frame.true_peak[channel], "tp"))
    words = max(_FLAG_ROOM, *(len(_flags(frame, number)) for number in range(frame.channels)))
    taken = len(text) + sum(7 + len(unit) + 1 for _, unit in values) + words
    text.append_text(bar(solid, light, hold, view.glyphs, max(_BAR_MIN, view.width - taken)))
    for value, unit in values:
        text.append(f" {db(value, view.glyphs)} {unit}", level_style(value))
    text.append_text(_flags(frame, channel))
    if dead:
        text.stylize("dim")
    return text


def _values(frame: MeterFrame, channel: int, scale: Scale) -> tuple[float, float, float]:
    """What the solid bar, the light one and the mark reach."""
    peak = frame.peak[channel]
    hold = frame.peak_hold[channel] if len(frame.peak_hold) else peak
    values = getattr(frame, _FIELDS[scale]) if scale in _FIELDS else ()
    if len(values):  # a rack of the first release measures no PPM and no VU
        return values[channel], values[channel], hold
    return frame.rms[channel], peak, hold


def _flags(frame: MeterFrame, channel: int) -> Text:
    text = Text()
    if channel < len(frame.flags):
        for bit, word, style in _WORDS:
            if frame.flags[channel] & bit:
                text.append(f" {word}", style)
    return text


def _programme(view: View, source: SourceMeters, frame: MeterFrame, number: int, dead: bool) -> Text:
    levels, glyphs = frame.programmes[number], view.glyphs
    text = Text(f"  {printable(source.programme(number)):<8.8}", "cyan")
    parts = [("M", levels.momentary), ("S", levels.short_term), ("I", levels.integrated)]
    if view.width >= 64:
        parts.append(("LRA", levels.range))
    if view.width >= 76:
        parts.append(("TPmax", levels.max_true_peak))
    for name, value in parts:
        text.append(f" {name}", "dim")
        text.append(db(value, glyphs))
    if number == 0 and view.width >= 92 and len(frame.correlation):
        text.append("  phase ", "dim")
        for value in frame.correlation[: (view.width - len(text)) // 7]:
            text.append(f"{value:+.2f} ".replace("nan", "  – "), "red" if value < 0 else "")
    if dead:
        text.stylize("dim")
    return text


def _one_line(view: View, rack: RackMeters, source: SourceMeters) -> Text:
    width = min(18, max(8, view.width // 4))
    name = rack.name if len(rack.sources) == 1 else f"{rack.name}/{source.name}"
    text = Text(f"{printable(name):<{width}.{width}} ")
    frame = source.frame
    if frame is None:
        text.append("nothing heard yet", "yellow")
        return text
    if source.stale(view.now):
        text.append(f"no data for {source.age(view.now):.1f} s", "bold yellow")
        return text
    loudest = max(range(frame.channels), key=lambda n: frame.peak[n])
    solid, light, hold = _values(frame, loudest, view.scale)
    loudness = view.width >= 56
    taken = len(text) + 8 + (10 if loudness else 0) + max(_FLAG_ROOM, len(_all_flags(frame)))
    text.append_text(bar(solid, light, hold, view.glyphs, max(_BAR_MIN, view.width - taken)))
    text.append(f" {db(light, view.glyphs)}", level_style(light))
    if loudness and frame.programmes:
        text.append(f" S{db(frame.programmes[0].short_term, view.glyphs)}", "cyan")
    text.append_text(_all_flags(frame))
    return text


def _all_flags(frame: MeterFrame) -> Text:
    together = 0
    for flags in frame.flags:
        together |= flags
    text = Text()
    for bit, word, style in _WORDS:
        if together & bit:
            text.append(f" {word}", style)
    return text


def _foot(view: View, hidden: int) -> Text:
    if not view.connected:
        return Text("NOT CONNECTED: what is shown is old", "bold red")
    if not view.state.racks:
        return Text("waiting for racks ... Ctrl-C ends", "dim")
    more = f"{hidden} more lines do not fit; " if hidden else ""
    count = len(view.state.racks)
    end = "; Ctrl-C ends" if view.live else ""
    return Text(f"{more}{count} rack{'s' if count > 1 else ''}, scale {view.scale.value}{end}", "dim")
