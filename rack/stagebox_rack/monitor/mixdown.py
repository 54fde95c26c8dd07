"""Mixes one source's blocks down to a monitor bus. Pure.

Monitor audio is a convenience, so what cannot be encoded is made harmless and counted: NaN and infinite samples
become 0, and what exceeds full scale is limited to it, never wrapped.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stagebox_rack.audio.channel_map import ChannelMap
from stagebox_rack.metering.levels import Float32


class Mixdown:
    """``mix`` is float32[channels, 1 or 2] of the channels ``mapped`` makes."""

    def __init__(self, mapped: ChannelMap, mix: Float32) -> None:
        """Keep only the channels that are heard."""
        self._map = mapped
        self._mix = mix
        self.channels = int(mix.shape[1])
        self.nonfinite = 0
        self.clipped = 0

    def process(self, native: npt.NDArray[np.generic]) -> Float32:
        """Return float32[frames, 1 or 2], finite and within ±1.0."""
        samples = self._map.apply(native)
        if native.dtype.kind == "f":
            finite = np.isfinite(samples)
            if not finite.all():
                self.nonfinite += int(finite.size - np.count_nonzero(finite))
                samples[~finite] = 0.0
        return self.limit(samples @ self._mix)

    def limit(self, mixed: Float32) -> Float32:
        """Return float32[frames, 1 or 2] limited to ±1.0, in place; what exceeded it is counted."""
        over = np.abs(mixed) > 1.0
        if over.any():
            self.clipped += int(np.count_nonzero(over))
            np.clip(mixed, -1.0, 1.0, out=mixed)
        return mixed
