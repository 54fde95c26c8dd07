"""The VU meter of IEC 60268-17: a needle on the rectified mean.

A second-order system: a steady tone is read at 99 % after 300 ms, with an overshoot between 1 and 1.5 %. It is
linear, so the needle's place at the end of a frame is one matrix product with the frame's sub-block means.
"""

from __future__ import annotations

import math

import numpy as np

from stagebox_rack.metering.levels import Float32, Float64

RISE_S = 0.3
OVERSHOOT = 0.0125
_READ = 0.99
_FLUSH = 1e-12


def damping() -> float:
    """The damping ratio that overshoots by `OVERSHOOT`."""
    log = -math.log(OVERSHOOT)
    return log / math.hypot(math.pi, log)


def natural_frequency() -> float:
    """The natural frequency, rad/s, at which the needle first reads 99 % after `RISE_S`."""
    zeta = damping()
    ringing = math.sqrt(1 - zeta * zeta)

    def response(phase: float) -> float:
        angle = ringing * phase
        return 1 - math.exp(-zeta * phase) * (math.cos(angle) + zeta / ringing * math.sin(angle))

    low, high = 0.0, math.pi / ringing  # monotonic up to the overshoot
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if response(middle) < _READ else (low, middle)
    return low / RISE_S


class Vu:
    """Needles for ``channels`` channels, driven by sub-blocks of ``block_s`` seconds."""

    def __init__(self, channels: int, block_s: float) -> None:
        """Start at rest."""
        self._channels = channels
        self._step, self._push = _discrete(block_s)
        self._after: Float64 = np.eye(2)
        self._kernel: Float32 = np.empty((0, 2), dtype=np.float32)
        self._state: Float64 = np.zeros((channels, 2))

    def reset(self) -> None:
        """Put the needles at rest."""
        self._state[...] = 0.0

    def process(self, means: Float32) -> Float64:
        """Take float32[channels, sub-blocks] (π/2 × mean); return where the needles are, linear float64[channels]."""
        count = means.shape[1]
        if count != len(self._kernel):
            self._prepare(count)
        self._state = self._state @ self._after.T + means @ self._kernel
        self._state[np.abs(self._state) < _FLUSH] = 0.0
        return np.maximum(self._state[:, 0], 0.0)

    def _prepare(self, count: int) -> None:
        powers = [np.eye(2)]
        for _ in range(count):
            powers.append(self._step @ powers[-1])
        self._after = powers[count]
        kernel = np.array([powers[count - 1 - k] @ self._push for k in range(count)]).reshape(count, 2)
        self._kernel = kernel.astype(np.float32)


def _discrete(block_s: float) -> tuple[Float64, Float64]:
    """State (place, speed·T) and input matrices for one sub-block of constant input."""
    omega, zeta = natural_frequency() * block_s, damping()
    # Scaled by the sub-block, so that both states are of the size of the reading and float32 is enough for the kernel.
    system = np.array(((0.0, 1.0, 0.0), (-omega * omega, -2 * zeta * omega, omega * omega), (0.0, 0.0, 0.0)))
    result, term = np.eye(3), np.eye(3)
    for order in range(1, 20):
        term = term @ system / order
        result = result + term
    return result[:2, :2], result[:2, 2]
