"""Which inputs of a source are its channels, in which order, under which names, with which trim and polarity. Pure.

Everything that measures or mixes sees a source through its map; what records reads the ring and sees the inputs raw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stagebox.errors import ConfigError

Native = npt.NDArray[np.generic]
Float32 = npt.NDArray[np.float32]

# Full scale of each sample type a ring may hold. 24-bit samples are left-justified in 32.
_FULL_SCALE: dict[np.dtype[np.generic], float] = {
    np.dtype(np.int16): 2.0**15,
    np.dtype(np.int32): 2.0**31,
    np.dtype(np.float32): 1.0,
}


@dataclass(frozen=True)
class Channel:
    """One channel: input ``input`` (from 0) under ``name``.

    ``pan`` is −1 (left) to +1 (right) in stereo mixes; ``group`` names the programme or stem it belongs to.
    """

    input: int
    name: str
    group: str = ""
    pan: float = 0.0
    gain_db: float = 0.0
    inverted: bool = False


class ChannelMap:
    """The channels of one source, in order. ``setting`` is named in errors, such as ``rack.channels.main``."""

    def __init__(self, channels: Sequence[Channel], *, setting: str = "rack.channels") -> None:
        """Check and take ``channels``.

        Raises:
            ConfigError: there is none, or two have one name.
        """
        self.channels = tuple(channels)
        self.setting = setting
        if not self.channels:
            raise ConfigError(f"{setting} has no channel", remedy="leave the setting out to take every input")
        self._index = {channel.name: number for number, channel in enumerate(self.channels)}
        if len(self._index) != len(self.channels):
            names = [channel.name for channel in self.channels]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(
                f"{setting}: two channels are named {twice!r}", remedy="name each one differently"
            )
        self._inputs = np.array([channel.input for channel in self.channels])
        self._trim = np.array(
            [math.pow(10.0, c.gain_db / 20.0) * (-1.0 if c.inverted else 1.0) for c in self.channels]
        )
        self._in_order = bool(np.array_equal(self._inputs, np.arange(len(self.channels))))
        self._scales: dict[np.dtype[np.generic], Float32] = {
            dtype: (self._trim / full).astype(np.float32) for dtype, full in _FULL_SCALE.items()
        }

    @classmethod
    def identity(cls, channels: int, *, setting: str = "rack.channels") -> ChannelMap:
        """Every input as it is, named by its number from 1; two neighbours are panned left and right."""

        def pan(number: int) -> float:
            return 0.0 if number == channels - 1 and channels % 2 else (-1.0, 1.0)[number % 2]

        return cls([Channel(n, str(n + 1), pan=pan(n)) for n in range(channels)], setting=setting)

    @property
    def names(self) -> tuple[str, ...]:
        """The channels' names, in order."""
        return tuple(channel.name for channel in self.channels)

    def require_inputs(self, inputs: int) -> None:
        """Check that a source of ``inputs`` inputs has all that the map takes.

        Raises:
            ConfigError: it has fewer.
        """
        for channel in self.channels:
            if channel.input >= inputs:
                raise ConfigError(
                    f"{self.setting}: channel {channel.name!r} is input {channel.input + 1},"
                    f" but the source has {inputs} input{'s' if inputs > 1 else ''}",
                    remedy=f"use inputs 1 to {inputs}, or open more channels with ?channels=",
                )

    def select(self, wanted: Iterable[str], *, setting: str) -> tuple[int, ...]:
        """The indexes of the channels that ``wanted`` names, each by its own name or by its group, in map order.

        Raises:
            ConfigError: a name is neither; the message names ``setting``.
        """
        chosen: set[int] = set()
        for name in wanted:
            members = [n for n, channel in enumerate(self.channels) if channel.group == name and name]
            if name in self._index:
                chosen.add(self._index[name])
            elif members:
                chosen.update(members)
            else:
                groups = sorted({channel.group for channel in self.channels if channel.group})
                raise ConfigError(
                    f"{setting}: there is no channel or group {name!r}",
                    remedy=f"there are {', '.join([*self.names, *groups])}",
                )
        return tuple(sorted(chosen))

    def apply(self, native: Native, out: Float32 | None = None) -> Float32:
        """Return float32[frames, channels] at ±1.0 full scale: ordered, trimmed, polarity set.

        ``native`` is [frames, inputs] of int16, int32 or float32. int16 and 24-bit samples convert exactly.
        """
        chosen = native[:, : len(self.channels)] if self._in_order else native[:, self._inputs]
        scale = self._scales[native.dtype]
        return np.multiply(chosen, scale, out=out, dtype=np.float32, casting="unsafe")
