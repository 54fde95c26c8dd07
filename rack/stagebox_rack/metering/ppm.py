"""Peak programme meters of IEC 60268-10, types I and II.

A PPM is a quasi-peak meter: a capacitor that charges while the rectified signal is above it and discharges slowly. Each
type is modelled by two such integrators side by side, a fast and a slow one, whose weighted sum is the reading. With
drive *t* (see `envelope`), decay *d* and charge *w* for one sub-block each integrator does::

    z ← max(d·z, d·z + w·(t − d·z))

The time constants are fitted to the standard's table of tone bursts (type I: 10 ms −1, 5 ms −2, 3 ms −4, 0.4 ms −15 dB;
type II: 10 ms −2.2, 5 ms −4, 1.5 ms −9, 0.5 ms −17 dB) and its return times (20 dB in 1.7 s; 24 dB in 2.8 s).

The recursion is not linear, but with the decay taken out (y = z·d⁻ᵏ, b = w·t·d⁻ᵏ, c = 1 − w) a sub-block is
f(y) = max(y, c·y + b), and K of them one after the other are the maximum of K + 1 straight lines::

    max over j of (cʲ·y + Bⱼ)        Bⱼ ← max(Bⱼ, c·Bⱼ₋₁ + b) for each sub-block

The lines of all groups of K sub-blocks are found side by side; only the groups follow each other. Lines that no
sequence has reached yet may start at 0 instead of −∞: cʲ·y is never above y. The reading is taken where a group ends;
the decay within a group is 0.04 dB at the most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stagebox_rack.metering.levels import Float32
from stagebox_rack.metering.scratch import Scratch

_GROUP = 14  # sub-blocks worked out at once: near the cost minimum
_FLUSH = 1e-12  # −240 dB: below this a charge is nothing, and left alone it would decay into slow denormals


@dataclass(frozen=True)
class PpmType:
    """Charge times and share of the fast integrator, and the return in dB a second."""

    fast_s: float
    slow_s: float
    fast_share: float
    fall_db_per_s: float


TYPE_I = PpmType(fast_s=0.926e-3, slow_s=4.867e-3, fast_share=0.41, fall_db_per_s=20.0 / 1.7)
TYPE_II = PpmType(fast_s=1.569e-3, slow_s=11.67e-3, fast_share=0.4986, fall_db_per_s=24.0 / 2.8)


class Ppm:
    """Both types for ``channels`` channels, driven by sub-blocks of ``block_s`` seconds."""

    def __init__(self, channels: int, block_s: float) -> None:
        """Start discharged."""
        types = (TYPE_I, TYPE_II)
        times = np.array([[kind.fast_s, kind.slow_s] for kind in types]).reshape(4, 1)
        falls = np.array([[kind.fall_db_per_s] * 2 for kind in types]).reshape(4, 1)
        charge = 1.0 - np.exp(-block_s / times)
        self._decay = 10.0 ** (-falls * block_s / 20.0)
        self._charge = charge
        # Spread out in full: numpy is several times slower where it has to repeat a short axis.
        slopes = (1.0 - charge) ** np.arange(_GROUP + 1)[:, np.newaxis, np.newaxis]
        self._slopes = np.broadcast_to(slopes, (_GROUP + 1, 4, channels)).astype(np.float32)
        self._keep: Float32 = np.empty(0, dtype=np.float32)
        # A steady tone reads its peak: the integrators settle a little below it, and the shares make up for that.
        settled = charge / (1.0 - self._decay * (1.0 - charge))
        share = np.array([[kind.fast_share, 1.0 - kind.fast_share] for kind in types]).reshape(4, 1)
        level = (share * settled).reshape(2, 2).sum(axis=1)
        self._share = (share / np.repeat(level, 2)[:, np.newaxis]).astype(np.float32)
        self._state = np.zeros((4, channels), dtype=np.float32)
        self._count = 0
        self._gain: Float32 = np.empty(0, dtype=np.float32)
        self._fall: Float32 = np.empty(0, dtype=np.float32)
        self._pushes = Scratch(np.float32)
        self._lines = Scratch(np.float32)
        self._next = Scratch(np.float32)

    def reset(self) -> None:
        """Discharge."""
        self._state[...] = 0.0

    def process(self, drive: Float32) -> Float32:
        """Take float32[channels, sub-blocks] and return the highest readings, linear float32[2, channels]."""
        channels, count = drive.shape
        if count == 0:
            return self._reading(self._state[np.newaxis])
        if count != self._count:
            self._prepare(count, channels)
        groups = -(-count // _GROUP)
        pushes = self._pushes.shaped(groups * _GROUP, 4, channels)
        np.multiply(self._gain, drive.T[:, np.newaxis, :], out=pushes[:count])
        pushes[count:] = 0.0  # a push of nothing changes nothing
        by_number = pushes.reshape(groups, _GROUP, 4, channels).transpose(1, 0, 2, 3)
        lines = self._find_lines(np.ascontiguousarray(by_number))
        after = np.empty((groups, 4, channels), dtype=np.float32)
        charged = self._state
        for group in range(groups):
            candidates = self._slopes * charged
            candidates += lines[:, group]
            charged = np.maximum.reduce(candidates, axis=0, out=after[group])
        after *= self._fall
        self._state = after[-1].copy()
        self._state[self._state < _FLUSH] = 0.0
        return self._reading(after)

    def _find_lines(self, pushes: Float32) -> Float32:
        """The offsets of every group's lines, float32[lines, groups, 4, channels], from its pushes by their number."""
        _, groups, integrators, channels = pushes.shape
        lines = self._lines.shaped(_GROUP + 1, groups, integrators, channels)
        following = self._next.shaped(_GROUP + 1, groups, integrators, channels)
        lines[...] = 0.0
        for number in range(_GROUP):
            reached = number + 1
            candidates = following[:reached]
            np.multiply(lines[:reached], self._keep[:reached], out=candidates)
            candidates += pushes[number]
            np.maximum(lines[1 : reached + 1], candidates, out=lines[1 : reached + 1])
        return lines

    def _reading(self, charged: Float32) -> Float32:
        weighted = charged * self._share
        highest: Float32 = (weighted[:, 0::2] + weighted[:, 1::2]).max(axis=0)
        return highest

    def _prepare(self, count: int, channels: int) -> None:
        self._count = count
        groups = -(-count // _GROUP)
        keep = (1.0 - self._charge).astype(np.float32)
        self._keep = np.broadcast_to(keep, (_GROUP, groups, 4, channels)).copy()
        fall = self._decay ** np.arange(1, count + 1)[:, np.newaxis, np.newaxis]
        self._gain = (self._charge / fall).astype(np.float32)
        ends = np.minimum(np.arange(_GROUP, count + _GROUP, _GROUP), count)
        self._fall = fall[ends - 1].astype(np.float32)
