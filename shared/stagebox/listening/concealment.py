"""Makes a loss bearable: the last pitch period goes on, fading, until audio comes back. Never taken for signal.

The period is where the recent past correlates best with itself. Its repetition joins the past without a step, and
what is received afterwards is faded in over 5 ms. After 10 ms it fades, after 60 ms it is silence.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stagebox.listening.limits import LISTEN_LIMITS, ListenLimits

Float32 = npt.NDArray[np.float32]


class Concealer:
    """Follows what was played, so that it can go on without more."""

    def __init__(self, channels: int, limits: ListenLimits = LISTEN_LIMITS) -> None:
        self._limits = limits
        self._past: Float32 = np.zeros(
            (limits.conceal_search + limits.conceal_lag_max, channels), dtype=np.float32
        )
        self._period: Float32 = np.empty((0, channels), dtype=np.float32)
        self._offset: Float32 = np.zeros(channels, dtype=np.float32)
        self._concealed = 0

    def received(self, samples: Float32) -> Float32:
        """Take float32[frames, channels] that arrived; after a loss its beginning is faded in over the concealment."""
        if self._concealed:
            fade = min(self._limits.conceal_fade, len(samples))
            rise = np.linspace(0.0, 1.0, fade, dtype=np.float32)[:, np.newaxis]
            samples = samples.copy()
            samples[:fade] = rise * samples[:fade] + (1.0 - rise) * self._go_on(fade)
            self._concealed = 0
        self._remember(samples)
        return samples

    def conceal(self, frames: int) -> Float32:
        """Return float32[frames, channels] in place of what was lost."""
        made = self._go_on(frames)
        self._remember(made)
        return made

    def forget(self) -> None:
        """What comes next does not continue what was played."""
        self._past[...] = 0.0
        self._concealed = 0

    def _go_on(self, frames: int) -> Float32:
        if not self._concealed:
            self._find_period()
        lag = len(self._period)
        at = np.arange(self._concealed, self._concealed + frames)
        made: Float32 = self._period[at % lag].copy()
        decay = np.maximum(0.0, 1.0 - at / self._limits.conceal_fade).astype(np.float32)
        made += decay[:, np.newaxis] * self._offset
        full, silent = self._limits.conceal_full, self._limits.conceal_silent
        gain = np.clip((silent - at) / (silent - full), 0.0, 1.0).astype(np.float32)
        made *= gain[:, np.newaxis]
        self._concealed += frames
        return made

    def _find_period(self) -> None:
        limits = self._limits
        mono = self._past.mean(axis=1, dtype=np.float64)
        recent = mono[-limits.conceal_search :]
        lags = np.arange(limits.conceal_lag_min, limits.conceal_lag_max + 1)
        windows = np.lib.stride_tricks.sliding_window_view(mono, limits.conceal_search)[
            len(mono) - limits.conceal_search - lags
        ]
        energy = np.einsum("ij,ij->i", windows, windows)
        likeness = (windows @ recent) / np.sqrt(energy + 1e-12)
        best = int(likeness.argmax())
        lag = int(lags[best]) if likeness[best] > 0 else limits.conceal_lag_max
        self._period = self._past[-lag:].copy()
        expected = 2.0 * self._past[-1] - self._past[-2]
        step = expected - self._period[0]
        limit = np.abs(self._past[-lag:]).max(axis=0)
        self._offset = np.clip(step, -limit, limit).astype(np.float32)

    def _remember(self, samples: Float32) -> None:
        keep = len(self._past)
        if len(samples) >= keep:
            self._past = samples[-keep:].copy()
        else:
            self._past = np.concatenate((self._past[len(samples) :], samples))
