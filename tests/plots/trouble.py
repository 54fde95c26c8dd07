"""When a condition is raised and when it ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from conformance.programme_material import RATE, Float32, speech
from plots.figure import figure
from stagebox.records.meter import Condition
from stagebox_rack.metering.conditions import Conditions, ConditionSettings
from stagebox_rack.metering.layout import MeterLayout
from stagebox_rack.metering.meter import Meter

FRAME = RATE // 20


def _flags(signal: Float32) -> tuple[list[float], list[int]]:
    """RMS and flags of the first channel, frame by frame."""
    layout = MeterLayout(RATE, signal.shape[1])
    meter, conditions = Meter(layout), Conditions(layout, ConditionSettings())
    levels, flags = [], []
    for at in range(0, len(signal) // FRAME * FRAME, FRAME):
        measured = meter.measure(signal[at : at + FRAME])
        found, _ = conditions.observe(meter.rows, measured, at)
        levels.append(float(measured.rms[0]))
        flags.append(int(found[0]))
    return levels, flags


def hysteresis(path: Path) -> None:
    """Silence with its two thresholds and its two times."""
    rule = ConditionSettings().silence
    n = np.arange(45 * RATE) / RATE
    corners = (
        (0, -42),
        (3, -42),
        (5, -67),
        (8, -67),
        (10, -50),
        (18, -50),
        (19, -67),
        (31, -67),
        (32, -57),
        (37, -57),
    )
    times, points = zip(*corners, (38, -45), (45, -45), strict=True)
    level = np.interp(n, times, points)
    level += 2 * np.sin(2 * np.pi * 0.9 * n)
    noise = np.random.default_rng(2).standard_normal(len(level))
    levels, flags = _flags((10 ** (level / 20) * noise)[:, np.newaxis].astype(np.float32))
    ends = (np.arange(len(levels)) + 1) / 20
    raised = np.array([bool(flag & Condition.SILENCE) for flag in flags])
    with figure(path, "s", "RMS, dBFS") as axes:
        axes.plot(ends, levels, color="0.4", linewidth=0.9, label="level")
        axes.axhline(rule.raise_db, color="tab:red", linestyle="--", label=f"raise_db {rule.raise_db:g}")
        axes.axhline(rule.clear_db, color="tab:green", linestyle="--", label=f"clear_db {rule.clear_db:g}")
        axes.fill_between(ends, -80, -35, where=raised, color="tab:red", alpha=0.15, label="silence")
        axes.set_ylim(-80, -35)
        axes.set_title(f"raised after {rule.hold_s:g} s below, ended after {rule.recover_s:g} s above")
        axes.legend(loc="upper center", ncols=4)


def hum(path: Path) -> None:
    """Recorded speech, recorded low, with mains hum coming up under it."""
    voice = 0.1 * speech()[:, 0]
    voice = np.tile(voice, 2)[: 40 * RATE]
    n = np.arange(len(voice)) / RATE
    level = np.interp(n, [0, 5, 25, 30, 40], [-90, -90, -35, -90, -90])
    mains = sum(share * np.sin(2 * np.pi * 50 * k * n + k) for k, share in ((1, 1.0), (2, 0.4), (3, 0.6)))
    signal = voice + 10 ** (level / 20) * mains
    levels, flags = _flags(signal[:, np.newaxis].astype(np.float32))
    ends = (np.arange(len(levels)) + 1) / 20
    raised = np.array([bool(flag & Condition.HUM) for flag in flags])
    with figure(path, "s", "dBFS") as axes:
        axes.plot(ends, levels, color="0.6", linewidth=0.8, label="RMS of the speech with the hum")
        axes.plot(n[:: RATE // 20], level[:: RATE // 20], color="tab:purple", label="peak of its 50 Hz line")
        axes.fill_between(ends, -95, 0, where=raised, color="tab:red", alpha=0.15, label="hum raised")
        axes.set_ylim(-95, 0)
        axes.legend(loc="lower center", ncols=3)
