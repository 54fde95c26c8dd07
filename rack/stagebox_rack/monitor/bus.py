"""A monitor bus: which channels of one source are mixed to mono or stereo, how loud, where, at which bit rate. Pure.

Pan law: a channel panned hard is passed unchanged to that side, one in the middle is 3 dB down on both (constant
power), so the default bus of a stereo source is that source. A mono bus is the mean power-preserving sum: each of *n*
channels enters with 1/√n, so that unrelated channels keep their level; one channel alone passes unchanged. A source
of one channel has only mono buses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from stagebox.errors import ConfigError
from stagebox_rack.audio.channel_map import ChannelMap
from stagebox_rack.limits import LIMITS
from stagebox_rack.metering.levels import Float32

Mode = Literal["stereo", "mono"]


@dataclass(frozen=True)
class BusPlan:
    """A bus as it is configured; ``channels`` are names of channels or groups, all of them if empty."""

    name: str
    source: str
    channels: tuple[str, ...] = ()
    gains_db: Mapping[str, float] = field(default_factory=dict)
    pans: Mapping[str, float] = field(default_factory=dict)
    mode: Mode = "stereo"
    bit_rate: int = LIMITS.opus_bit_rate

    def mix(self, mapped: ChannelMap) -> Float32:
        """The mix of the source's channels, float32[channels, 1 or 2].

        Raises:
            ConfigError: a name is not one of the source's channels or groups.
        """
        setting = f"rack.buses.{self.name}"
        wanted = self.channels or (mapped.names[:2] if self._default(mapped) else mapped.names)
        chosen = mapped.select(wanted, setting=f"{setting}.channels")
        if not chosen:
            raise ConfigError(f"{setting} has no channel", remedy="name channels or groups of its source")
        gains = self._by_channel(self.gains_db, mapped, f"{setting}.gains_db")
        pans = self._by_channel(self.pans, mapped, f"{setting}.pans")
        mono = self.mode == "mono" or len(mapped.channels) == 1
        mix = np.zeros((len(mapped.channels), 1 if mono else 2))
        for number in chosen:
            gain = math.pow(10.0, gains.get(number, 0.0) / 20.0)
            if mono:
                mix[number, 0] = gain / math.sqrt(len(chosen))
            else:
                angle = (pans.get(number, mapped.channels[number].pan) + 1.0) * math.pi / 4.0
                mix[number] = gain * math.cos(angle), gain * math.sin(angle)
        mix[np.abs(mix) < 1e-9] = 0.0  # cos(π/2) is not quite 0
        return mix.astype(np.float32)

    def _default(self, mapped: ChannelMap) -> bool:
        """Whether nothing says what to mix: then it is the first pair, as a monitor of an unmapped interface is."""
        return all(channel.name == str(number + 1) for number, channel in enumerate(mapped.channels))

    @staticmethod
    def _by_channel(values: Mapping[str, float], mapped: ChannelMap, setting: str) -> dict[int, float]:
        found: dict[int, float] = {}
        for name, value in values.items():
            found |= dict.fromkeys(mapped.select((name,), setting=setting), value)
        return found
