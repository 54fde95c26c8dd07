"""What is to be made of one source: its channel map, programmes, stereo pairs and meters. Pure.

A plan is written before anything is opened; :meth:`SourcePlan.layout` fits it to what the source turned out to deliver,
and refuses what does not fit by the name of the setting.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stagebox.errors import ConfigError
from stagebox.limits import LIMITS as SHARED
from stagebox_rack.audio.capture import StreamFormat
from stagebox_rack.audio.channel_map import Channel, ChannelMap
from stagebox_rack.audio.source_uri import SourceSpec
from stagebox_rack.limits import LIMITS
from stagebox_rack.metering.conditions import ConditionSettings
from stagebox_rack.metering.layout import MeterLayout, Programme, programme_weights

_WHOLE = "all"
"""Name of the programme over every channel, where nothing else is said."""


@dataclass(frozen=True)
class ProgrammePlan:
    """``channels`` are names of channels or groups; ``weights`` are BS.1770 channel weights, by layout if empty."""

    name: str
    channels: tuple[str, ...]
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class SourcePlan:
    """One source. Without ``channels`` every input is a channel; without ``programmes`` each group is a programme, or
    all channels are one; without ``pairs`` neighbours panned apart are pairs.
    """

    spec: SourceSpec
    channels: tuple[Channel, ...] = ()
    programmes: tuple[ProgrammePlan, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    frames_per_second: int = LIMITS.meter_rate_hz
    hold_s: float = LIMITS.meter_hold
    conditions: ConditionSettings = field(default_factory=ConditionSettings)

    @property
    def name(self) -> str:
        """The source's name."""
        return self.spec.name

    def layout(self, opened: StreamFormat) -> tuple[ChannelMap, MeterLayout]:
        """Return the channel map and the meters for a source that delivers ``opened``.

        Raises:
            ConfigError: the map takes an input that is not there, or a name is not one of its channels.
        """
        setting = f"rack.channels.{self.name}"
        if self.channels:
            mapped = ChannelMap(self.channels, setting=setting)
        else:
            mapped = ChannelMap.identity(opened.channels, setting=setting)
        mapped.require_inputs(opened.channels)
        return mapped, MeterLayout(
            rate=opened.rate,
            channels=len(mapped.channels),
            programmes=self._programmes(mapped),
            pairs=self._pairs(mapped),
            frames_per_second=self.frames_per_second,
            hold_s=self.hold_s,
        )

    def _programmes(self, mapped: ChannelMap) -> tuple[Programme, ...]:
        plans = self.programmes or _by_group(mapped)
        if len(plans) > SHARED.max_programmes:
            raise ConfigError(
                f"rack.programmes.{self.name}: {len(plans)} programmes; a source has at most"
                f" {SHARED.max_programmes}",
                remedy="name the programmes you need, or split the source",
            )
        return tuple(self._programme(mapped, plan) for plan in plans)

    def _programme(self, mapped: ChannelMap, plan: ProgrammePlan) -> Programme:
        setting = f"rack.programmes.{self.name}.{plan.name}"
        chosen = mapped.select(plan.channels, setting=setting)
        if not chosen:
            raise ConfigError(f"{setting} has no channel", remedy="name channels or groups of rack.channels")
        if plan.weights and len(plan.weights) != len(chosen):
            raise ConfigError(
                f"{setting} has {len(plan.weights)} weights for {len(chosen)} channels",
                remedy="give one weight for each channel, in the map's order, or none",
            )
        return Programme(plan.name, chosen, plan.weights or programme_weights(len(chosen)))

    def _pairs(self, mapped: ChannelMap) -> tuple[tuple[int, int], ...]:
        if not self.pairs:
            return _neighbours(mapped)
        found = []
        for left, right in self.pairs:
            chosen = [mapped.select((name,), setting=f"rack.pairs.{self.name}") for name in (left, right)]
            if any(len(one) != 1 for one in chosen) or chosen[0] == chosen[1]:
                raise ConfigError(
                    f"rack.pairs.{self.name}: {left!r} and {right!r} are not two channels",
                    remedy="name two different channels, left and right",
                )
            found.append((chosen[0][0], chosen[1][0]))
        return tuple(found)


def _by_group(mapped: ChannelMap) -> tuple[ProgrammePlan, ...]:
    groups = dict.fromkeys(channel.group for channel in mapped.channels if channel.group)
    if not groups:
        return (ProgrammePlan(_WHOLE, mapped.names),)
    return tuple(ProgrammePlan(group, (group,)) for group in groups)


def _neighbours(mapped: ChannelMap) -> tuple[tuple[int, int], ...]:
    """Neighbouring channels, first panned to the left and second to the right, in one group or in none."""
    found: list[tuple[int, int]] = []
    number = 0
    while number + 1 < len(mapped.channels):
        left, right = mapped.channels[number : number + 2]
        if left.pan < 0 < right.pan and left.group == right.group:
            found.append((number, number + 1))
            number += 1
        number += 1
    return tuple(found)
