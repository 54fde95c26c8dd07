"""The meter of one source: sample peak, RMS, true peak and momentary loudness, all channels at once.

Rules:

* dBFS is relative to ±1.0: a full-scale sine has a sample peak of 0 dBFS and an RMS of −3.01 dBFS
  (20·log₁₀ of the linear RMS, without the +3 dB some meters add);
* momentary loudness is BS.1770-5 over a rectangular 400 ms, moved in 10 ms steps; a frame reports the
  highest of the positions that end in it, so the maximum of the frames is the maximum of the signal
  whatever the frames' offset (EBU Tech 3341 cases 13 and 14);
* while less than 400 ms has been captured the missing part counts as no energy, as EBU meters do;
* nothing is below −150 dB: that is the floor, and what silence reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stagebox.records.meter import METER_FLOOR_DB
from stagebox_rack.audio.k_weighting import KWeighting, block_length
from stagebox_rack.audio.scratch import Scratch
from stagebox_rack.audio.true_peak import TruePeak
from stagebox_rack.limits import LIMITS

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_LOUDNESS_FACTOR = 10 ** (-0.691 / 10)  # BS.1770-5: a full-scale 997 Hz sine in one channel reads −3.01 LUFS
_FLOOR_POWER = 10 ** (METER_FLOOR_DB / 10)
_SURROUND = 1.41
_WEIGHTS_5_1 = (1.0, 1.0, 1.0, 0.0, _SURROUND, _SURROUND)  # L R C LFE Ls Rs


@dataclass(frozen=True, slots=True)
class Levels:
    """One frame's measurements: float32[channels] in dBFS, dBFS, dBTP and LUFS, and the programme's LUFS."""

    peak: Float32
    rms: Float32
    true_peak: Float32
    momentary: Float32
    programme_momentary: float


def channel_weights(channels: int) -> Float64:
    """The BS.1770-5 weight of each channel: 5.1 order for six channels, 1.0 each for any other count."""
    return np.array(_WEIGHTS_5_1) if channels == len(_WEIGHTS_5_1) else np.ones(channels)


def meter_frame_size(rate: int) -> int:
    """Frames of audio in one meter frame at ``rate`` Hz."""
    return rate // LIMITS.meter_rate_hz


def decibels(power: Float64) -> Float64:
    """``10·log₁₀(power)``, not below the floor. Zero power reads the floor."""
    levels: Float64 = np.maximum(power, _FLOOR_POWER)
    np.log10(levels, out=levels)
    levels *= 10.0
    return levels


class Meter:
    """Measures frames of one source, carrying filters and the loudness window from frame to frame."""

    def __init__(self, rate: int, channels: int, *, weights: Float64 | None = None) -> None:
        """Prepare for ``channels`` at ``rate`` Hz; ``weights`` overrides `channel_weights`."""
        self.frame_size = meter_frame_size(rate)
        self._step = rate * LIMITS.meter_loudness_step_ms // 1000
        steps = self.frame_size // self._step
        self._window = LIMITS.meter_momentary_ms // LIMITS.meter_loudness_step_ms
        block = block_length(self._step)
        self._weighting = KWeighting(rate, channels, block=block, max_blocks=self.frame_size // block)
        self._true_peak = TruePeak(channels)
        self._weights = channel_weights(channels) if weights is None else weights
        self._energy: Float64 = np.zeros((channels, self._window - 1 + steps))
        self._rows = Scratch(np.float32)
        self._wide = Scratch(np.float64)
        self._sum_window = _window_sums(self._window, steps)

    def reset(self) -> None:
        """Forget the past: the next frame does not continue the last."""
        self._weighting.reset()
        self._true_peak.reset()
        self._energy[...] = 0.0

    def measure(self, samples: Float32) -> Levels:
        """Measure float32[frames, channels], all finite: a whole frame, or a short one before a reset.

        A short frame's last part of a 10 ms step counts for its peaks and RMS and not for its loudness.
        """
        frames = len(samples)
        if not 0 < frames <= self.frame_size:
            raise ValueError(f"a meter frame has 1 to {self.frame_size} frames, not {frames}")
        channels = samples.shape[1]
        rows = self._rows.shaped(channels, frames)
        np.copyto(rows, samples.T)
        wide = self._wide.shaped(channels, frames)
        np.copyto(wide, rows)
        power = np.zeros((4, channels + 1))
        power[0, :-1] = np.square(np.maximum(rows.max(axis=1), -rows.min(axis=1)), dtype=np.float64)
        power[1, :-1] = np.einsum("ij,ij->i", wide, wide) / frames
        power[2, :-1] = np.square(self._true_peak.process(rows), dtype=np.float64)
        power[3, :-1], power[3, -1] = self._loudness_power(wide)
        levels = decibels(power).astype(np.float32)
        return Levels(levels[0, :-1], levels[1, :-1], levels[2, :-1], levels[3, :-1], float(levels[3, -1]))

    def _loudness_power(self, wide: Float64) -> tuple[Float64, float]:
        """The highest K-weighted mean square of the frame's windows, per channel and of the programme.

        The standard's −0.691 dB is already in it.
        """
        steps = wide.shape[1] // self._step
        if steps == 0:
            return np.zeros(len(wide)), 0.0
        past = self._window - 1
        weighted = self._weighting.process(wide[:, : steps * self._step])
        weighted = weighted.reshape(len(wide), steps, self._step)
        self._energy[:, past : past + steps] = np.einsum("ijk,ijk->ij", weighted, weighted)
        sums = self._energy[:, : past + steps] @ self._sum_window[: past + steps, :steps]
        self._energy[:, :past] = self._energy[:, steps : past + steps].copy()
        sums *= _LOUDNESS_FACTOR / (self._window * self._step)
        return sums.max(axis=1), float((self._weights @ sums).max())


def _window_sums(window: int, steps: int) -> Float64:
    """float64[window − 1 + steps, steps]: column *k* adds up the window that ends with step *k*."""
    sums = np.zeros((window - 1 + steps, steps))
    for k in range(steps):
        sums[k : k + window, k] = 1.0
    return sums
