"""Cross-fades: the arithmetic of a swap without a click. Pure.

A fade is linear and takes a fixed number of frames, over as many blocks as that needs. Both sides of it are the same
signal, more or less, so their amplitudes are added and not their powers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]


class Fade:
    """One fade of ``length`` frames."""

    def __init__(self, length: int) -> None:
        self._length = max(1, length)
        self._position = 0

    @property
    def done(self) -> bool:
        """Whether the new signal alone is heard from here on."""
        return self._position >= self._length

    def ramp(self, frames: int) -> Float32:
        """Return the share of the new signal in each of the next ``frames``, float32[frames] above 0 and up to 1."""
        first = self._position + 1
        self._position += frames
        shares = np.arange(first, first + frames, dtype=np.float32)
        shares /= np.float32(self._length)
        return np.minimum(shares, np.float32(1), out=shares)


def cross_fade(old: Float32, new: Float32, ramp: Float32, out: Float32) -> None:
    """Write the mix into ``out``; all are float32 of one shape whose last axis is the ramp's. May be in place."""
    # A share of 1 must give the new signal exactly, so what counts is how far it is from being new.
    np.add(new, (old - new) * (np.float32(1) - ramp), out=out)
