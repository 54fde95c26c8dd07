"""Tone bursts, steady tones and steps for PPM (IEC 60268-10) and VU (IEC 60268-17), and what they must read.

The figures are those commonly published of the standards' tables. Every burst is measured at several positions within a
sub-block and a frame; all of them are channels of one meter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stagebox_rack.metering.layout import MeterLayout
from stagebox_rack.metering.levels import Levels
from stagebox_rack.metering.meter import Meter

RATES = (44_100, 48_000, 96_000)
BURST_HZ = 5_000.0
LEVEL_DBFS = -6.0
STARTS_MS = (100.0, 100.07, 100.13, 100.19, 133.3, 149.9, 150.01, 171.7)

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Burst:
    """A burst of ``ms`` reads ``expected`` dB below the same tone held, ± ``tolerance``."""

    field: str
    ms: float
    expected: float
    tolerance: float


BURSTS = (
    Burst("ppm1", 10.0, -1.0, 0.5),
    Burst("ppm1", 5.0, -2.0, 1.0),
    Burst("ppm1", 3.0, -4.0, 1.0),
    Burst("ppm1", 0.4, -15.0, 4.0),
    Burst("ppm2", 100.0, 0.0, 0.5),
    Burst("ppm2", 10.0, -2.25, 0.5),
    Burst("ppm2", 5.0, -4.0, 0.75),
    Burst("ppm2", 1.5, -9.0, 1.0),
    Burst("ppm2", 0.5, -17.0, 2.0),
)


@dataclass(frozen=True)
class Return:
    """After a tone the meter falls ``db`` in ``seconds`` ± ``tolerance``."""

    field: str
    db: float
    seconds: float
    tolerance: float


RETURNS = (Return("ppm1", 20.0, 1.7, 0.3), Return("ppm2", 24.0, 2.8, 0.3))
FREQUENCIES = (31.5, 40.0, 63.0, 125.0, 250.0, 500.0, 997.0, 2_000.0, 5_000.0, 10_000.0, 15_937.0)
"""The highest is not a simple fraction of the sample rates: a tone locked to them shows the same few points of its wave
for ever, and one at a third of the rate reads 1.2 dB low."""
FLAT_DB = 0.5
"""How far a steady tone's reading may be from its level, 31.5 Hz to 16 kHz."""
VU_RISE_S, VU_RISE_TOLERANCE = 0.3, 0.03
VU_OVERSHOOT = (1.0, 1.5)  # per cent


def frames_of(signal: Float32, rate: int, frames_per_second: int = 20) -> list[Levels]:
    """Measure float32[samples, channels] in frames, as a rack does."""
    meter = Meter(MeterLayout(rate, signal.shape[1], frames_per_second=frames_per_second))
    levels, at = [], 0
    while at + meter.next_frame_size <= len(signal):
        size = meter.next_frame_size
        levels.append(meter.measure(signal[at : at + size]))
        at += size
    return levels


def burst_readings(burst: Burst, rate: int) -> list[float]:
    """What a burst reads at each start, dB below the tone held."""
    n = np.arange(round(0.6 * rate))[:, np.newaxis] / rate
    starts = np.array(STARTS_MS) / 1000
    inside = (n >= starts) & (n < starts + burst.ms / 1000)
    wave = 10 ** (LEVEL_DBFS / 20) * np.sin(2 * np.pi * BURST_HZ * (n - starts)) * inside
    read = np.max(
        [getattr(levels, burst.field) for levels in frames_of(wave.astype(np.float32), rate)], axis=0
    )
    return [float(value) - LEVEL_DBFS for value in read]


def return_time(case: Return, rate: int) -> float:
    """Seconds until the reading has fallen by ``case.db`` after a tone of a second."""
    n = np.arange(round(6 * rate)) / rate
    wave = np.where(n < 1.0, 10 ** (LEVEL_DBFS / 20) * np.sin(2 * np.pi * 997 * n), 0.0)
    levels = frames_of(wave[:, np.newaxis].astype(np.float32), rate, 50)
    values = np.array([getattr(entry, case.field)[0] for entry in levels])
    # A frame shows its highest reading: that of its beginning while the meter falls.
    begins = np.arange(len(values)) / 50
    falling = begins >= 1.0
    reached = np.interp(-(LEVEL_DBFS - case.db), -values[falling], begins[falling])
    return float(reached - 1.0)


def steady_readings(field: str, rate: int) -> dict[float, float]:
    """What a steady tone reads at each frequency, dB from its level."""
    n = np.arange(2 * rate)[:, np.newaxis] / rate
    wave = 10 ** (LEVEL_DBFS / 20) * np.sin(2 * np.pi * np.array(FREQUENCIES) * n)
    last = frames_of(wave.astype(np.float32), rate)[-1]
    return {
        hz: float(value) - LEVEL_DBFS for hz, value in zip(FREQUENCIES, getattr(last, field), strict=True)
    }


def vu_step(rate: int) -> tuple[float, float]:
    """Seconds until 99 % of a tone that begins at 0, and the overshoot in per cent."""
    n = np.arange(2 * rate) / rate
    wave = 10 ** (LEVEL_DBFS / 20) * np.sin(2 * np.pi * 5_000 * n)
    starts: Sequence[int] = range(0, rate // 50, rate // 1000)  # 20 channels, a millisecond apart
    signal = np.stack(
        [np.concatenate((np.zeros(start), wave[: len(wave) - start])) for start in starts], axis=1
    )
    levels = frames_of(signal.astype(np.float32), rate, 50)
    deflection = np.array([10 ** ((entry.vu.astype(np.float64) - LEVEL_DBFS) / 20) for entry in levels])
    ends = np.arange(1, len(levels) + 1) / 50
    times = (ends[:, np.newaxis] - np.array(starts) / rate).ravel()
    order = np.argsort(times)
    curve = deflection.ravel()[order]
    rise = float(times[order][np.argmax(curve >= 0.99)])
    return rise, float(100 * (curve.max() - 1.0))
