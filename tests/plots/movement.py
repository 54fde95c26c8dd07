"""How the meters move: one burst on all of them, and what bursts of any length read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from conformance.ballistics_cases import BURSTS, LEVEL_DBFS, Burst, burst_readings, frames_of
from plots.figure import figure

RATE = 48_000
FRAMES_PER_S = 50
NAMES = {"ppm1": "PPM type I", "ppm2": "PPM type II", "vu": "VU"}
COLOURS = {"peak": "0.55", "rms": "tab:brown", "ppm1": "tab:red", "ppm2": "tab:orange", "vu": "tab:blue"}


def one_burst(path: Path) -> None:
    """A burst of 200 ms as every level meter shows it."""
    n = np.arange(2 * RATE) / RATE
    wave = np.where((n >= 0.2) & (n < 0.4), 10 ** (LEVEL_DBFS / 20) * np.sin(2 * np.pi * 997 * n), 0.0)
    levels = frames_of(wave[:, np.newaxis].astype(np.float32), RATE, FRAMES_PER_S)
    ends = np.arange(1, len(levels) + 1) / FRAMES_PER_S
    with figure(path, "s", "dBFS") as axes:
        axes.axvspan(0.2, 0.4, color="0.92")
        for field, name in {"peak": "sample peak", "rms": "RMS", **NAMES}.items():
            values = [float(getattr(entry, field)[0]) for entry in levels]
            axes.step(ends, values, where="pre", label=name, color=COLOURS[field])
        axes.set_ylim(-45, 0)
        axes.legend(loc="upper right")


def burst_lengths(path: Path) -> None:
    """What a burst reads by its length, with the published figures and their tolerances."""
    lengths = np.geomspace(0.3, 1000, 28)
    with figure(path, "length of the burst, ms", "reading below the tone held, dB") as axes:
        for field, name in NAMES.items():
            values = [max(burst_readings(Burst(field, float(ms), 0, 0), RATE)) for ms in lengths if ms < 400]
            axes.plot(lengths[: len(values)], values, label=name, color=COLOURS[field])
        for burst in BURSTS:
            axes.errorbar(
                burst.ms,
                burst.expected,
                burst.tolerance,
                fmt="o",
                capsize=3,
                markersize=4,
                color=COLOURS[burst.field],
            )
        axes.set_xscale("log")
        axes.set_ylim(-25, 1)
        axes.legend(loc="lower right")
