"""The noise-event classifier once more, in numpy, from its description."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

OCTAVES = 10.0 ** (0.3 * (np.arange(10) - 4.5)) * 1000.0
SILENT = 1e-15
LEARN_S, FOLLOW_S, HOLD = 0.5, 2.0, 3

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """The module's parameters and their defaults."""

    rise: float = 12.0
    fall: float = 6.0
    lowest: float = -70.0
    flux: float = 0.3
    impulse: float = 150.0
    tonal: float = 0.1
    longest: float = 10.0


@dataclass
class Event:
    """One event while it is on; positions are sample indices."""

    onset: int
    flux: float
    peak: float = 0.0
    peak_at: int = 0
    last: int = 0
    top: float = 0.0
    hz: float = 0.0
    quiet: int = 0
    powers: list[float] = field(default_factory=list)
    flatnesses: list[float] = field(default_factory=list)
    octaves: list[Float64] = field(default_factory=list)


def decibels(power: float) -> float:
    """Return a mean square in dBFS, −150 at least."""
    return 10 * math.log10(max(power, SILENT))


class Spectrum:
    """Power spectra of windows, and the flux from one to the next."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.size = 64
        while self.size < rate / 50 and self.size < 4096:
            self.size *= 2
        self.window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.size) / self.size)
        self.hz = np.arange(self.size // 2 + 1) * rate / self.size
        self.flat = (self.hz >= 100.0) & (self.hz < 10_000.0)
        self.before = np.zeros(self.size // 2 + 1)

    def measure(self, samples: Float32) -> tuple[Float64, float, float]:
        """Return (power of each bin, flux, flatness)."""
        wide = samples.astype(np.float64)
        power = np.abs(np.fft.rfft((wide - wide.mean()) * self.window)) ** 2
        power *= 2 / (self.size * np.sum(self.window**2))
        power[-1] /= 2
        power[0] = 0.0
        magnitude = np.sqrt(power)
        both = float(np.sum(magnitude + self.before))
        flux = float(np.sum(np.maximum(magnitude - self.before, 0))) / both if both > 0 else 0.0
        self.before = magnitude
        chosen = power[self.flat] + 1e-20
        return power, flux, float(np.exp(np.mean(np.log(chosen))) / np.mean(chosen))

    def strongest(self, power: Float64) -> float:
        """Return the strongest frequency in Hz."""
        top = 1 + int(np.argmax(power[1:-1]))
        left, here, right = 10 * np.log10(power[top - 1 : top + 2] + 1e-20)
        bend = left - 2 * here + right
        return float((top + (0.5 * (left - right) / bend if bend < 0 else 0.0)) * self.rate / self.size)

    def octaves(self, power: Float64) -> Float64:
        """Return the power in the octaves of 63 Hz to 16 kHz."""
        return np.array(
            [power[(self.hz >= low) & (self.hz < high)].sum() for low, high in itertools.pairwise(OCTAVES)]
        )


class Classifier:
    """Events of one channel, from the first sample on."""

    def __init__(self, rate: int, settings: Settings | None = None) -> None:
        self.rate = rate
        self.set = settings or Settings()
        self.spectrum = Spectrum(rate)
        self.background, self.last_flux = 0.0, 0.0
        self.event: Event | None = None
        self.found: list[dict[str, Any]] = []

    def run(self, signal: Float32) -> list[dict[str, Any]]:
        """Return the events of float32[frames], with ``onset`` and ``peak_at`` as sample indices."""
        size, half = self.spectrum.size, self.spectrum.size // 2
        heard = np.concatenate([np.zeros(half, np.float32), signal])
        learning, follow = int(LEARN_S * self.rate / half), 1 - math.exp(-half / (FOLLOW_S * self.rate))
        for number, at in enumerate(range(0, len(heard) - size + 1, half)):
            samples = heard[at : at + size]
            power, flux, flatness = self.spectrum.measure(samples)
            total = float(power.sum())
            if number < learning:
                self.background += (total - self.background) / (number + 1)
            else:
                above = decibels(total) - decibels(self.background)
                if self.event is not None:
                    self._go_on(samples, at - half, power, flux, flatness, above)
                elif (
                    above >= self.set.rise
                    and decibels(total) >= self.set.lowest
                    and max(flux, self.last_flux) >= self.set.flux
                ):
                    first = int(np.argmax(np.abs(samples) >= np.abs(samples).max() / 2))
                    self.event = Event(at - half + first, self.last_flux)
                    self._gather(self.event, samples, at - half, power, flux, flatness)
                else:
                    self.background += (total - self.background) * follow
            self.last_flux = flux
        return self.found

    def _gather(
        self, event: Event, samples: Float32, at: int, power: Float64, flux: float, flatness: float
    ) -> None:
        magnitude, total = np.abs(samples), float(power.sum())
        top = magnitude.max()
        event.last = at + int(np.flatnonzero(magnitude >= top / 2)[-1])
        if top > event.peak:
            event.peak, event.peak_at = float(top), at + int(np.argmax(magnitude))
        if total > event.top:
            event.top, event.hz = total, self.spectrum.strongest(power)
        event.flux = max(event.flux, flux)
        event.powers.append(total)
        event.flatnesses.append(flatness)
        event.octaves.append(self.spectrum.octaves(power))

    def _go_on(
        self, samples: Float32, at: int, power: Float64, flux: float, flatness: float, above: float
    ) -> None:
        event = self.event
        assert event is not None
        if above >= min(self.set.fall, self.set.rise):
            event.quiet = 0
            self._gather(event, samples, at, power, flux, flatness)
            if event.last - event.onset >= self.set.longest * self.rate:
                self._tell(event, cut=True)
                self.background = float(power.sum())
        else:
            event.quiet += 1
            if event.quiet >= HOLD:
                self._tell(event, cut=False)

    def _tell(self, event: Event, *, cut: bool) -> None:
        flatness = float(np.average(event.flatnesses, weights=event.powers))
        frames = event.last - event.onset + 1
        if flatness < self.set.tonal:
            kind = "tonal"
        else:
            kind = "impulsive" if frames * 1000 <= self.set.impulse * self.rate else "broadband"
        self.found.append(
            {
                "class": kind,
                "onset": event.onset,
                "peak_at": event.peak_at,
                "frames": frames,
                "peak": decibels(event.peak**2),
                "level": decibels(event.top),
                "background": decibels(self.background),
                "flux": event.flux,
                "flatness": flatness,
                "hz": event.hz,
                "cut": cut,
                "octaves": [decibels(float(value)) for value in np.mean(event.octaves, axis=0)],
            }
        )
        self.event = None
