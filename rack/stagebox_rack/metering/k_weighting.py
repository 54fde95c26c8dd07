"""The K-weighting filter of ITU-R BS.1770-5, for any sample rate and many channels, in numpy alone.

The standard tabulates two biquads at 48 kHz. Their analogue prototype (a high shelf of +4 dB at 1682 Hz
and a 38 Hz high-pass; parameters fitted by Brecht De Man, "Evaluation of Implementations of the EBU R128
Loudness Measurement", AES 145, 2018, as libebur128 also uses) is warped by the bilinear transform to the
rate at hand, which gives the tabulated numbers back at 48 kHz.

A recursive filter cannot be vectorised along time sample by sample, so it is run in state-space form a
block at a time. With state s (4 values), block input x (L samples) and the system's A, B, C, D::

    y  = T x + O s        T: L×L lower-triangular Toeplitz of the impulse response, O: rows C·Aⁱ
    s' = Aᴸ s + K x       K: columns Aᴸ⁻¹⁻ʲ·B

and since the states of successive blocks follow the same kind of recursion, one further block-Toeplitz
matrix gives them all at once. It is the same filter, not an approximation: it differs from a direct
recursion by rounding only.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from stagebox_rack.limits import LIMITS
from stagebox_rack.metering.scratch import Scratch

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Extended = npt.NDArray[np.longdouble]

_ORDER = 4
_FLUSH = 1e-30  # a state below this is silence; left alone it would decay into slow denormals


def k_weighting_sections(rate: int) -> Float64:
    """The two biquads at ``rate`` Hz as rows ``b0 b1 b2 1 a1 a2``: the shelf, then the high-pass."""
    shelf_hz, gain_db, shelf_q = 1681.974450955533, 3.999843853973347, 0.7071752369554196
    k = math.tan(math.pi * shelf_hz / rate)
    high = math.pow(10.0, gain_db / 20.0)
    band = math.pow(high, 0.4996667741545416)
    a0 = 1.0 + k / shelf_q + k * k
    shelf = (
        (high + band * k / shelf_q + k * k) / a0,
        2.0 * (k * k - high) / a0,
        (high - band * k / shelf_q + k * k) / a0,
        1.0,
        2.0 * (k * k - 1.0) / a0,
        (1.0 - k / shelf_q + k * k) / a0,
    )
    pass_hz, pass_q = 38.13547087602444, 0.5003270373238773
    k = math.tan(math.pi * pass_hz / rate)
    a0 = 1.0 + k / pass_q + k * k
    high_pass = (1.0, -2.0, 1.0, 1.0, 2.0 * (k * k - 1.0) / a0, (1.0 - k / pass_q + k * k) / a0)
    return np.array((shelf, high_pass))


def block_length(step: int) -> int:
    """The filter block for loudness steps of ``step`` samples: a divisor of it, near the cheapest size."""
    low, high = LIMITS.meter_filter_block_min, LIMITS.meter_filter_block_max
    fitting = [size for size in range(low, high + 1) if step % size == 0]
    return fitting[0] if fitting else step


class KWeighting:
    """The filter for ``channels`` channels, with its state carried from call to call."""

    def __init__(self, rate: int, channels: int, *, block: int, max_blocks: int) -> None:
        """Prepare to filter up to ``max_blocks`` blocks of ``block`` samples at a time."""
        self.block = block
        self._max_blocks = max_blocks
        self._state: Float64 = np.zeros((channels, _ORDER))
        self._both = Scratch(np.float32)
        self._entering = Scratch(np.float64)
        self._out = Scratch(np.float32)
        # Built in extended precision: at 192 kHz the high-pass pole is 0.9988 and its powers lose digits.
        a, b, c, d = _state_space(k_weighting_sections(rate).astype(np.longdouble))
        powers = [np.eye(_ORDER, dtype=np.longdouble)]
        for _ in range(block):
            powers.append(a @ powers[-1])
        self._forward = _forward_matrix(powers, b, c, d, block).astype(np.float32)
        self._observe = np.stack([c @ powers[i] for i in range(block)], axis=1).astype(np.float32)
        self._scan = _scan_matrix(powers[block], max_blocks)

    def reset(self) -> None:
        """Forget the past: what comes next does not continue it."""
        self._state[...] = 0.0

    def process(self, samples: Float32) -> Float32:
        """Filter float32[channels, n·block]; the result has the same shape and is valid until the next call.

        The states are carried in float64; within a block float32 is enough: its rounding is 100 dB below the samples.
        """
        channels, frames = samples.shape
        blocks = frames // self.block
        if blocks * self.block != frames or blocks > self._max_blocks:
            raise ValueError(f"{frames} samples are not 0 to {self._max_blocks} blocks of {self.block}")
        rows = channels * blocks
        both = self._both.shaped(rows, self.block + _ORDER)
        np.matmul(samples.reshape(rows, self.block), self._forward, out=both)
        entering = self._entering.shaped(channels, (blocks + 1) * _ORDER)
        entering[:, :_ORDER] = self._state
        entering[:, _ORDER:] = both[:, self.block :].reshape(channels, blocks * _ORDER)
        size = entering.shape[1]
        states = entering @ self._scan[:size, :size]
        self._state = states[:, -_ORDER:].copy()
        self._state[np.abs(self._state) < _FLUSH] = 0.0
        out = self._out.shaped(rows, self.block)
        np.matmul(states[:, :-_ORDER].reshape(rows, _ORDER).astype(np.float32), self._observe, out=out)
        out += both[:, : self.block]
        return out.reshape(channels, frames)


def _state_space(sections: Extended) -> tuple[Extended, Extended, Extended, np.longdouble]:
    """A, B, C, D of two biquads in series, each in transposed direct form II."""
    parts = []
    for b0, b1, b2, _, a1, a2 in sections:
        parts.append((np.array(((-a1, 1.0), (-a2, 0.0))), np.array((b1 - a1 * b0, b2 - a2 * b0)), b0))
    (a_first, b_first, d_first), (a_second, b_second, d_second) = parts
    c = np.array((1.0, 0.0), dtype=np.longdouble)
    a = np.block([[a_first, np.zeros((2, 2), dtype=np.longdouble)], [np.outer(b_second, c), a_second]])
    return (
        a,
        np.concatenate((b_first, b_second * d_first)),
        np.concatenate((d_second * c, c)),
        d_first * d_second,
    )


def _forward_matrix(
    powers: list[Extended], b: Extended, c: Extended, d: np.longdouble, block: int
) -> Float64:
    """[T | K] transposed: one product gives a block's own response and its push on the state."""
    response = np.array([d, *(c @ powers[i] @ b for i in range(block - 1))])
    forward = np.zeros((block, block + _ORDER))
    for row in range(block):
        forward[row, row:block] = response[: block - row]
        forward[row, block:] = powers[block - 1 - row] @ b
    return forward


def _scan_matrix(step: Extended, max_blocks: int) -> Float64:
    """All states from the first state and every block's push: block [m, k] is stepᵏ⁻ᵐ, transposed."""
    count = max_blocks + 1
    scan = np.zeros((count * _ORDER, count * _ORDER))
    power = np.eye(_ORDER, dtype=np.longdouble)
    for distance in range(count):
        for m in range(count - distance):
            k = m + distance
            scan[m * _ORDER : (m + 1) * _ORDER, k * _ORDER : (k + 1) * _ORDER] = power.T
        power = step @ power
    return scan
