"""Loudness of programmes: momentary, short-term, integrated, range and maxima (BS.1770-5, EBU R 128, Tech 3341, 3342).

Rules:

* everything is built from the energy of 10 ms steps, so a window may begin at any of them: a frame reports the
  highest of the window positions that end in it, and maxima do not depend on where frames begin (Tech 3341 cases 13
  and 14);
* while less than a window has been captured the missing part counts as no energy, as EBU meters do;
* integrated loudness takes a 400 ms block every 100 ms, range a 3 s window every 100 ms; one that a discontinuity
  cuts is left out;
* a discontinuity keeps what was integrated, a reset forgets it; no window that began before a reset counts after it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stagebox_rack.limits import LIMITS
from stagebox_rack.metering.gating import LoudnessHistogram
from stagebox_rack.metering.layout import STEPS_PER_SECOND, Programme
from stagebox_rack.metering.levels import PROGRAMME_COLUMNS, Float32, Float64, decibels

MOMENTARY = LIMITS.meter_momentary_ms * STEPS_PER_SECOND // 1000
"""Steps in the momentary window."""
SHORT_TERM = LIMITS.meter_short_term_ms * STEPS_PER_SECOND // 1000
"""Steps in the short-term window."""
_HOP = LIMITS.meter_gating_ms * STEPS_PER_SECOND // 1000
_RANGE_EVERY = 10  # hops: the range is worked out once a second

LOUDNESS_FACTOR = 10 ** (-0.691 / 10)
"""BS.1770-5: a full-scale 997 Hz sine in one channel reads −3.01 LUFS."""


class Programmes:
    """The programmes of one source."""

    def __init__(self, programmes: tuple[Programme, ...], channels: int) -> None:
        """Prepare for ``programmes`` over ``channels`` channels."""
        self._weights: Float64 = np.zeros((len(programmes), channels))
        self._members = tuple(np.array(programme.channels, dtype=np.intp) for programme in programmes)
        for row, programme in enumerate(programmes):
            self._weights[row, list(programme.channels)] = programme.weights
        self._past: Float64 = np.zeros((len(programmes), SHORT_TERM))
        self._steps = 0  # since the last discontinuity
        self._reset_at = np.full(len(programmes), -SHORT_TERM)  # in steps of the source
        self._total = 0  # steps of the source
        self._blocks = [LoudnessHistogram() for _ in programmes]
        self._windows = [LoudnessHistogram() for _ in programmes]
        self._values: Float64 = np.full((len(programmes), len(PROGRAMME_COLUMNS)), np.nan)
        self._hops = 0

    def restart(self) -> None:
        """What comes next does not continue what came before; what was integrated stays."""
        self._past[...] = 0.0
        self._steps = 0

    def reset(self, programme: int | None) -> None:
        """Integrate and look for maxima from now on: of one programme, or of all."""
        chosen = range(len(self._blocks)) if programme is None else (programme,)
        for number in chosen:
            self._blocks[number].clear()
            self._windows[number].clear()
            self._reset_at[number] = self._total
            self._values[number, 2:] = np.nan

    def process(self, power: Float64, true_peak: Float32) -> Float32:
        """Take each step's K-weighted mean square, float64[channels, steps], and true peaks in dBTP, float32[channels].

        Returns float32[programmes, 7], columns as `PROGRAMME_COLUMNS`.
        """
        steps = power.shape[1]
        if steps and len(self._blocks):
            self._take(self._weights @ power * LOUDNESS_FACTOR)
        self._raise(6, np.array([true_peak[members].max() for members in self._members]))
        return self._values.astype(np.float32)

    def _take(self, power: Float64) -> None:
        """Take the programmes' power in each step, float64[programmes, steps]."""
        steps = power.shape[1]
        joined = np.concatenate((self._past, power), axis=1)
        totals = np.concatenate((np.zeros((len(power), 1)), np.cumsum(joined, axis=1)), axis=1)
        ends = np.arange(SHORT_TERM + 1, SHORT_TERM + steps + 1)
        momentary = (totals[:, ends] - totals[:, ends - MOMENTARY]) / MOMENTARY
        short_term = (totals[:, ends] - totals[:, ends - SHORT_TERM]) / SHORT_TERM
        for column, windows, length in ((0, momentary, MOMENTARY), (1, short_term, SHORT_TERM)):
            self._values[:, column] = decibels(windows.max(axis=1))
            first = self._reset_at + length - 1 - self._total  # the first window that began after the reset
            after = np.arange(steps) >= first[:, np.newaxis]
            highest = decibels(np.where(after, windows, 0.0).max(axis=1))
            self._raise(4 + column, np.where(after.any(axis=1), highest, np.nan))
        self._integrate(momentary, short_term)
        self._past = joined[:, -SHORT_TERM:]
        self._steps += steps
        self._total += steps

    def _integrate(self, momentary: Float64, short_term: Float64) -> None:
        first = _HOP - 1 - self._steps % _HOP
        for step in range(first, momentary.shape[1], _HOP):
            whole = np.minimum(self._steps, self._total - self._reset_at) + step + 1
            self._add(self._blocks, momentary[:, step], whole >= MOMENTARY)
            self._add(self._windows, short_term[:, step], whole >= SHORT_TERM)
            self._hops += 1
            for number, blocks in enumerate(self._blocks):
                self._values[number, 2] = blocks.integrated()
                if self._hops % _RANGE_EVERY == 0:
                    self._values[number, 3] = self._windows[number].range()

    @staticmethod
    def _add(histograms: list[LoudnessHistogram], powers: Float64, wanted: npt.NDArray[np.bool_]) -> None:
        if not wanted.any():
            return
        for number, loudness in enumerate(decibels(powers)):
            if wanted[number]:
                histograms[number].add(float(loudness), float(powers[number]))

    def _raise(self, column: int, values: Float64) -> None:
        self._values[:, column] = np.fmax(self._values[:, column], values)  # NaN is "none yet"
