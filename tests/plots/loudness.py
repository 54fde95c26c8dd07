"""Loudness, true peak and correlation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from conformance.programme_material import RATE, speech
from plots.figure import figure
from stagebox_rack.metering.layout import MeterLayout, Programme
from stagebox_rack.metering.meter import Meter

FRAME = RATE // 20
STEREO = Programme("all", (0, 1), (1.0, 1.0))


def speech_loudness(path: Path) -> None:
    """Momentary, short-term and integrated loudness of recorded speech."""
    signal = speech()
    signal = signal[: len(signal) // 2]
    meter = Meter(MeterLayout(RATE, 2, (STEREO,)))
    whole = range(0, len(signal) // FRAME * FRAME, FRAME)
    values = np.array([meter.measure(signal[at : at + FRAME]).programmes[0, :4] for at in whole])
    ends = (np.arange(len(values)) + 1) / 20
    with figure(path, "s", "LUFS") as axes:
        axes.plot(ends, values[:, 0], label="momentary, 400 ms", color="0.7", linewidth=1)
        axes.plot(ends, values[:, 1], label="short-term, 3 s", color="tab:blue")
        axes.plot(ends, values[:, 2], label="integrated, gated", color="tab:red")
        axes.set_title(f"recorded speech: integrated {values[-1, 2]:.1f} LUFS, range {values[-1, 3]:.1f} LU")
        axes.set_ylim(-60, -10)
        axes.legend(loc="lower right")


def true_peak(path: Path) -> None:
    """What sample peak and true peak read of a tone at a quarter of the rate, by where its samples fall."""
    phases = np.linspace(0, 90, 64)
    n = np.arange(RATE)[:, np.newaxis]
    wave = 0.5 * np.sin(2 * np.pi * n / 4 + np.radians(phases))
    meter = Meter(MeterLayout(RATE, 64))
    for at in range(0, RATE, FRAME):
        levels = meter.measure(wave[at : at + FRAME].astype(np.float32))
    with figure(path, "phase of the samples, degrees", "level, dB") as axes:
        axes.axhline(20 * np.log10(0.5), color="0.6", linestyle=":", label="the wave's own peak")
        axes.plot(phases, levels.peak, label="sample peak, dBFS", color="tab:blue")
        axes.plot(phases, levels.true_peak, label="true peak, dBTP", color="tab:red")
        axes.set_title("a 12 kHz tone at 48 kHz")
        axes.legend(loc="lower left")


def correlation(path: Path) -> None:
    """Correlation of a tone with itself turned, and of noise with itself and other noise."""
    turned = np.linspace(0, 180, 16)
    shares = np.linspace(1, 0, 16)
    random = np.random.default_rng(1)
    n = np.arange(2 * RATE)[:, np.newaxis] / RATE
    left = np.broadcast_to(np.sin(2 * np.pi * 440 * n), (len(n), 16))
    right = np.sin(2 * np.pi * 440 * n + np.radians(turned))
    same = random.standard_normal((len(n), 1)) * np.ones(16)
    other = np.sqrt(1 - shares**2) * random.standard_normal((len(n), 16)) + shares * same
    signal = np.concatenate((left, right, 0.1 * same, 0.1 * other), axis=1).astype(np.float32)
    pairs = (*((k, 16 + k) for k in range(16)), *((32 + k, 48 + k) for k in range(16)))
    meter = Meter(MeterLayout(RATE, 64, pairs=pairs))
    for at in range(0, len(signal), FRAME):
        levels = meter.measure(signal[at : at + FRAME])
    with figure(path, "a tone turned by …, degrees", "correlation") as axes:
        axes.plot(
            turned, levels.correlation[:16], "o-", markersize=3, label="tone, right turned", color="tab:blue"
        )
        above = axes.twiny()
        above.set_xlabel("share of the same noise in both channels, %")
        above.plot(
            100 * shares, levels.correlation[16:], "s-", markersize=3, color="tab:orange", label="noise"
        )
        above.invert_xaxis()
        axes.set_ylim(-1.05, 1.05)
        handles = [*axes.get_lines(), *above.get_lines()]
        axes.legend(handles, [line.get_label() for line in handles], loc="lower left")
