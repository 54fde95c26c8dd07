"""From settings to plans: what is made of each source of this rack. Pure.

What can be judged without opening a source is judged here; the rest by `SourcePlan.layout` when it is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches

from stagebox.errors import ConfigError
from stagebox_rack.audio.channel_map import Channel, ChannelMap
from stagebox_rack.audio.plan import ProgrammePlan, SourcePlan
from stagebox_rack.audio.source_uri import parse_sources
from stagebox_rack.audio_settings import ChannelSettings, ConditionsSettings
from stagebox_rack.limits import LIMITS
from stagebox_rack.metering.conditions import CONDITIONS, ConditionSettings
from stagebox_rack.monitor.bus import BusPlan
from stagebox_rack.settings import RackSettings


def source_plans(settings: RackSettings) -> tuple[SourcePlan, ...]:
    """Return a plan for each source.

    Raises:
        ConfigError: a source does not parse, a table is of a source that is not there, or names do not fit each other.
    """
    specs = parse_sources(settings.sources)
    names = [spec.name for spec in specs]
    for table in ("channels", "programmes", "pairs", "conditions"):
        _of_sources(f"rack.{table}", getattr(settings, table), names)
    plans = tuple(
        SourcePlan(
            spec,
            channels=tuple(_channel(entry) for entry in settings.channels.get(spec.name, ())),
            programmes=tuple(
                ProgrammePlan(name, entry.channels, entry.weights)
                for name, entry in settings.programmes.get(spec.name, {}).items()
            ),
            pairs=settings.pairs.get(spec.name, ()),
            frames_per_second=settings.meter_rate,
            hold_s=settings.peak_hold,
            conditions=_conditions(spec.name, settings.conditions.get(spec.name)),
        )
        for spec in specs
    )
    for plan in plans:
        if plan.channels:
            ChannelMap(plan.channels, setting=f"rack.channels.{plan.name}")
    return plans


def bus_plans(settings: RackSettings, sources: Sequence[SourcePlan]) -> tuple[BusPlan, ...]:
    """Return the monitor buses: those configured, and one for each source under its own name.

    Raises: ConfigError: a bus is of a source that is not there, names channels that are not in its map, or there are
    too many.
    """
    names = [plan.name for plan in sources]
    buses = {name: BusPlan(name, name, bit_rate=settings.monitor_kbit * 1000) for name in names}
    for name, bus in settings.buses.items():
        source = bus.source or (name if name in names else names[0])
        if source not in names:
            raise ConfigError(
                f"rack.buses.{name}.source: there is no source {source!r}", remedy=_nearest(source, names)
            )
        buses[name] = BusPlan(
            name,
            source,
            bus.channels,
            bus.gains_db,
            bus.pans,
            bus.mode,
            (bus.kbit or settings.monitor_kbit) * 1000,
        )
    if len(buses) > LIMITS.monitor_buses:
        raise ConfigError(
            f"rack.buses: {len(buses)} buses; a rack has at most {LIMITS.monitor_buses}",
            remedy="leave out those nobody listens to",
        )
    for plan in sources:
        if plan.channels:
            mapped = ChannelMap(plan.channels, setting=f"rack.channels.{plan.name}")
            for bus_plan in buses.values():
                if bus_plan.source == plan.name:
                    bus_plan.mix(mapped)
    return tuple(buses.values())


def _of_sources(setting: str, table: Iterable[str], sources: Sequence[str]) -> None:
    for name in table:
        if name not in sources:
            raise ConfigError(
                f"{setting}.{name}: there is no source {name!r}", remedy=_nearest(name, sources)
            )


def _nearest(name: str, sources: Sequence[str]) -> str:
    close = get_close_matches(name, sources, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"the sources are {', '.join(sources)}"


def _conditions(source: str, table: ConditionsSettings | None) -> ConditionSettings:
    """The rules of one source: the defaults with what its table says.

    Raises:
        ConfigError: a condition would end at a level at which it is raised.
    """
    rules = ConditionSettings()
    if table is None:
        return rules
    changed = {
        name: replace(getattr(rules, name), **getattr(table, name).model_dump(exclude_none=True))
        for name in CONDITIONS
    }
    if table.clip_samples is not None:
        rules = replace(rules, clip_samples=table.clip_samples)
    for name, rule in changed.items():
        low, high = (rule.raise_db, rule.clear_db) if name == "silence" else (rule.clear_db, rule.raise_db)
        if low > high:
            which = "below" if name == "silence" else "above"
            raise ConfigError(
                f"rack.conditions.{source}.{name}: clear_db {rule.clear_db:g} is {which} raise_db"
                f" {rule.raise_db:g}, so it would end while it lasts",
                remedy="leave a few dB between them, the other way round",
            )
    return replace(rules, **changed)


def _channel(entry: ChannelSettings) -> Channel:
    return Channel(
        input=entry.input - 1,
        name=entry.name,
        group=entry.group,
        pan=entry.pan,
        gain_db=entry.gain_db,
        inverted=entry.polarity == "inverted",
    )
