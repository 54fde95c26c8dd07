"""The meters of one source: every channel's levels, every programme's loudness, every pair's phase, frame by frame.

Rules:

* dBFS is relative to ±1.0: a full-scale sine has a sample peak of 0 dBFS and an RMS of −3.01 dBFS (20·log₁₀ of the
  linear RMS, without the +3 dB some meters add); PPM and VU read 0 for it;
* a frame is whole steps of 10 ms; a short one, before a discontinuity, may be anything, and what does not fill a step
  (a sub-block) counts for its peaks and RMS and not for loudness (for PPM and VU);
* nothing is below −150 dB: that is the floor, and what silence reads.
"""

from __future__ import annotations

import numpy as np

from stagebox_rack.metering.correlation import Correlation
from stagebox_rack.metering.envelope import Envelope, sub_block
from stagebox_rack.metering.k_weighting import KWeighting, block_length
from stagebox_rack.metering.layout import MeterLayout
from stagebox_rack.metering.levels import Float32, Float64, Levels, decibels
from stagebox_rack.metering.loudness import LOUDNESS_FACTOR, MOMENTARY, Programmes
from stagebox_rack.metering.ppm import Ppm
from stagebox_rack.metering.scratch import Scratch
from stagebox_rack.metering.true_peak import TruePeak
from stagebox_rack.metering.vu import Vu

_CHUNK_STEPS = 5  # K-weighted at a time: the filter's matrices grow with its square


class Meter:
    """Measures frames of one source, carrying filters, needles and windows from frame to frame."""

    def __init__(self, layout: MeterLayout) -> None:
        """Prepare for ``layout``."""
        self._layout = layout
        self._step = layout.step
        self._frame = 0
        block = block_length(self._step)
        self._weighting = KWeighting(
            layout.rate, layout.channels, block=block, max_blocks=_CHUNK_STEPS * self._step // block
        )
        self._true_peak = TruePeak(layout.channels)
        size = sub_block(layout.rate, self._step)
        self._envelope = Envelope(layout.channels, size)
        self._ppm = Ppm(layout.channels, size / layout.rate)
        self._vu = Vu(layout.channels, size / layout.rate)
        self._correlation = Correlation(layout.pairs, layout.rate)
        self._programmes = Programmes(layout.programmes, layout.channels)
        self._hold = _PeakHold(layout.channels, round(layout.hold_s * layout.rate))
        self._past: Float64 = np.zeros((layout.channels, MOMENTARY - 1))
        self._rows = Scratch(np.float32)

    @property
    def next_frame_size(self) -> int:
        """Samples in the next whole frame."""
        return self._layout.steps_of(self._frame) * self._step

    @property
    def rows(self) -> Float32:
        """The frame measured last as float32[channels, samples]; valid until the next."""
        return self._rows.last

    def reset(self) -> None:
        """Forget the past: the next frame does not continue the last. What was integrated stays."""
        for part in (self._weighting, self._true_peak, self._ppm, self._vu, self._correlation):
            part.reset()
        self._programmes.restart()
        self._past[...] = 0.0

    def reset_loudness(self, programme: int | None) -> None:
        """Integrate and look for maxima from now on: of one programme, by its index, or of all."""
        self._programmes.reset(programme)

    def measure(self, samples: Float32) -> Levels:
        """Measure float32[samples, channels], all finite: a whole frame, or a short one before a reset."""
        frames, channels = samples.shape
        if not 0 < frames <= self.next_frame_size:
            raise ValueError(f"the next meter frame has 1 to {self.next_frame_size} samples, not {frames}")
        self._frame = (self._frame + 1) % self._layout.frames_per_second
        rows = self._rows.shaped(channels, frames)
        np.copyto(rows, samples.T)
        drive, means = self._envelope.drive(rows)
        peak = np.maximum(rows.max(axis=1), -rows.min(axis=1))
        mean_square = np.einsum("ij,ij->i", rows, rows).astype(np.float64) / frames
        weighted = self._weigh(rows)
        linear = np.empty((6, channels))
        linear[0] = peak
        linear[1] = self._hold.process(peak, frames)
        linear[2] = self._true_peak.process(rows)
        linear[3:5] = self._ppm.process(drive)
        linear[5] = self._vu.process(means)
        power = np.empty((8, channels))
        np.square(linear, out=power[:6])
        power[6] = mean_square
        power[7] = self._momentary(weighted)
        levels = decibels(power).astype(np.float32)
        return Levels(
            peak=levels[0],
            peak_hold=levels[1],
            true_peak=levels[2],
            ppm1=levels[3],
            ppm2=levels[4],
            vu=levels[5],
            rms=levels[6],
            momentary=levels[7],
            correlation=self._correlation.process(rows, mean_square),
            programmes=self._programmes.process(weighted, levels[2]),
        )

    def _weigh(self, rows: Float32) -> Float64:
        """The K-weighted mean square of each whole step, float64[channels, steps]."""
        steps = rows.shape[1] // self._step
        power: Float64 = np.empty((len(rows), steps))
        for first in range(0, steps, _CHUNK_STEPS):
            last = min(first + _CHUNK_STEPS, steps)
            weighted = self._weighting.process(rows[:, first * self._step : last * self._step])
            weighted = weighted.reshape(len(rows), last - first, self._step)
            np.einsum("ijk,ijk->ij", weighted, weighted, out=power[:, first:last], casting="unsafe")
        power /= self._step
        return power

    def _momentary(self, weighted: Float64) -> Float64:
        """The highest momentary power of each channel alone, with the standard's −0.691 dB in it."""
        steps = weighted.shape[1]
        if steps == 0:
            return np.zeros(len(weighted))
        joined = np.concatenate((self._past, weighted), axis=1)
        self._past = joined[:, steps:]
        totals = np.cumsum(joined, axis=1)
        windows = totals[:, MOMENTARY - 1 :].copy()
        windows[:, 1:] -= totals[:, : steps - 1]
        highest: Float64 = windows.max(axis=1) * (LOUDNESS_FACTOR / MOMENTARY)
        return highest


class _PeakHold:
    """Holds each channel's peak for ``hold`` samples, then falls to what is there."""

    def __init__(self, channels: int, hold: int) -> None:
        self._hold = hold
        self._held: Float32 = np.zeros(channels, dtype=np.float32)
        self._left = np.zeros(channels, dtype=np.int64)

    def process(self, peak: Float32, frames: int) -> Float32:
        self._left -= frames
        taken = (peak >= self._held) | (self._left < 0)
        self._held = np.where(taken, peak, self._held)
        self._left = np.where(taken, self._hold, self._left)
        return self._held
