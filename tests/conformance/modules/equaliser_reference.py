"""The equaliser and the limiter once more, in numpy, from their descriptions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

OFF, PEAK, LOW_SHELF, HIGH_SHELF, LOW_CUT, HIGH_CUT = range(6)
AHEAD_S = 0.005

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """One band; ``gain`` in dB."""

    type: int
    frequency: float
    gain: float
    q: float

    def params(self, number: int) -> dict[str, float]:
        """Return the parameters of band ``number``, counted from 1."""
        fields = {"type": self.type, "frequency": self.frequency, "gain": self.gain, "q": self.q}
        return {f"band{number}_{name}": value for name, value in fields.items()}

    def sos(self, rate: float) -> Float64:
        """Return the section, float64[6], after the Audio EQ Cookbook; values as float32 has them."""
        gain, q = float(np.float32(self.gain)), float(np.float32(self.q))
        w = 2 * math.pi * min(float(np.float32(self.frequency)), 0.49 * rate) / rate
        a, c, alpha = 10 ** (gain / 40), math.cos(w), math.sin(w) / (2 * q)
        up, down, root = a + 1, a - 1, 2 * math.sqrt(a) * alpha
        numerator, denominator = {
            PEAK: ((1 + alpha * a, -2 * c, 1 - alpha * a), (1 + alpha / a, -2 * c, 1 - alpha / a)),
            LOW_SHELF: (
                (a * (up - down * c + root), 2 * a * (down - up * c), a * (up - down * c - root)),
                (up + down * c + root, -2 * (down + up * c), up + down * c - root),
            ),
            HIGH_SHELF: (
                (a * (up + down * c + root), -2 * a * (down + up * c), a * (up + down * c - root)),
                (up - down * c + root, 2 * (down - up * c), up - down * c - root),
            ),
            LOW_CUT: (((1 + c) / 2, -(1 + c), (1 + c) / 2), (1 + alpha, -2 * c, 1 - alpha)),
            HIGH_CUT: (((1 - c) / 2, 1 - c, (1 - c) / 2), (1 + alpha, -2 * c, 1 - alpha)),
        }[self.type]
        return np.array([*numerator, *denominator]) / denominator[0]


def ahead(rate: int) -> int:
    """Return the limiter's look-ahead in frames."""
    return int(AHEAD_S * rate)


def limited(signal: Float64, rate: int, ceiling_db: float, release_ms: float) -> Float64:
    """Return float64[frames, channels], limited and delayed by the look-ahead."""
    size = ahead(rate)
    ceiling = float(np.float32(10 ** (ceiling_db / 20)))
    peaks = np.abs(signal).max(axis=1)
    wanted = np.minimum(1.0, ceiling / np.maximum(peaks, ceiling))
    # The lowest of this frame and the `size` before it.
    padded = np.concatenate([np.ones(size), wanted])
    lowest = sliding_window_view(padded, size + 1).min(axis=1)
    release = 1 - math.exp(-1000 / (release_ms * rate))
    held, last = np.ones(size + len(wanted)), 1.0
    for n, value in enumerate(lowest):
        last = min(value, last + (1 - last) * release)
        held[size + n] = last
    total = np.concatenate([[0.0], np.cumsum(held)])
    gain = (total[size + 1 :] - total[1:-size]) / size
    delayed = np.concatenate([np.zeros((size, signal.shape[1])), signal])[: len(signal)]
    return np.asarray(gain[:, np.newaxis] * delayed)
